//! What is answered, by name and type.

use super::*;

fn port(name: &str, port: u16) -> PortRecord {
    PortRecord {
        name: name.into(),
        protocol: Protocol::Tcp,
        port,
    }
}

fn endpoint(address: &str, hostname: Option<&str>) -> EndpointRecord {
    EndpointRecord {
        address: address.parse().unwrap(),
        hostname: hostname.map(str::to_owned),
        ports: vec![port("web", 8080)],
    }
}

fn service(name: &str, address: ServiceAddress, endpoints: Vec<EndpointRecord>) -> ServiceRecord {
    ServiceRecord {
        namespace: "shop".into(),
        name: name.into(),
        address,
        ports: vec![port("web", 80)],
        endpoints,
    }
}

fn snapshot() -> Snapshot {
    let external = |target: &str| ServiceAddress::ExternalName(target.into());
    Snapshot::new(
        "cluster.local",
        [
            service(
                "web",
                ServiceAddress::Cluster(vec!["10.43.0.10".parse().unwrap()]),
                vec![],
            ),
            service(
                "db",
                ServiceAddress::Headless,
                vec![
                    endpoint("10.42.0.5", Some("db-0")),
                    endpoint("10.42.1.6", None),
                ],
            ),
            service("none", ServiceAddress::Headless, vec![]),
            service("inner", external("web.shop.svc.cluster.local"), vec![]),
            service("outer", external("example.org"), vec![]),
            service("loop", external("loop.shop.svc.cluster.local"), vec![]),
        ],
    )
}

/// The answer as text: code, then records as "type data".
fn ask(name: &str, kind: RecordType) -> String {
    let name = Name::from_ascii(name).unwrap();
    match resolve(&snapshot(), &name, kind, 0) {
        Resolution::Known(reply) => {
            let mut text = vec![format!("{:?}", reply.code)];
            text.extend(
                reply
                    .answers
                    .iter()
                    .map(|record| format!("{} {}", record.record_type(), record.data)),
            );
            if reply.authority.is_some() {
                text.push("+SOA".into());
            }
            text.extend(
                reply
                    .additionals
                    .iter()
                    .map(|record| format!("({} {})", record.name, record.data)),
            );
            text.join(" | ")
        }
        Resolution::Alias { aliases, target } => format!("alias {} to {target}", aliases.len()),
        Resolution::Elsewhere => "elsewhere".into(),
    }
}

#[test]
fn services_have_addresses() {
    assert_eq!(
        ask("web.shop.svc.cluster.local.", RecordType::A),
        "NoError | A 10.43.0.10"
    );
    assert_eq!(
        ask("WEB.Shop.svc.Cluster.Local.", RecordType::A),
        "NoError | A 10.43.0.10"
    );
    assert_eq!(
        ask("web.shop.svc.cluster.local.", RecordType::AAAA),
        "NoError | +SOA"
    );
    assert_eq!(
        ask("web.shop.svc.cluster.local.", RecordType::MX),
        "NoError | +SOA"
    );
    assert_eq!(
        ask("web.other.svc.cluster.local.", RecordType::A),
        "NXDomain | +SOA"
    );
    // What search lists make of outside names.
    assert_eq!(
        ask("example.org.shop.svc.cluster.local.", RecordType::A),
        "NXDomain | +SOA"
    );
    assert_eq!(
        ask("example.org.cluster.local.", RecordType::AAAA),
        "NXDomain | +SOA"
    );
    assert_eq!(ask("example.org.", RecordType::A), "elsewhere");
    // Names on the way exist, without records.
    for name in [
        "cluster.local.",
        "svc.cluster.local.",
        "shop.svc.cluster.local.",
        "_tcp.web.shop.svc.cluster.local.",
    ] {
        assert_eq!(ask(name, RecordType::A), "NoError | +SOA", "{name}");
    }
}

#[test]
fn headless_services_have_their_pods() {
    assert_eq!(
        ask("db.shop.svc.cluster.local.", RecordType::A),
        "NoError | A 10.42.0.5 | A 10.42.1.6"
    );
    assert_eq!(
        ask("db-0.db.shop.svc.cluster.local.", RecordType::A),
        "NoError | A 10.42.0.5"
    );
    assert_eq!(
        ask("10-42-1-6.db.shop.svc.cluster.local.", RecordType::A),
        "NoError | A 10.42.1.6"
    );
    assert_eq!(
        ask("db-1.db.shop.svc.cluster.local.", RecordType::A),
        "NXDomain | +SOA"
    );
    assert_eq!(
        ask("none.shop.svc.cluster.local.", RecordType::A),
        "NXDomain | +SOA"
    );
    assert_eq!(
        ask("10-42-7-8.shop.pod.cluster.local.", RecordType::A),
        "NoError | A 10.42.7.8"
    );
    assert_eq!(
        ask("10-42-7.shop.pod.cluster.local.", RecordType::A),
        "NXDomain | +SOA"
    );
}

#[test]
fn answers_rotate() {
    let name = Name::from_ascii("db.shop.svc.cluster.local.").unwrap();
    let first = |turn| match resolve(&snapshot(), &name, RecordType::A, turn) {
        Resolution::Known(reply) => reply.answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [first(0), first(1), first(2)],
        ["10.42.0.5", "10.42.1.6", "10.42.0.5"]
    );
}

#[test]
fn named_ports_have_service_records() {
    assert_eq!(
        ask("_web._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        "NoError | SRV 0 100 80 web.shop.svc.cluster.local. | (web.shop.svc.cluster.local. 10.43.0.10)"
    );
    assert_eq!(
        ask("_web._tcp.db.shop.svc.cluster.local.", RecordType::SRV),
        "NoError | SRV 0 50 8080 db-0.db.shop.svc.cluster.local. | SRV 0 50 8080 10-42-1-6.db.shop.svc.cluster.local. \
         | (db-0.db.shop.svc.cluster.local. 10.42.0.5) | (10-42-1-6.db.shop.svc.cluster.local. 10.42.1.6)"
    );
    assert_eq!(
        ask("_web._tcp.web.shop.svc.cluster.local.", RecordType::A),
        "NoError | +SOA"
    );
    assert_eq!(
        ask("_web._udp.web.shop.svc.cluster.local.", RecordType::SRV),
        "NXDomain | +SOA"
    );
    assert_eq!(
        ask("_ftp._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        "NXDomain | +SOA"
    );
}

#[test]
fn addresses_have_names() {
    assert_eq!(
        ask("10.0.43.10.in-addr.arpa.", RecordType::PTR),
        "NoError | PTR web.shop.svc.cluster.local."
    );
    assert_eq!(
        ask("5.0.42.10.in-addr.arpa.", RecordType::PTR),
        "NoError | PTR db-0.db.shop.svc.cluster.local."
    );
    assert_eq!(ask("1.2.0.192.in-addr.arpa.", RecordType::PTR), "elsewhere");
}

#[test]
fn external_names_are_aliases() {
    assert_eq!(
        ask("inner.shop.svc.cluster.local.", RecordType::A),
        "NoError | CNAME web.shop.svc.cluster.local. | A 10.43.0.10"
    );
    assert_eq!(
        ask("outer.shop.svc.cluster.local.", RecordType::A),
        "alias 1 to example.org."
    );
    assert_eq!(
        ask("outer.shop.svc.cluster.local.", RecordType::CNAME),
        "NoError | CNAME example.org."
    );
    assert!(ask("loop.shop.svc.cluster.local.", RecordType::A).starts_with("ServFail"));
}
