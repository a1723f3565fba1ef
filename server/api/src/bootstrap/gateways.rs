//! Ingress and egress gateway, and the mesh's settings, in `istio-system`: what Istio's installation leaves behind.
//!
//! A gateway is the sidecars' program in another role, in Deployments that users may scale, label and replace.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::admission::injection::template::{self, CONTAINER, IMAGE, Proxy, Role, STATUS_PORT};

pub(crate) const NAMESPACE: &str = "istio-system";
/// Istio's MeshConfig: what its demo profile says, as far as it means something here.
const MESH: &str = "\
accessLogFile: /dev/stdout
defaultConfig:
  holdApplicationUntilProxyStarts: true
outboundTrafficPolicy:
  mode: ALLOW_ANY
rootNamespace: istio-system
trustDomain: cluster.local
";

struct Gateway {
    name: &'static str,
    /// Value of the label `istio`, which Gateways select by.
    istio: &'static str,
    service_type: &'static str,
    /// One machine may be lost without the way in being lost.
    replicas: i64,
}

const GATEWAYS: [Gateway; 2] = [
    Gateway {
        name: "istio-ingressgateway",
        istio: "ingressgateway",
        service_type: "LoadBalancer",
        replicas: 2,
    },
    Gateway {
        name: "istio-egressgateway",
        istio: "egressgateway",
        service_type: "ClusterIP",
        replicas: 1,
    },
];

/// The namespace first.
pub(crate) fn objects(api_address: Ipv4Addr, cluster_domain: &str) -> Vec<Value> {
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": NAMESPACE },
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "istio", "namespace": NAMESPACE },
            "data": { "mesh": MESH },
        }),
    ];
    for gateway in &GATEWAYS {
        objects.extend(gateway.objects(api_address, cluster_domain));
    }
    objects
}

impl Gateway {
    fn objects(&self, api_address: Ipv4Addr, cluster_domain: &str) -> [Value; 3] {
        let labels = json!({ "app": self.name, "istio": self.istio });
        let account = format!("{}-service-account", self.name);
        let port = |name: &str, port: u16, target: u16| json!({ "name": name, "port": port, "targetPort": target, "protocol": "TCP" });
        let mut ports = vec![port("http2", 80, 8080), port("https", 443, 8443)];
        if self.service_type == "LoadBalancer" {
            ports.insert(0, port("status-port", STATUS_PORT, STATUS_PORT));
        }
        [
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": { "name": account, "namespace": NAMESPACE, "labels": labels },
            }),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": self.name, "namespace": NAMESPACE, "labels": labels },
                "spec": { "type": self.service_type, "selector": labels, "ports": ports },
            }),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": { "name": self.name, "namespace": NAMESPACE, "labels": labels },
                "spec": {
                    "replicas": self.replicas,
                    "selector": { "matchLabels": labels },
                    "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                    "template": self.template(&account, &labels, api_address, cluster_domain),
                },
            }),
        ]
    }

    fn template(
        &self,
        account: &str,
        labels: &Value,
        api_address: Ipv4Addr,
        cluster_domain: &str,
    ) -> Value {
        let owner = format!(
            "kubernetes://apis/apps/v1/namespaces/{NAMESPACE}/deployments/{}",
            self.name
        );
        let container = template::container(&Proxy {
            role: Role::Router,
            image: IMAGE,
            api_address,
            cluster_domain,
            workload: self.name,
            owner: &owner,
            app_containers: "",
            app_ports: "[]",
            requests: template::default_requests(),
            limits: Default::default(),
        });
        let mut labels = labels.clone();
        labels["service.istio.io/canonical-name"] = self.name.into();
        labels["service.istio.io/canonical-revision"] = "latest".into();
        labels["sidecar.istio.io/inject"] = "false".into();
        json!({
            "metadata": {
                "labels": labels,
                "annotations": { "kubectl.kubernetes.io/default-container": CONTAINER },
            },
            "spec": {
                "serviceAccountName": account,
                "containers": [container],
                "volumes": template::volumes(),
                // Apart where there are several nodes.
                "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
                    "weight": 100,
                    "podAffinityTerm": {
                        "labelSelector": { "matchLabels": { "app": self.name } },
                        "topologyKey": "kubernetes.io/hostname",
                    },
                }] } },
            },
        })
    }
}
