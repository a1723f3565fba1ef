//! The protocol of a stream, without a network: both forms, answers, reconnections, order.

#[allow(dead_code)]
mod client;

use client::{Client, World};
use proptest::prelude::*;
use trireme_xds::Kind;
use trireme_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use trireme_xds::pb::google::rpc;
use trireme_xds_server::KindState;
use trireme_xds_server::session::{Protocol, Response, Session, SessionError};

const BOTH: [Protocol; 2] = [Protocol::StateOfTheWorld, Protocol::Delta];

fn names(response: &Response) -> Vec<&str> {
    response.resources.iter().map(|one| &*one.name).collect()
}

/// A world with routes to these clusters, one route configuration each.
fn world(clusters: &[&str]) -> World {
    let mut world = World::default();
    for (index, cluster) in clusters.iter().enumerate() {
        world.set_route(&format!("r{index}"), cluster);
        world.set_endpoints(cluster, 1);
    }
    world
}

#[test]
fn a_client_gets_everything_that_it_needs_and_nothing_else() {
    for protocol in BOTH {
        let mut world = world(&["a", "b"]);
        world.set_endpoints("nobody-asks", 1);
        let mut client = Client::new(protocol);
        client.connect();
        client.drain(&mut world);
        assert_eq!(client.held(Kind::Cluster), world.expected(Kind::Cluster));
        assert_eq!(client.held(Kind::Listener), world.expected(Kind::Listener));
        assert_eq!(client.held(Kind::Route), world.expected(Kind::Route));
        let endpoints = client.held(Kind::Endpoint);
        assert_eq!(endpoints.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(
            client.next(&mut world).is_none(),
            "{protocol:?}: all was sent"
        );
    }
}

#[test]
fn only_what_changed_is_sent() {
    let mut world = world(&["a", "b", "c"]);
    let mut client = Client::new(Protocol::Delta);
    client.connect();
    client.drain(&mut world);
    world.set_endpoints("b", 2);
    world.set_endpoints("nobody-asks", 2);
    let sent = client.drain(&mut world);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].kind, names(&sent[0])), (Kind::Endpoint, vec!["b"]));
    world.set_route("r1", "c");
    let sent = client.drain(&mut world);
    let kinds: Vec<(Kind, Vec<&str>)> = sent.iter().map(|one| (one.kind, names(one))).collect();
    // Nothing refers to b any more: the route first, then the cluster goes.
    assert_eq!(kinds, [(Kind::Route, vec!["r1"]), (Kind::Cluster, vec![])]);
    assert_eq!(sent[1].removed, ["b".into()]);
}

#[test]
fn the_state_of_the_world_is_whole_for_clusters_and_partial_for_endpoints() {
    let mut world = world(&["a", "b"]);
    let mut client = Client::new(Protocol::StateOfTheWorld);
    client.connect();
    client.drain(&mut world);
    world.set_cluster("a", 2);
    world.set_endpoints("b", 2);
    let sent = client.drain(&mut world);
    assert_eq!(
        (sent[0].kind, names(&sent[0])),
        (Kind::Cluster, vec!["a", "b"])
    );
    // And the endpoints of the cluster that changed, which waits for them.
    assert_eq!(
        (sent[1].kind, names(&sent[1])),
        (Kind::Endpoint, vec!["a", "b"])
    );
    assert_eq!(sent.len(), 2);
}

#[test]
fn a_new_cluster_comes_before_its_route_and_an_old_one_goes_after() {
    for protocol in BOTH {
        let mut world = world(&["old"]);
        let mut client = Client::new(protocol);
        client.connect();
        client.drain(&mut world);
        world.set_route("r0", "new");
        world.set_endpoints("new", 1);
        let first = client.next(&mut world).expect("the new cluster");
        assert_eq!(first.kind, Kind::Cluster);
        assert!(first.removed.is_empty());
        assert!(
            client.next(&mut world).is_none(),
            "{protocol:?}: routes wait until the cluster is taken in"
        );
        client.take(&first, None);
        let kinds: Vec<Kind> = client
            .drain(&mut world)
            .iter()
            .map(|one| one.kind)
            .collect();
        assert_eq!(kinds, [Kind::Endpoint, Kind::Route, Kind::Cluster]);
        assert_eq!(client.held(Kind::Cluster), world.expected(Kind::Cluster));
    }
}

#[test]
fn routes_wait_for_clusters_that_are_new_and_not_for_those_that_only_change() {
    let mut world = world(&["a"]);
    let mut client = Client::new(Protocol::Delta);
    client.connect();
    client.drain(&mut world);
    world.set_cluster("a", 1);
    world.touch_route("r0");
    let first = client.next(&mut world).expect("a cluster");
    assert_eq!((first.kind, names(&first)), (Kind::Cluster, vec!["a"]));
    while let Some(response) = client.next(&mut world) {
        assert_eq!(response.kind, Kind::Endpoint, "a is not acknowledged");
        client.take(&response, None);
    }
    // While that is under way, the route is led to a new cluster.
    world.set_route("r0", "b");
    client.take(&first, None);
    let second = client.next(&mut world).expect("a cluster");
    assert_eq!((second.kind, names(&second)), (Kind::Cluster, vec!["b"]));
    while let Some(response) = client.next(&mut world) {
        assert_eq!(response.kind, Kind::Endpoint, "b is not acknowledged");
        client.take(&response, None);
    }
    client.take(&second, None);
    let kinds: Vec<Kind> = client.drain(&mut world).iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [Kind::Endpoint, Kind::Route, Kind::Cluster]);

    // Under way, and another comes that cannot be sent yet.
    world.set_cluster("b", 1);
    let third = client.next(&mut world).expect("a cluster");
    client.take(&third, None);
    world.set_cluster("b", 2);
    let fourth = client.next(&mut world).expect("a cluster");
    world.set_route("r0", "c");
    while let Some(response) = client.next(&mut world) {
        assert_eq!(response.kind, Kind::Endpoint, "c is not sent yet");
        client.take(&response, None);
    }
    client.take(&fourth, None);
    client.drain(&mut world);

    // One that changes all the time keeps nothing away.
    world.set_cluster("c", 1);
    let fifth = client.next(&mut world).expect("a cluster");
    while let Some(response) = client.next(&mut world) {
        client.take(&response, None);
    }
    world.touch_route("r0");
    world.set_cluster("c", 2);
    client.take(&fifth, None);
    let sixth = client.next(&mut world).expect("a cluster");
    assert_eq!(sixth.kind, Kind::Cluster);
    let mut kinds = Vec::new();
    while let Some(response) = client.next(&mut world) {
        kinds.push(response.kind);
        client.take(&response, None);
    }
    assert!(kinds.contains(&Kind::Route), "{kinds:?}");
}

#[test]
fn a_client_that_is_slow_to_answer_costs_one_response_of_a_kind() {
    for protocol in BOTH {
        let mut world = world(&["a"]);
        let mut client = Client::new(protocol);
        client.connect();
        client.drain(&mut world);
        let mut sent = Vec::new();
        for version in 2..1000 {
            world.set_cluster("a", version);
            world.set_endpoints("a", version);
            sent.extend(client.next(&mut world));
        }
        // One of clusters, one of endpoints, however often they changed.
        assert_eq!(sent.len(), 2, "{protocol:?}");
        for response in sent {
            client.take(&response, None);
        }
        let rest = client.drain(&mut world);
        assert_eq!(
            rest.len(),
            2,
            "{protocol:?}: what changed meanwhile, at once"
        );
        assert_eq!(client.held(Kind::Endpoint), world.expected(Kind::Endpoint));
    }
}

#[test]
fn a_refusal_is_kept_with_its_words_and_not_sent_again() {
    for protocol in BOTH {
        let mut world = world(&["a"]);
        let mut client = Client::new(protocol);
        client.connect();
        client.drain(&mut world);
        let before = client.status(Kind::Route).version;
        world.set_route_text("r0", "a", "bad");
        let response = client.next(&mut world).expect("the route");
        client.take(&response, Some("virtual_hosts[0]: no"));
        assert!(client.next(&mut world).is_none(), "{protocol:?}");
        let status = client.status(Kind::Route);
        assert_eq!(status.state, KindState::Refused);
        assert_eq!(status.error, "virtual_hosts[0]: no");
        assert_eq!(
            status.version, before,
            "what is in force is what was accepted"
        );
        // A cluster that only the refused routes do not need stays with the client.
        world.set_route_text("r0", "b", "bad too");
        world.set_endpoints("b", 1);
        for response in client.exchange(&mut world, |kind| (kind == Kind::Route).then_some("no")) {
            assert!(response.removed.is_empty(), "{response:?}");
        }
        assert!(client.held(Kind::Cluster).contains_key("a"));
        world.set_route("r0", "b");
        client.drain(&mut world);
        assert_eq!(client.status(Kind::Route).state, KindState::Synced);
        assert_eq!(client.status(Kind::Route).error, "");
        assert_eq!(client.held(Kind::Cluster), world.expected(Kind::Cluster));
    }
}

#[test]
fn a_refusal_stands_while_other_routes_are_accepted() {
    for protocol in BOTH {
        let mut world = world(&["a", "b"]);
        let mut client = Client::new(protocol);
        client.connect();
        client.drain(&mut world);
        world.set_route_text("r0", "b", "bad");
        client.exchange(&mut world, |kind| (kind == Kind::Route).then_some("no"));
        // The client still has r0 as it was, to a.
        world.set_route_text("r1", "b", "another text");
        client.drain(&mut world);
        assert_eq!(client.status(Kind::Route).state, KindState::Refused);
        assert_eq!(client.status(Kind::Route).error, "no");
        assert!(client.held(Kind::Cluster).contains_key("a"), "{protocol:?}");
        // It is removed: what it needed goes too, and nothing is refused any more.
        world.remove_route("r0");
        client.drain(&mut world);
        assert_eq!(client.held(Kind::Cluster), world.expected(Kind::Cluster));
        assert_eq!(client.status(Kind::Route).state, KindState::Synced);
    }
}

#[test]
fn a_client_that_reconnects_is_sent_only_what_differs() {
    let mut world = world(&["a", "b"]);
    let mut client = Client::new(Protocol::Delta);
    client.connect();
    client.drain(&mut world);
    client.reconnect();
    let again = client.drain(&mut world);
    let resources: usize = again.iter().map(|one| one.resources.len()).sum();
    assert_eq!(resources, 0, "{again:?}");
    // While it was away: b's endpoints changed and a is gone.
    world.set_endpoints("b", 2);
    world.set_route("r0", "b");
    client.reconnect();
    let again = client.drain(&mut world);
    let sent: Vec<&str> = again.iter().flat_map(names).collect();
    assert_eq!(sent, ["b", "r0"]);
    for kind in [Kind::Cluster, Kind::Listener, Kind::Route, Kind::Endpoint] {
        assert_eq!(client.held(kind), world.needed(kind, &client), "{kind}");
    }
}

#[test]
fn what_is_asked_for_and_is_not_there_is_said_once() {
    let mut world = world(&["a"]);
    let mut session = Session::new(Protocol::Delta);
    let ask = |subscribe: &[&str], unsubscribe: &[&str], nonce: &str| DeltaDiscoveryRequest {
        type_url: Kind::Endpoint.type_url().into(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).into()).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(|name| (*name).into()).collect(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    session
        .on_delta(&ask(&["a", "absent"], &[], ""))
        .expect("valid");
    let sent = world.next(&mut session).expect("both answers");
    assert_eq!(names(&sent), ["a"]);
    assert_eq!(sent.removed, ["absent".into()]);
    session
        .on_delta(&ask(&[], &[], &sent.nonce.to_string()))
        .expect("valid");
    assert!(world.next(&mut session).is_none());
    // Asking again is asking to be sent it again.
    session.on_delta(&ask(&["a"], &[], "")).expect("valid");
    let sent = world.next(&mut session).expect("again");
    assert_eq!(names(&sent), ["a"]);
    session
        .on_delta(&ask(&[], &["a"], &sent.nonce.to_string()))
        .expect("valid");
    world.set_endpoints("a", 9);
    assert!(world.next(&mut session).is_none(), "nobody is subscribed");
    world.set_endpoints("absent", 1);
    let sent = world.next(&mut session).expect("it is there now");
    assert_eq!(names(&sent), ["absent"]);
}

#[test]
fn wildcards_are_explicit_or_the_old_form() {
    let mut world = world(&["a", "b"]);
    let ask = |names: &[&str], nonce: u64| DiscoveryRequest {
        type_url: Kind::Cluster.type_url().into(),
        resource_names: names.iter().map(|name| (*name).into()).collect(),
        response_nonce: if nonce == 0 {
            String::new()
        } else {
            nonce.to_string()
        },
        ..DiscoveryRequest::default()
    };
    // No names at all: everything.
    let mut session = Session::new(Protocol::StateOfTheWorld);
    session.on_request(&ask(&[], 0)).expect("valid");
    let sent = world.next(&mut session).expect("all");
    assert_eq!(names(&sent), ["a", "b"]);
    // A name: that one. Then none: nothing, as something has been named before.
    session.on_request(&ask(&["b"], sent.nonce)).expect("valid");
    let sent = world.next(&mut session).expect("one");
    assert_eq!(names(&sent), ["b"]);
    session.on_request(&ask(&[], sent.nonce)).expect("valid");
    assert!(world.next(&mut session).is_none());
    world.set_cluster("b", 7);
    assert!(world.next(&mut session).is_none());
    // The star, also beside a name that is not there.
    session
        .on_request(&ask(&["*", "absent"], sent.nonce))
        .expect("valid");
    let sent = world.next(&mut session).expect("all");
    assert_eq!(names(&sent), ["a", "b"]);
}

#[test]
fn answers_to_earlier_responses_are_passed_over() {
    let mut world = world(&["a"]);
    let mut session = Session::new(Protocol::StateOfTheWorld);
    let ask = |names: &[&str], nonce: &str| DiscoveryRequest {
        type_url: Kind::Endpoint.type_url().into(),
        resource_names: names.iter().map(|name| (*name).into()).collect(),
        response_nonce: nonce.into(),
        ..DiscoveryRequest::default()
    };
    session.on_request(&ask(&["a"], "")).expect("valid");
    let first = world.next(&mut session).expect("a");
    session
        .on_request(&ask(&["a"], &first.nonce.to_string()))
        .expect("valid");
    world.set_endpoints("a", 2);
    let second = world.next(&mut session).expect("a again");
    // Written before the second arrived: it must not count as its answer, nor end what was asked.
    session
        .on_request(&ask(&[], &first.nonce.to_string()))
        .expect("valid");
    assert!(world.next(&mut session).is_none());
    session
        .on_request(&ask(&["a"], &second.nonce.to_string()))
        .expect("valid");
    world.set_endpoints("a", 3);
    assert!(world.next(&mut session).is_some());
    let error = session.on_request(&ask(&["a"], "not a number"));
    assert_eq!(error, Err(SessionError::Nonce("not a number".into())));
}

#[test]
fn names_have_a_limit() {
    let mut session = Session::new(Protocol::Delta);
    let request = DeltaDiscoveryRequest {
        type_url: Kind::Endpoint.type_url().into(),
        resource_names_subscribe: (0..70_000).map(|index| index.to_string()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    assert!(matches!(
        session.on_delta(&request),
        Err(SessionError::TooManyNames { count: 70_000, .. })
    ));
}

#[test]
fn long_refusals_are_cut_between_letters() {
    let mut world = world(&["a"]);
    let mut session = Session::new(Protocol::Delta);
    let mut request = DeltaDiscoveryRequest {
        type_url: Kind::Cluster.type_url().into(),
        ..DeltaDiscoveryRequest::default()
    };
    session.on_delta(&request).expect("valid");
    let sent = world.next(&mut session).expect("all");
    request.response_nonce = sent.nonce.to_string();
    request.error_detail = Some(rpc::Status {
        code: 13,
        message: "ü".repeat(5000),
        ..rpc::Status::default()
    });
    session.on_delta(&request).expect("valid");
    let status = session.status();
    assert!(status[0].error.len() <= 2048 && status[0].error.starts_with('ü'));
}

#[test]
fn types_that_are_not_served_are_passed_over() {
    let mut world = world(&["a"]);
    let mut session = Session::new(Protocol::StateOfTheWorld);
    let request = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".into(),
        ..DiscoveryRequest::default()
    };
    session.on_request(&request).expect("passed over");
    assert!(world.next(&mut session).is_none());
}

/// What may happen in a random history.
#[derive(Clone, Debug)]
enum Event {
    Route {
        route: u8,
        cluster: u8,
    },
    RemoveRoute(u8),
    Cluster {
        cluster: u8,
        version: u8,
    },
    Endpoints {
        cluster: u8,
        version: u8,
    },
    /// This many responses are made and taken.
    Exchange(u8),
    /// The next response is refused if it is of routes.
    Refuse,
    Reconnect,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..4_u8, 0..5_u8).prop_map(|(route, cluster)| Event::Route { route, cluster }),
        1 => (0..4_u8).prop_map(Event::RemoveRoute),
        2 => (0..5_u8, 0..4_u8).prop_map(|(cluster, version)| Event::Cluster { cluster, version }),
        3 => (0..5_u8, 0..4_u8).prop_map(|(cluster, version)| Event::Endpoints { cluster, version }),
        4 => (0..4_u8).prop_map(Event::Exchange),
        1 => Just(Event::Refuse),
        1 => Just(Event::Reconnect),
    ]
}

fn play(protocol: Protocol, events: &[Event]) -> (Client, World) {
    let mut world = World::default();
    let mut client = Client::new(protocol);
    client.connect();
    for event in events {
        match event {
            Event::Route { route, cluster } => {
                world.set_route(&format!("r{route}"), &format!("c{cluster}"));
            }
            Event::RemoveRoute(route) => world.remove_route(&format!("r{route}")),
            Event::Cluster { cluster, version } => {
                world.set_cluster(&format!("c{cluster}"), u32::from(*version));
            }
            Event::Endpoints { cluster, version } => {
                world.set_endpoints(&format!("c{cluster}"), u32::from(*version));
            }
            Event::Exchange(count) => {
                for _ in 0..*count {
                    if let Some(response) = client.next(&mut world) {
                        client.take(&response, None);
                    }
                }
            }
            Event::Refuse => {
                if let Some(response) = client.next(&mut world) {
                    client.take(&response, (response.kind == Kind::Route).then_some("no"));
                }
            }
            Event::Reconnect => client.reconnect(),
        }
    }
    // What was refused is not sent again, so something else must come in its place.
    for route in 0..4 {
        world.touch_route(&format!("r{route}"));
    }
    client.drain(&mut world);
    (client, world)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Both protocols, whatever was missed, refused or interrupted, end where a new client begins;
    /// and on the way no route that the client has ever leads to a cluster that it does not have
    /// (the client checks it after every response).
    #[test]
    fn every_history_ends_with_what_a_new_client_gets(events in prop::collection::vec(event(), 0..40)) {
        let (delta, world) = play(Protocol::Delta, &events);
        let (whole, _) = play(Protocol::StateOfTheWorld, &events);
        for kind in [Kind::Cluster, Kind::Listener, Kind::Route, Kind::Endpoint] {
            prop_assert_eq!(delta.held(kind), world.needed(kind, &delta), "delta, {}", kind);
            prop_assert_eq!(whole.held(kind), world.needed(kind, &whole), "state of the world, {}", kind);
        }
    }
}
