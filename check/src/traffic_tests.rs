use super::*;

fn bounds() -> BTreeMap<String, Bounds> {
    let bounds = Bounds {
        wait_ms: 1000,
        sweep_ms: 10,
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
        due_ms: u64::MAX / 2,
    };
    Sample {
        at_ms,
        proxy: 1,
        life: 1,
        cluster: "c".into(),
        configuration: 0,
        hosts: hosts.chars().map(host).collect(),
        next_sweep_ns,
        taken: Taken::default(),
        waiting: 0,
        connected_hosts: 0,
        dangling: None,
    }
}

pub(crate) fn arrival(at_ms: u64, request: u64, attempt: u32, host: &str) -> Arrival {
    Arrival {
        at_ms,
        proxy: 1,
        cluster: "c".into(),
        route: "r".into(),
        request,
        attempt,
        host: host.into(),
        cut: false,
        transit_ms: 100,
        configuration: None,
    }
}

pub(crate) fn request(id: u64, ending: Ending) -> Request {
    Request {
        id,
        proxy: 1,
        cluster: "c".into(),
        began_ms: 500,
        ended_ms: 600,
        ending,
        configuration: None,
    }
}

fn found(samples: Vec<Sample>, arrivals: Vec<Arrival>, requests: Vec<Request>) -> Vec<Violation> {
    let traffic = Traffic {
        requests,
        arrivals,
        samples,
        ..Traffic::default()
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
    assert_eq!(found(samples(), vec![arrival(1101, 1, 1, "a")], vec![]), []);
    assert!(matches!(
        found(samples(), vec![arrival(1102, 1, 1, "a")], vec![])[..],
        [Violation::ToUnknown { .. }]
    ));
}

#[test]
fn who_waits_was_chosen_before() {
    let waiting = |at_ms: u64, hosts: &str, waiting: u32| Sample {
        waiting,
        ..sample(at_ms, hosts, 1)
    };
    let samples = |before: u32| {
        vec![
            waiting(0, "abc", before),
            waiting(900, "abc", 1),
            waiting(1000, "bc", 1),
            waiting(1300, "bc", 0),
        ]
    };
    // Somebody waited from before the removal until 1300.
    assert_eq!(
        found(samples(0), vec![arrival(1399, 1, 1, "a")], vec![]),
        []
    );
    assert!(matches!(
        found(samples(0), vec![arrival(1400, 1, 1, "a")], vec![])[..],
        [Violation::ToUnknown { .. }]
    ));
    // Nobody waits for ever.
    let always = vec![waiting(0, "abc", 1), waiting(1000, "bc", 1)];
    assert_eq!(
        found(always.clone(), vec![arrival(2101, 1, 1, "a")], vec![]),
        []
    );
    assert!(matches!(
        found(always, vec![arrival(2102, 1, 1, "a")], vec![])[..],
        [Violation::ToUnknown { .. }]
    ));
}

#[test]
fn what_was_down_explains_what_is_missing() {
    let asked = |ending: Ending| vec![request(1, ending)];
    let with = |outages: Vec<Outage>, breaks: Vec<Break>, requests: Vec<Request>| {
        let traffic = Traffic {
            requests,
            arrivals: vec![arrival(550, 1, 1, "a")],
            outages,
            breaks,
            ..Traffic::default()
        };
        check(&traffic, &bounds())
    };
    let outage = |proxy, from_ms, to_ms| {
        vec![Outage {
            proxy,
            from_ms,
            to_ms,
        }]
    };
    let broken = |host: &str, proxy, from_ms| {
        vec![Break {
            host: host.into(),
            proxy,
            from_ms,
            to_ms: 2 * from_ms,
        }]
    };
    assert_eq!(with(outage(1, 590, 700), vec![], asked(Ending::Closed)), []);
    assert_eq!(with(outage(1, 400, 500), vec![], asked(Ending::Closed)), []);
    assert_eq!(
        with(vec![], broken("a", None, 590), asked(Ending::Broken)),
        []
    );
    for (outages, breaks, ending) in [
        (outage(2, 590, 700), vec![], Ending::Closed),
        (outage(1, 601, 700), vec![], Ending::Closed),
        (outage(1, 590, 700), vec![], Ending::Silence),
        (vec![], broken("a", None, 590), Ending::Closed),
        (vec![], broken("b", None, 590), Ending::Broken),
        (vec![], broken("a", Some(2), 590), Ending::Broken),
        (vec![], broken("a", Some(1), 601), Ending::Broken),
    ] {
        assert!(matches!(
            with(outages, breaks, asked(ending))[..],
            [Violation::NotOneAnswer { id: 1, .. }]
        ));
    }
}

#[test]
fn an_ejection_ends_with_the_first_sweep_after_its_time() {
    let ejected = |at_ms: u64, due_ms: u64| {
        let mut sample = sample(at_ms, "Ab", at_ms);
        sample.hosts[0].due_ms = due_ms;
        sample
    };
    assert_eq!(
        found(
            vec![ejected(0, 100), sample(110, "ab", 110)],
            vec![],
            vec![]
        ),
        []
    );
    assert!(matches!(
        found(
            vec![ejected(0, 100), sample(111, "ab", 111)],
            vec![],
            vec![]
        )[..],
        [Violation::Overstayed { due_ms: 100, .. }]
    ));
    let reborn = Sample {
        life: 2,
        ..sample(111, "ab", 111)
    };
    assert_eq!(found(vec![ejected(0, 100), reborn], vec![], vec![]), []);
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
