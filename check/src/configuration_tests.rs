use super::*;
use crate::traffic::tests;

fn resources(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter()
        .map(|(name, digest)| ((*name).to_owned(), *digest))
        .collect()
}

#[test]
fn changes_and_the_whole_world_come_to_the_same() {
    let mut delta = Client::default();
    let mut world = Client::default();
    delta.take_changes("cds", resources(&[("a", 1), ("b", 1)]), []);
    world.take_world("cds", true, resources(&[("a", 1), ("b", 1)]));
    delta.take_changes("cds", resources(&[("c", 3)]), ["a"]);
    world.take_world("cds", true, resources(&[("b", 1), ("c", 3)]));
    assert_eq!(delta.held(), world.held());
    // Of a kind that is asked for by name, silence means nothing.
    world.take_world("eds", false, resources(&[("b", 1)]));
    world.take_world("eds", false, resources(&[("c", 1)]));
    delta.take_changes("eds", resources(&[("b", 1), ("c", 1), ("gone", 1)]), []);
    assert!(matches!(
        law("it", delta.held(), world.held()),
        Some(Violation::Law { name, held: Some(1), anew: None, .. }) if name == "gone"
    ));
    delta.retain("eds", &BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert_eq!(law("it", delta.held(), world.held()), None);
    delta.forget();
    assert!(law("it", delta.held(), world.held()).is_some());
}

fn arrival(at_ms: u64, request: u64, configuration: u64, host: &str) -> Arrival {
    Arrival {
        transit_ms: 1,
        configuration: Some(configuration),
        ..tests::arrival(at_ms, request, 1, host)
    }
}

fn request(id: u64, configuration: u64) -> Request {
    let answered = Ending::Answered {
        status: 200,
        body: String::new(),
    };
    Request {
        configuration: Some(configuration),
        ..tests::request(id, answered)
    }
}

fn versions() -> Vec<Version> {
    let version = |number, began_ms, hosts: &[&str], invalid| Version {
        number,
        route: "r".into(),
        began_ms,
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        invalid,
    };
    vec![
        version(1, 0, &["a"], false),
        version(2, 100, &["b"], false),
        version(3, 200, &["b"], true),
    ]
}

#[test]
fn a_request_has_one_version_of_its_route() {
    let check =
        |arrivals: &[Arrival], requests: &[Request]| served(&versions(), requests, arrivals);
    assert_eq!(
        check(
            &[arrival(10, 1, 1, "a"), arrival(150, 2, 2, "b")],
            &[request(1, 1), request(2, 2)]
        ),
        None
    );
    assert!(matches!(
        check(&[arrival(110, 1, 1, "a"), arrival(120, 1, 2, "b")], &[]),
        Some(Violation::Mixed {
            one: 1,
            other: 2,
            ..
        })
    ));
    assert!(matches!(
        check(&[arrival(110, 1, 1, "a")], &[request(1, 2)]),
        Some(Violation::Mixed { .. })
    ));
    assert!(matches!(
        check(&[arrival(110, 1, 1, "b")], &[]),
        Some(Violation::ElsewhereThanConfigured { .. })
    ));
    for (at_ms, number) in [(10, 2), (300, 3), (300, 4)] {
        assert!(matches!(
            check(&[arrival(at_ms, 1, number, "b")], &[]),
            Some(Violation::NoVersion { .. })
        ));
    }
}

#[test]
fn a_loss_of_the_control_plane_is_not_seen() {
    let loss = Loss {
        from_ms: 400,
        to_ms: 700,
    };
    assert_eq!(survived(loss, 1, &[request(1, 1)]), []);
    assert_eq!(
        survived(loss, 2, &[request(1, 1)]),
        [Violation::Idle { proxy: 2 }]
    );
    let answered = |body: &str| Request {
        ending: Ending::Answered {
            status: 503,
            body: body.to_owned(),
        },
        ..request(2, 1)
    };
    let overflow = answered(
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
    );
    assert_eq!(survived(loss, 1, &[request(1, 1), overflow]), []);
    assert!(matches!(
        survived(loss, 1, &[request(1, 1), answered("no healthy upstream")])[..],
        [Violation::DidNotSurvive { request: 2, .. }]
    ));
}
