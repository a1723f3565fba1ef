//! Local rate limits: continuous refill, descriptors, headers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::config::{
    Descriptor, DescriptorAction, DescriptorEntry, Fraction, LocalRateLimit, RateLimit, TokenBucket,
};
use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::ratelimit::{LimitState, Standing, descriptors};

fn bucket(max_tokens: u32, tokens_per_fill: u32, secs: u64) -> TokenBucket {
    TokenBucket {
        max_tokens,
        tokens_per_fill,
        fill_interval: Duration::from_secs(secs),
    }
}

pub fn limit(bucket: TokenBucket) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: Arc::from("test"),
        bucket: Some(bucket),
        enabled: Fraction::ALL,
        enforced: Fraction::ALL,
        status: 429,
        rate_limited_as_resource_exhausted: false,
        response_headers_to_add: Vec::new(),
        request_headers_to_add: Vec::new(),
        descriptors: Vec::new(),
        stage: 0,
        per_connection: false,
        always_consume_default_bucket: true,
        ratelimit_headers: false,
        rate_limits: Vec::new(),
        state: LimitState::default(),
    }
}

fn entry(key: &str, value: &str) -> DescriptorEntry {
    DescriptorEntry {
        key: Arc::from(key),
        value: Arc::from(value),
    }
}

#[test]
fn buckets_refill_continuously() {
    let limit = limit(bucket(2, 1, 10));
    let take = |millis: u64| limit.state.take(&limit, &[], Nanos::from_millis(millis));
    assert!(take(0).allowed);
    assert_eq!(
        take(0).standing,
        Some(Standing {
            limit: 2,
            remaining: 0,
            reset_secs: 10
        })
    );
    assert!(!take(9_999).allowed);
    assert!(take(10_000).allowed);
    assert!(!take(15_000).allowed);
    assert!(take(20_000).allowed);
}

#[test]
fn descriptors_have_buckets_of_their_own() {
    let mut limit = limit(bucket(100, 100, 1));
    limit.descriptors = vec![
        Descriptor {
            entries: vec![entry("path", "/a")],
            bucket: bucket(1, 1, 60),
        },
        Descriptor {
            entries: vec![entry("user", "")],
            bucket: bucket(2, 1, 60),
        },
    ];
    let take = |entries: Vec<DescriptorEntry>| {
        limit
            .state
            .take(&limit, &[entries], Nanos::from_secs(100))
            .allowed
    };
    assert!(take(vec![entry("path", "/a")]));
    assert!(!take(vec![entry("path", "/a")]));
    assert!(take(vec![entry("path", "/b")]));
    // A wildcard has a bucket for each value.
    for user in ["ann", "bob"] {
        assert!(take(vec![entry("user", user)]));
        assert!(take(vec![entry("user", user)]));
        assert!(!take(vec![entry("user", user)]));
    }
}

#[test]
fn actions_make_descriptors() {
    let mut head = RequestHead::get("host", "/p?x=1").expect("valid");
    let remote = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    let limits = vec![
        RateLimit {
            stage: 0,
            actions: vec![
                DescriptorAction::GenericKey {
                    key: Arc::from("generic_key"),
                    value: Arc::from("g"),
                },
                DescriptorAction::MaskedRemoteAddress {
                    v4_bits: 16,
                    v6_bits: 64,
                },
                DescriptorAction::RequestHeader {
                    header: Arc::from("x-user"),
                    key: Arc::from("user"),
                    skip_if_absent: false,
                },
            ],
        },
        RateLimit {
            stage: 1,
            actions: vec![DescriptorAction::RemoteAddress],
        },
    ];
    let make =
        |head: &RequestHead, stage| descriptors(&limits, stage, head, remote, "cluster", "own");
    assert!(make(&head, 0).is_empty());
    head.headers.insert("x-user", "ann".parse().expect("valid"));
    assert_eq!(
        make(&head, 0),
        [[
            entry("generic_key", "g"),
            entry("masked_remote_address", "10.1.0.0/16"),
            entry("user", "ann"),
        ]]
    );
    assert_eq!(make(&head, 1), [[entry("remote_address", "10.1.2.3")]]);
}

proptest! {
    /// Over any time no more pass than the bucket held and gained.
    #[test]
    fn a_bucket_passes_no_more_than_it_has(
        max in 1u32..20,
        fill in 1u32..20,
        secs in 1u64..10,
        gaps in prop::collection::vec(0u64..3_000, 1..300),
    ) {
        let limit = limit(bucket(max, fill, secs));
        let mut now = 0;
        let mut passed = 0u64;
        for gap in gaps {
            now += gap;
            if limit.state.take(&limit, &[], Nanos::from_millis(now)).allowed {
                passed += 1;
            }
            let gained = now as f64 / 1000.0 * f64::from(fill) / secs as f64;
            prop_assert!(passed as f64 <= f64::from(max) + gained + 1e-6);
        }
    }
}
