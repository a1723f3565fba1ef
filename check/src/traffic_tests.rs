use super::*;

fn bounds() -> BTreeMap<String, Bounds> {
    let bounds = Bounds {
        slack_ms: 100,
        max_ejection_percent: 50,
        panic_percent: 50,
        limits: Taken {
            connections: 2,
            pending: 3,
            requests: 5,
            retries: 1,
        },
        retry_budget_percent: 0,
        retries_per_request: 2,
    };
    BTreeMap::from([("c".to_owned(), bounds)])
}

/// Hosts by name; a capital letter is ejected.
fn sample(at_ms: u64, hosts: &str, next_sweep_ns: u64) -> Sample {
    let host = |name: char| Host {
        name: name.to_ascii_lowercase().to_string(),
        ejected: name.is_ascii_uppercase(),
    };
    Sample {
        at_ms,
        proxy: 1,
        cluster: "c".into(),
        configuration: 0,
        hosts: hosts.chars().map(host).collect(),
        next_sweep_ns,
        taken: Taken::default(),
        connected_hosts: 0,
        dangling: None,
    }
}

fn arrival(at_ms: u64, request: u64, attempt: u32, host: &str) -> Arrival {
    Arrival {
        at_ms,
        proxy: 1,
        cluster: "c".into(),
        request,
        attempt,
        host: host.into(),
        cut: false,
    }
}

fn request(id: u64, ending: Ending) -> Request {
    Request {
        id,
        proxy: 1,
        cluster: "c".into(),
        began_ms: 500,
        ended_ms: 600,
        ending,
    }
}

fn found(samples: Vec<Sample>, arrivals: Vec<Arrival>, requests: Vec<Request>) -> Vec<Violation> {
    let traffic = Traffic {
        requests,
        arrivals,
        samples,
    };
    check(&traffic, &bounds())
}

#[test]
fn one_answer_each() {
    let answered = || Ending::Answered {
        status: 503,
        body: String::new(),
    };
    assert_eq!(found(vec![], vec![], vec![request(1, answered())]), []);
    for ending in [
        Ending::Closed,
        Ending::Silence,
        Ending::Surplus,
        Ending::Broken,
    ] {
        let requests = vec![request(1, answered()), request(2, ending.clone())];
        assert_eq!(
            found(vec![], vec![], requests),
            [Violation::NotOneAnswer { id: 2, ending }]
        );
    }
    let cut = Arrival {
        cut: true,
        ..arrival(550, 2, 1, "a")
    };
    assert_eq!(
        found(vec![], vec![cut], vec![request(2, Ending::Broken)]),
        []
    );
}

#[test]
fn ejected_hosts_get_what_was_chosen_before_and_what_panic_allows() {
    let samples = || vec![sample(0, "abc", 1), sample(1000, "Abc", 1)];
    assert_eq!(found(samples(), vec![arrival(1050, 1, 1, "a")], vec![]), []);
    assert!(matches!(
        found(samples(), vec![arrival(1200, 1, 1, "a")], vec![])[..],
        [Violation::ToEjected { since_ms: 1000, .. }]
    ));
    assert_eq!(found(samples(), vec![arrival(1200, 1, 1, "b")], vec![]), []);
    let panic = vec![sample(0, "AbC", 1)];
    assert_eq!(found(panic, vec![arrival(1200, 1, 1, "a")], vec![]), []);
}

#[test]
fn removed_hosts_get_nothing() {
    let samples = || vec![sample(0, "abc", 1), sample(1000, "bc", 1)];
    assert_eq!(found(samples(), vec![arrival(1100, 1, 1, "a")], vec![]), []);
    assert!(matches!(
        found(samples(), vec![arrival(1101, 1, 1, "a")], vec![])[..],
        [Violation::ToUnknown { .. }]
    ));
}

#[test]
fn ejections_keep_to_the_cap_and_end_at_sweeps() {
    let fine = vec![
        sample(0, "abcd", 1),
        sample(1, "ABcd", 1),
        sample(2, "abcd", 2),
    ];
    assert_eq!(found(fine, vec![], vec![]), []);
    let over = vec![sample(0, "abcd", 1), sample(1, "ABCd", 1)];
    assert!(matches!(
        found(over, vec![], vec![])[..],
        [Violation::OverCap {
            ejected: 3,
            hosts: 4,
            ..
        }]
    ));
    // Fewer hosts make a larger share of what is ejected already.
    let fewer = Sample {
        configuration: 1,
        ..sample(1, "ABc", 1)
    };
    let shrunk = vec![sample(0, "ABcd", 1), fewer];
    assert_eq!(found(shrunk, vec![], vec![]), []);
    let between = vec![sample(0, "Abcd", 1), sample(1, "abcd", 1)];
    assert!(matches!(
        found(between, vec![], vec![])[..],
        [Violation::BetweenSweeps { .. }]
    ));
}

#[test]
fn limits_hold() {
    let with = |taken: Taken, connected_hosts: u32| Sample {
        taken,
        connected_hosts,
        ..sample(0, "ab", 1)
    };
    let connections = |connections| Taken {
        connections,
        ..Taken::default()
    };
    assert_eq!(found(vec![with(connections(4), 2)], vec![], vec![]), []);
    assert!(matches!(
        found(vec![with(connections(5), 2)], vec![], vec![])[..],
        [Violation::OverLimit {
            what: "connections",
            ..
        }]
    ));
    let retries = Taken {
        retries: 2,
        ..Taken::default()
    };
    assert!(matches!(
        found(vec![with(retries, 0)], vec![], vec![])[..],
        [Violation::OverLimit {
            what: "retries",
            ..
        }]
    ));
}

#[test]
fn retries_go_elsewhere_and_end() {
    let samples = || vec![sample(0, "abc", 1)];
    let to = |hosts: &[(u32, &str)]| {
        let arrivals = hosts.iter().zip(1000..);
        arrivals
            .map(|((attempt, host), at_ms)| arrival(at_ms, 1, *attempt, host))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        found(samples(), to(&[(1, "a"), (2, "b"), (3, "c")]), vec![]),
        []
    );
    assert!(matches!(
        found(samples(), to(&[(1, "a"), (2, "a")]), vec![])[..],
        [Violation::SameHost { attempt: 2, .. }]
    ));
    // The second never arrived, perhaps at b; c is left for the third.
    assert!(matches!(
        found(samples(), to(&[(1, "a"), (3, "a")]), vec![])[..],
        [Violation::SameHost { .. }]
    ));
    let ejected = vec![sample(0, "abC", 1)];
    assert_eq!(found(ejected, to(&[(1, "a"), (3, "a")]), vec![]), []);
    assert!(matches!(
        found(
            samples(),
            to(&[(1, "a"), (2, "b"), (3, "c"), (4, "a")]),
            vec![]
        )[..],
        [Violation::Amplified { attempts: 4, .. }]
    ));
}

#[test]
fn panic_finds_a_host() {
    let none = || Ending::Answered {
        status: 503,
        body: NO_HOST.into(),
    };
    let samples = vec![sample(0, "AbC", 1)];
    assert!(matches!(
        found(samples, vec![], vec![request(1, none())])[..],
        [Violation::NoHost { hosts: 3, .. }]
    ));
    assert_eq!(
        found(vec![sample(0, "", 1)], vec![], vec![request(1, none())]),
        []
    );
}

#[test]
fn configuration_is_whole() {
    let half = Sample {
        dangling: Some("green".into()),
        ..sample(0, "a", 1)
    };
    assert!(matches!(
        found(vec![half], vec![], vec![])[..],
        [Violation::HalfApplied { .. }]
    ));
}

#[test]
fn rest_is_rest() {
    let quiet = Sample {
        taken: Taken {
            connections: 3,
            ..Taken::default()
        },
        ..sample(0, "ab", 1)
    };
    assert_eq!(check_rest([&quiet], 9), []);
    let leaked = Sample {
        taken: Taken {
            pending: 1,
            ..Taken::default()
        },
        ..sample(0, "Ab", 1)
    };
    assert!(matches!(
        check_rest([&leaked], 9)[..],
        [
            Violation::NotGivenBack { .. },
            Violation::NotReturned { .. }
        ]
    ));
}
