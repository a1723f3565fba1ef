//! Objects that refer to nothing, contradict each other or can have no effect, what is said of them, and that saying it
//! comes to an end.

mod support;

use jiff::Timestamp;
use serde_json::json;
use support::{apply, documents, mesh};
use trireme_mesh::conditions::{due, findings};

const BASE: &str = include_str!("golden/base.yaml");

fn said(yaml: &str) -> Vec<String> {
    let all = findings(&mesh(&format!("{BASE}\n---\n{yaml}")));
    all.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn says(yaml: &str, wanted: &[&str]) {
    let said = said(yaml);
    for text in wanted {
        assert!(
            said.iter().any(|it| it.contains(text)),
            "{text:?} is not in {said:#?}"
        );
    }
    assert_eq!(said.len(), wanted.len(), "{said:#?}");
}

#[test]
fn whole_objects_are_not_spoken_of() {
    let yaml = "
kind: VirtualService
metadata: {name: a}
spec: {hosts: [reviews], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews, subset: v1}}]}, {route: [{destination: {host: ratings}}]}]}
---
kind: DestinationRule
metadata: {name: a}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
kind: Sidecar
metadata: {name: a}
spec: {egress: [{hosts: ['./*', 'istio-system/*']}]}";
    says(yaml, &[]);
}

#[test]
fn references_to_nothing_are_named() {
    let yaml = "
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [reviews]
  gateways: [nowhere, mesh]
  http:
  - {match: [{uri: {prefix: /1}}], route: [{destination: {host: nobody}}]}
  - {match: [{uri: {prefix: /2}}], route: [{destination: {host: reviews, subset: v9}}]}
  - {match: [{uri: {prefix: /3}}], route: [{destination: {host: reviews, port: {number: 1}}}]}
  - {match: [{uri: {prefix: /4}}], route: [{destination: {host: plain.other.svc.cluster.local}}]}
  - {match: [{uri: {prefix: /5}}], delegate: {name: gone}}
---
kind: VirtualService
metadata: {name: b}
spec: {hosts: [ghost], http: [{route: [{destination: {host: ratings}}]}]}";
    says(
        yaml,
        &[
            "[IST0101] Referenced gateway not found: \"default/nowhere\"",
            "[IST0101] Referenced host not found: \"nobody.default.svc.cluster.local\"",
            "[IST0101] Referenced host+subset in destinationrule not found: \"reviews.default.svc.cluster.local+v9\"",
            "[IST0101] Referenced host:port not found: \"reviews.default.svc.cluster.local:1\"",
            "[IST0112] Destination \"plain.other.svc.cluster.local\" has several ports (8000, 9000, 3306)",
            "[IST0101] Referenced VirtualService not found: \"default/gone\"",
            "VirtualService default/b: [IST0101] Referenced host not found: \"ghost.default.svc.cluster.local\"",
        ],
    );
}

#[test]
fn rules_and_gateways_that_mean_nobody_are_named() {
    let yaml = "
kind: DestinationRule
metadata: {name: a}
spec: {host: nobody, subsets: []}
---
kind: DestinationRule
metadata: {name: b}
spec: {host: reviews, subsets: [{name: v9, labels: {version: v9}}], trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
---
kind: Gateway
metadata: {name: g}
spec: {selector: {app: nobody}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com]}]}
---
kind: VirtualService
metadata: {name: v}
spec: {hosts: [b.example.com], gateways: [g], http: [{route: [{destination: {host: reviews}}]}]}
---
kind: Sidecar
metadata: {name: s}
spec: {workloadSelector: {labels: {app: nobody}}, egress: [{hosts: [other/missing.example.com]}]}";
    says(
        yaml,
        &[
            "[IST0174] No service of the mesh has the host nobody.default.svc.cluster.local",
            "[IST0173] Subset v9 selects no pod",
            "TLS mode ISTIO_MUTUAL towards reviews.default.svc.cluster.local",
            "Gateway default/g: [IST0127] No pod has the labels app=nobody",
            "[IST0132] Gateway default/g has none of the hosts b.example.com",
            "Sidecar default/s: [IST0127] No pod has the labels app=nobody",
            "[IST0101] Referenced host in Sidecar not found: \"other/missing.example.com\"",
        ],
    );
}

#[test]
fn conflicts_and_what_is_never_reached_are_named() {
    let yaml = "
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [reviews]
  http:
  - {match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}
  - {match: [{uri: {prefix: /a}}], route: [{destination: {host: ratings}}]}
  - {route: [{destination: {host: reviews}}]}
  - {name: late, match: [{uri: {prefix: /b}}], route: [{destination: {host: ratings}}]}
---
kind: VirtualService
metadata: {name: b}
spec: {hosts: [reviews], http: [{route: [{destination: {host: ratings}}]}]}
---
kind: DestinationRule
metadata: {name: a}
spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}}]}
---
kind: DestinationRule
metadata: {name: b}
spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v2}}]}
---
kind: Sidecar
metadata: {name: a}
spec: {}
---
kind: Sidecar
metadata: {name: b}
spec: {}";
    says(
        yaml,
        &[
            "VirtualService default/a: [IST0109] VirtualServices default/a, default/b have the same host",
            "VirtualService default/b: [IST0109] VirtualServices default/a, default/b have the same host",
            "VirtualService default/b: Host reviews.default.svc.cluster.local is routed by the older VirtualService default/a",
            "[IST0131] Match #0 of route #1 is never used: route #0 has the same",
            "[IST0130] Route #3 (late) is never reached: route #2 before it takes every request",
            "DestinationRule default/b: Subset v1 of host reviews.default.svc.cluster.local is that of the older DestinationRule default/a",
            "DestinationRule default/b: Host reviews.default.svc.cluster.local has the traffic policy of the older DestinationRule default/a",
            "Sidecar default/a: [IST0111]",
            "Sidecar default/b: [IST0111]",
        ],
    );
}

#[test]
fn gateways_on_one_port_conflict_by_protocol_and_host() {
    let yaml = "
kind: Pods
metadata: {name: gate, namespace: istio-system}
labels: {istio: ingressgateway}
addresses: [10.42.8.1]
---
kind: Gateway
metadata: {name: a}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: lost}}]}
---
kind: Gateway
metadata: {name: b}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: PASSTHROUGH}}, {port: {number: 443, name: http, protocol: HTTP}, hosts: ['*']}]}";
    says(
        yaml,
        &[
            "Gateway default/b: [IST0145] Hosts a.example.com on port 443 are those of the older Gateway default/a",
            "Gateway default/b: [IST0145] Port 443 is HTTPS by the older Gateway default/a",
            "Gateway default/a: [IST0101] Referenced credentialName not found: \"istio-system/lost\"",
        ],
    );
}

#[test]
fn a_status_is_written_once_and_taken_back_when_things_are_well() {
    let now: Timestamp = "2026-02-01T00:00:00Z".parse().expect("a time");
    let later: Timestamp = "2026-02-02T00:00:00Z".parse().expect("a time");
    let mut mesh = mesh(BASE);
    let mut object = documents("kind: VirtualService\nmetadata: {name: a, uid: u1, resourceVersion: '7'}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: ghost}}]}]}").remove(0);
    apply(&mut mesh, &object);
    let first = due(&mesh, now);
    assert_eq!(first.len(), 1);
    assert_eq!(
        (
            first[0].kind.kind,
            first[0].key.name.as_str(),
            first[0].uid.as_str()
        ),
        ("VirtualService", "a", "u1")
    );
    assert_eq!(first[0].resource_version, "7");
    assert_eq!(first[0].warnings.len(), 1);
    let condition = &first[0].status["conditions"][0];
    assert_eq!(condition["type"], "ResolvedRefs");
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "ReferencedResourceNotFound");
    assert_eq!(condition["lastTransitionTime"], "2026-02-01T00:00:00Z");
    assert_eq!(
        first[0].status["validationMessages"][0]["type"]["code"],
        "IST0101"
    );

    object["status"] = first[0].status.clone();
    let mut written = object.clone();
    written["apiVersion"] = json!("networking.istio.io/v1");
    let strict = trireme_model::schema::FieldValidation::Strict;
    assert_eq!(
        trireme_model::schema::check(first[0].kind, &mut written, strict),
        Ok(Vec::new()),
        "a status is written as the API has it"
    );
    assert!(
        apply(&mut mesh, &object).is_empty(),
        "a status changes no configuration"
    );
    assert_eq!(due(&mesh, later), [], "nothing more is to be said");

    let ghost = documents("kind: Service\nmetadata: {name: ghost}\nspec: {clusterIP: 10.96.9.9, selector: {app: ghost}, ports: [{name: http, port: 9080}]}").remove(0);
    apply(&mut mesh, &ghost);
    let healed = due(&mesh, later);
    assert_eq!(healed.len(), 1);
    assert_eq!(healed[0].warnings, []);
    assert_eq!(healed[0].status["conditions"][0]["status"], "True");
    assert_eq!(
        healed[0].status["conditions"][0]["lastTransitionTime"],
        "2026-02-02T00:00:00Z"
    );
    object["status"] = healed[0].status.clone();
    apply(&mut mesh, &object);
    assert_eq!(due(&mesh, later), []);
    assert!(
        healed[0]
            .status
            .get("validationMessages")
            .is_none_or(|it| *it == json!([]))
    );
}
