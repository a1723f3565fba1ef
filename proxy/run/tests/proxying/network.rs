//! The real network's own parts.

use std::net::SocketAddr;

use trireme_proxy::net::{ConnectOptions, ListenOptions, Net as _, System};

use super::support::run;

#[test]
fn listens_on_both_families_where_connections_are_redirected() {
    run(async {
        let options = ListenOptions {
            original_destination: true,
            transparent: false,
        };
        let listener = System
            .listen(SocketAddr::from(([0, 0, 0, 0], 0)), options)
            .await
            .expect("listen");
        let port = listener.local().expect("address").port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let (accepted, connected) = tokio::join!(
            listener.accept(),
            System.connect(address, ConnectOptions::default())
        );
        connected.expect("connected");
        let accepted = accepted.expect("accepted");
        // Not as ::ffff:127.0.0.1, and nothing redirected it.
        assert_eq!(
            (accepted.local, accepted.original),
            (address, Some(address))
        );
        assert!(accepted.peer.is_ipv4());
    });
}

#[test]
fn resolves_names() {
    run(async {
        let resolved = System.resolve("localhost").await.expect("resolved");
        assert!(
            resolved
                .addresses
                .iter()
                .all(|address| address.is_loopback()),
            "{resolved:?}"
        );
        assert!(System.resolve("no-such-name.invalid").await.is_err());
    });
}
