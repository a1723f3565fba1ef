//! Explanations of requests, as text: `MESH_GOLDEN=write` writes `golden/explain.txt` anew.

mod support;

use http::{HeaderName, HeaderValue};
use support::{mesh, workload};
use trireme_mesh::explain::{Request, route};
use trireme_proxy_decide::head::RequestHead;

const BASE: &str = include_str!("golden/base.yaml");
const OBJECTS: &str = "
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - name: jason
    match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
    timeout: 2s
    fault: {abort: {percentage: {value: 10}, httpStatus: 500}}
  - match: [{uri: {prefix: /gone}}]
    directResponse: {status: 410}
  - match: [{uri: {exact: /lost}}]
    route: [{destination: {host: reviews, subset: v9}}]
  - name: split
    route: [{destination: {host: reviews, subset: v1}, weight: 75}, {destination: {host: reviews, subset: v3}, weight: 25}]
    retries: {attempts: 4, perTryTimeout: 250ms, retryOn: '5xx'}
    mirror: {host: ratings}
---
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}, outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 3m, maxEjectionPercent: 100}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]
---
kind: Gateway
metadata: {name: gate}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}]}
---
kind: VirtualService
metadata: {name: shop}
spec: {hosts: [shop.example.com], gateways: [gate], http: [{match: [{uri: {prefix: /p}}], route: [{destination: {host: productpage}}]}]}";

fn request(host: &str, port: u32, path: &str, headers: &[(&str, &str)]) -> Request {
    let mut head = RequestHead::get(host, path).expect("a request");
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        head.headers
            .insert(name, HeaderValue::from_str(value).expect("a value"));
    }
    Request {
        head,
        host: host.to_owned(),
        port,
        draw: 80,
    }
}

#[test]
fn explanations_name_every_step_and_object() {
    let mesh = mesh(&format!("{BASE}\n---\n{OBJECTS}"));
    let client = workload("sidecar default app=client");
    let gateway = workload("router istio-system istio=ingressgateway");
    let asked = [
        (
            &client,
            request("reviews", 9080, "/", &[("end-user", "jason")]),
        ),
        (&client, request("reviews", 9080, "/api", &[])),
        (
            &client,
            request("reviews.default.svc.cluster.local", 9080, "/gone/1", &[]),
        ),
        (&client, request("reviews", 9080, "/lost", &[])),
        (&client, request("ratings", 9080, "/", &[])),
        (&client, request("www.example.org", 80, "/", &[])),
        (&client, request("plain.other", 3306, "/", &[])),
        (&gateway, request("shop.example.com", 80, "/products", &[])),
        (&gateway, request("shop.example.com", 80, "/", &[])),
        (&gateway, request("else.example.com", 80, "/", &[])),
    ];
    let mut got = String::new();
    for (who, request) in &asked {
        got += &format!(
            "# {} {}:{}{} {:?}\n",
            who.namespace,
            request.host,
            request.port,
            request.head.path,
            request.head.headers.get("end-user")
        );
        got += &route(&mesh, who, request).to_string();
        got += "\n";
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain.txt");
    if std::env::var("MESH_GOLDEN").is_ok_and(|it| it == "write") {
        std::fs::write(&path, &got).expect("written");
        return;
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == got, "--- expected\n{want}\n--- got\n{got}");
}
