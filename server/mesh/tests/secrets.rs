//! Certificates go to the gateway that needs them and to nobody else.

mod support;

use support::{mesh, workload};
use trireme_mesh::{Kind, Subscription};
use trireme_xds::parse;

const OBJECTS: &str = "
kind: Gateway
metadata: {name: gate}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: MUTUAL, credentialName: a-cert}}
---
kind: Secret
metadata: {name: a-cert, namespace: istio-system}
type: kubernetes.io/tls
data: {tls.crt: QQ==, tls.key: Qg==, ca.crt: Qw==}
---
kind: Secret
metadata: {name: other, namespace: istio-system}
type: kubernetes.io/tls
data: {tls.crt: QQ==, tls.key: Qg==}
---
kind: Secret
metadata: {name: a-cert, namespace: default}
type: kubernetes.io/tls
data: {tls.crt: QQ==, tls.key: Qg==}";

fn names(who: &str, wanted: &Subscription) -> Vec<String> {
    let mesh = mesh(OBJECTS);
    let made = mesh.generate(&workload(who), Kind::Secret, wanted);
    for one in &made {
        assert!(parse::resource(&one.body).is_ok());
    }
    made.into_iter().map(|it| it.name).collect()
}

#[test]
fn a_gateway_gets_what_its_servers_name() {
    let all = names(
        "router istio-system istio=ingressgateway",
        &Subscription::All,
    );
    assert_eq!(all, ["kubernetes://a-cert", "kubernetes://a-cert-cacert"]);
}

#[test]
fn nobody_gets_another_secret_by_asking() {
    let ask =
        |names: &[&str]| Subscription::Names(names.iter().map(|it| (*it).to_owned()).collect());
    let other = ask(&["kubernetes://other", "kubernetes://istio-system/other"]);
    assert!(names("router istio-system istio=ingressgateway", &other).is_empty());
    assert!(
        names(
            "router istio-system istio=egressgateway",
            &ask(&["kubernetes://a-cert"])
        )
        .is_empty()
    );
    assert!(names("sidecar default app=client", &ask(&["kubernetes://a-cert"])).is_empty());
    assert!(
        names(
            "sidecar istio-system istio=ingressgateway",
            &ask(&["kubernetes://a-cert"])
        )
        .is_empty()
    );
}
