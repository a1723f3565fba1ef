//! What else the proxy reads: the first bytes of a connection, and its configuration.

use trireme_proxy::client_hello::{MAX_BYTES, Peeked, peek};
use trireme_proxy::detect::{Detected, http, is_tls};
use trireme_proxy::xds::Known;
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::config::Snapshot;
use trireme_proxy_decide::upstream::Live;
use trireme_xds::pb::google::protobuf::Any;
use trireme_xds::{Kind, parse};

/// Any bytes give an answer, no prefix asks for more than the limit, and what was seen of a prefix stays.
pub fn client_hello(bytes: &[u8]) {
    let answer = peek(bytes);
    assert!(answer != Peeked::Incomplete || bytes.len() < MAX_BYTES);
    // Every prefix would take quadratic time.
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let early = peek(&bytes[..cut]);
        assert!(early == Peeked::Incomplete || early == answer);
    }
}

/// A decision stands, whatever follows.
pub fn detect(bytes: &[u8]) {
    for judge in [http, is_tls] {
        let whole = judge(bytes);
        for cut in 0..bytes.len() {
            let early = judge(&bytes[..cut]);
            assert!(early == Detected::Undecided || early == whole);
        }
    }
}

/// A resource is refused, or can be put in force. The first byte says of which kind it is.
pub fn xds(bytes: &[u8]) {
    const KINDS: [Kind; 5] = [
        Kind::Cluster,
        Kind::Endpoint,
        Kind::Listener,
        Kind::Route,
        Kind::Secret,
    ];
    let Some((kind, value)) = bytes.split_first() else {
        return;
    };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let any = Any {
        type_url: kind.type_url().to_owned(),
        value: value.to_vec(),
    };
    let Ok(parsed) = parse::resource(&any) else {
        return;
    };
    let mut known = Known::default();
    known.put(parsed);
    let snapshot = Snapshot::default().with(&known.update(&Snapshot::default()));
    let live = Live::default().update(snapshot.clone(), Nanos(0));
    // And again over itself, as a changed resource would be.
    let _ = live.update(snapshot, Nanos(1));
}
