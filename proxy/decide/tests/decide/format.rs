//! Format strings.

use trireme_proxy_decide::flags::Flags;
use trireme_proxy_decide::format::{DEFAULT_ACCESS_LOG, Format, StreamFacts};
use trireme_proxy_decide::head::RequestHead;

#[test]
fn operators_render_as_envoys() {
    let mut head = RequestHead::get("reviews:9080", "/a/b?c=d").expect("valid");
    head.headers.insert("x-user", "ann".parse().expect("valid"));
    let facts = StreamFacts {
        request: Some(&head),
        response_code: Some(503),
        flags: Flags::UPSTREAM_OVERFLOW | Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
        start_unix_nanos: 1_700_000_000_123_456_789,
        downstream_remote_address: Some(([10, 0, 0, 1], 5).into()),
        ..StreamFacts::default()
    };
    for (format, expected) in [
        ("%REQ(X-USER)%", "ann"),
        ("%REQ(x-none?x-user):2%", "an"),
        ("%REQ(:authority)%%REQ(:path)%", "reviews:9080/a/b?c=d"),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/a/b"),
        ("100%%", "100%"),
        ("[%RESPONSE_CODE%] %RESPONSE_FLAGS%", "[503] UO,URX"),
        (
            "%RESPONSE_FLAGS_LONG%",
            "UpstreamOverflow,UpstreamRetryLimitExceeded",
        ),
        ("%START_TIME%", "2023-11-14T22:13:20.123Z"),
        (
            "%START_TIME(%Y/%m/%d %s %6f)%",
            "2023/11/14 1700000000 123456",
        ),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.1:5"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1"),
        ("a-%REQ(nope)%-b", "a--b"),
    ] {
        assert_eq!(
            Format::parse(format).expect(format).render(&facts),
            expected
        );
    }
    let mut out = String::new();
    Format::parse(DEFAULT_ACCESS_LOG)
        .expect("the default format")
        .write(&facts, "-", &mut out);
    assert_eq!(
        out,
        "[2023-11-14T22:13:20.123Z] \"GET /a/b?c=d -\" 503 UO,URX 0 0 - - \"-\" \"-\" \"-\" \
         \"reviews:9080\" \"-\"\n"
    );
}

#[test]
fn what_is_no_format_is_refused() {
    for text in ["%", "%REQ%", "%REQ(a", "%NOPE%", "%REQ(a):x%", "%DURATION"] {
        assert!(Format::parse(text).is_err(), "{text}");
    }
}
