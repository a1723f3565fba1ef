//! Istio's kinds through the API, and what the mesh does to pods.

use serde_json::{Value, json};

use crate::cluster::{Answer, Cluster, PODS, SERVICES, admin, pod, version};

fn path(version: &str, plural: &str) -> String {
    format!("/apis/networking.istio.io/{version}/namespaces/default/{plural}")
}

fn virtual_service(version: &str, weight: i64) -> Value {
    json!({
        "apiVersion": format!("networking.istio.io/{version}"), "kind": "VirtualService",
        "metadata": {"name": "b"},
        "spec": {"hosts": ["b"], "http": [{"route": [
            {"destination": {"host": "b", "subset": "v1"}, "weight": weight},
            {"destination": {"host": "b", "subset": "v2"}, "weight": 100 - weight},
        ]}]},
    })
}

async fn make_service(cluster: &Cluster) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"},
        "spec": {"selector": {"app": "b"}, "ports": [{"port": 80}]}});
    cluster.call("POST", SERVICES, service).await.ok();
}

async fn make_rule(cluster: &Cluster, name: &str, subsets: &[&str]) -> Answer {
    let subsets: Vec<Value> = subsets
        .iter()
        .map(|subset| json!({"name": subset, "labels": {"version": subset}}))
        .collect();
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": name}, "spec": {"host": name, "subsets": subsets}});
    cluster
        .call("POST", &path("v1", "destinationrules"), rule)
        .await
}

fn warnings(answer: &Answer) -> Vec<String> {
    answer
        .headers
        .get_all("warning")
        .iter()
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn one_object_is_seen_in_every_version() {
    let cluster = Cluster::start().await;
    make_service(&cluster).await;
    let rule = make_rule(&cluster, "b", &["v1", "v2"]).await;
    assert!(warnings(&rule).is_empty());
    let made = cluster
        .call(
            "POST",
            &path("v1alpha3", "virtualservices"),
            virtual_service("v1alpha3", 98),
        )
        .await;
    assert_eq!(made.code, 201);
    assert!(warnings(&made).is_empty());
    let made = made.body;
    assert_eq!(made["apiVersion"], "networking.istio.io/v1alpha3");
    assert_eq!(made["metadata"]["generation"], 1);
    assert!(made.get("status").is_none());
    for version_ in ["v1", "v1beta1", "v1alpha3"] {
        let collection = path(version_, "virtualservices");
        let expected = format!("networking.istio.io/{version_}");
        let read = cluster.get(&format!("{collection}/b")).await.ok();
        assert_eq!(read["apiVersion"], expected);
        assert_eq!(read["spec"], made["spec"]);
        assert_eq!(version(&read), version(&made));
        let list = cluster.get(&collection).await.ok();
        assert_eq!(list["apiVersion"], expected);
        assert_eq!(list["kind"], "VirtualServiceList");
        assert_eq!(list["items"][0]["spec"], made["spec"]);
    }
    // Watched in one version, changed in another.
    let mut watch = cluster
        .watch(&format!(
            "{}?watch=true&resourceVersion={}",
            path("v1alpha3", "virtualservices"),
            version(&made)
        ))
        .await;
    let mut current = cluster
        .watch(&format!(
            "{}?watch=true&resourceVersion={}",
            path("v1", "virtualservices"),
            version(&made)
        ))
        .await;
    cluster
        .call(
            "PUT",
            &format!("{}/b", path("v1", "virtualservices")),
            virtual_service("v1", 30),
        )
        .await
        .ok();
    for (watch, expected) in [
        (&mut watch, "networking.istio.io/v1alpha3"),
        (&mut current, "networking.istio.io/v1"),
    ] {
        let (event_type, seen) = watch.next().await.unwrap();
        assert_eq!(event_type, "MODIFIED");
        assert_eq!(seen["apiVersion"], expected);
        assert_eq!(seen["metadata"]["generation"], 2);
    }
    cluster
        .call(
            "DELETE",
            &format!("{}/b", path("v1beta1", "virtualservices")),
            Value::Null,
        )
        .await
        .ok();
    cluster
        .get(&format!("{}/b", path("v1", "virtualservices")))
        .await
        .refused(
            404,
            "NotFound",
            "virtualservices.networking.istio.io \"b\" not found",
        );
}

#[tokio::test]
async fn old_spellings_are_taken_with_a_warning_that_says_what_to_write() {
    let cluster = Cluster::start().await;
    make_service(&cluster).await;
    let rule = |errors: i64| {
        json!({
            "apiVersion": "networking.istio.io/v1alpha3", "kind": "DestinationRule",
            "metadata": {"name": "b"},
            "spec": {"host": "b", "trafficPolicy": {
                "tcp": {"maxConnections": 1},
                "outlierDetection": {"consecutiveErrors": errors, "interval": "1s"},
            }},
        })
    };
    let collection = format!(
        "{}?fieldValidation=Strict",
        path("v1alpha3", "destinationrules")
    );
    let made = cluster.call("POST", &collection, rule(1)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(
        warnings(&made),
        [
            "299 - \"spec.trafficPolicy.tcp: an old spelling; write spec.trafficPolicy.connectionPool.tcp instead\"",
            "299 - \"spec.trafficPolicy.outlierDetection.consecutiveErrors: an old spelling; write spec.trafficPolicy.outlierDetection.consecutive5xxErrors instead\"",
        ]
    );
    let item = format!("{}/b", path("v1alpha3", "destinationrules"));
    let wanted = |errors: i64| {
        json!({
            "connectionPool": {"tcp": {"maxConnections": 1}},
            "outlierDetection": {"consecutive5xxErrors": errors, "interval": "1s"},
        })
    };
    assert_eq!(made.body["spec"]["trafficPolicy"], wanted(1));
    // What is written again in the old spelling replaces what was stored in the new one.
    let patch = json!({"spec": {"trafficPolicy": {"outlierDetection": {"consecutiveErrors": 3}}}});
    let patched = cluster.patch(&item, "merge-patch+json", patch).await;
    assert_eq!(warnings(&patched).len(), 1);
    assert_eq!(patched.ok()["spec"]["trafficPolicy"], wanted(3));
    let applied = cluster.apply(&item, "k", true, rule(5)).await;
    assert_eq!(applied.ok()["spec"]["trafficPolicy"], wanted(5));
    // The same again changes nothing.
    let before = cluster.replica.revision();
    cluster.apply(&item, "k", true, rule(5)).await.ok();
    assert_eq!(cluster.replica.revision(), before);
}

#[tokio::test]
async fn faults_are_named_by_field_and_in_istios_words() {
    let cluster = Cluster::start().await;
    make_service(&cluster).await;
    make_rule(&cluster, "b", &["v1", "v2"]).await.ok();
    let collection = path("v1", "virtualservices");
    let mut object = virtual_service("v1", 130);
    cluster
        .call("POST", &collection, object.clone())
        .await
        .refused(
            422,
            "Invalid",
            "VirtualService.networking.istio.io \"b\" is invalid: spec.http[0].route[1].weight: Invalid value: -30: weight -30 < 0",
        );
    object = virtual_service("v1", 50);
    object["spec"]["http"][0]["timeuot"] = "1s".into();
    cluster
        .call(
            "POST",
            &format!("{collection}?fieldValidation=Strict"),
            object.clone(),
        )
        .await
        .refused(400, "BadRequest", "unknown field \"spec.http[0].timeuot\"");
    let warned = cluster.call("POST", &collection, object).await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warnings(&warned),
        ["299 - \"unknown field \\\"spec.http[0].timeuot\\\"\""]
    );
    cluster
        .call(
            "POST",
            &path("v1", "virtualservices"),
            virtual_service("v1beta1", 50),
        )
        .await
        .refused(400, "BadRequest", "");
}

#[tokio::test]
async fn status_is_written_by_itself() {
    let cluster = Cluster::start().await;
    let collection = path("v1", "virtualservices");
    cluster
        .call("POST", &collection, virtual_service("v1", 50))
        .await
        .ok();
    let status = json!({"status": {"observedGeneration": 1, "conditions": [
        {"type": "Reconciled", "status": "False", "reason": "NoSuchHost", "message": "no service b",
            "lastTransitionTime": "2026-01-02T03:04:05Z"}]}});
    let item = format!("{collection}/b");
    let patched = cluster
        .patch(
            &format!("{item}/status"),
            "merge-patch+json",
            status.clone(),
        )
        .await
        .ok();
    assert_eq!(patched["status"], status["status"]);
    assert_eq!(patched["metadata"]["generation"], 1);
    // A write of the rest leaves it.
    let changed = cluster
        .call("PUT", &item, virtual_service("v1", 10))
        .await
        .ok();
    assert_eq!(changed["status"], status["status"]);
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn tables_have_istios_columns() {
    let cluster = Cluster::start().await;
    cluster
        .call(
            "POST",
            &path("v1", "virtualservices"),
            virtual_service("v1", 50),
        )
        .await
        .ok();
    let table = cluster
        .send(
            Some(admin()),
            "GET",
            &path("v1beta1", "virtualservices"),
            &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")],
            "",
        )
        .await
        .ok();
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Gateways", "Hosts", "Age"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!(cells[0], "b");
    assert_eq!(cells[1], Value::Null);
    assert_eq!(cells[2], "[\"b\"]");
}

#[tokio::test]
async fn discovery_lists_three_versions_and_prefers_v1() {
    let cluster = Cluster::start().await;
    let group = cluster.get("/apis/networking.istio.io").await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let resources = cluster.get("/apis/networking.istio.io/v1").await.ok();
    let found = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|each| each["name"] == "virtualservices")
        .unwrap();
    assert_eq!(found["shortNames"], json!(["vs"]));
    assert_eq!(
        found["categories"],
        json!(["istio-io", "networking-istio-io"])
    );
    let old = cluster.get("/apis/networking.istio.io/v1alpha3").await.ok();
    let names: Vec<&str> = old["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|each| each["name"].as_str())
        .collect();
    assert!(names.contains(&"envoyfilters") && names.contains(&"gateways/status"));
    // Old clients check objects against this document: old spellings have a place in it.
    let document = cluster.get("/openapi/v2").await.ok();
    let definitions = &document["definitions"];
    let policy = &definitions["io.istio.networking.TrafficPolicy"]["properties"];
    assert!(policy.get("tcp").is_some());
    let delay = &definitions["io.istio.networking.HTTPFaultDelay"]["properties"];
    assert!(delay["percentage"].get("type").is_none());
    let current = cluster
        .get("/openapi/v3/apis/networking.istio.io/v1")
        .await
        .ok();
    let schemas = &current["components"]["schemas"];
    let rule = &schemas["io.istio.networking.v1.DestinationRule"];
    assert_eq!(
        rule["x-kubernetes-group-version-kind"],
        json!([{"group": "networking.istio.io", "version": "v1", "kind": "DestinationRule"}])
    );
}

async fn label_default(cluster: &Cluster, labels: Value) {
    cluster
        .patch(
            "/api/v1/namespaces/default",
            "merge-patch+json",
            json!({"metadata": {"labels": labels}}),
        )
        .await
        .ok();
}

fn proxies(pod: &Value) -> usize {
    pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|each| each["name"] == "istio-proxy")
        .count()
}

#[tokio::test]
async fn pods_get_a_proxy_where_their_namespace_says_so() {
    let cluster = Cluster::start().await;
    let made = cluster.call("POST", PODS, pod("plain")).await.ok();
    assert_eq!(proxies(&made), 0);
    label_default(&cluster, json!({"istio-injection": "enabled"})).await;
    let made = cluster.call("POST", PODS, pod("meshed")).await.ok();
    assert_eq!(proxies(&made), 1);
    let proxy = &made["spec"]["initContainers"][0];
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["imagePullPolicy"], "IfNotPresent");
    assert_eq!(made["status"]["qosClass"], "Burstable");
    // It gets what every container gets.
    let mounts: Vec<&str> = proxy["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    assert_eq!(
        mounts,
        [
            "/etc/istio/pod",
            "/var/run/secrets/tokens",
            "/var/run/secrets/istio",
            "/var/run/secrets/kubernetes.io/serviceaccount"
        ]
    );
    // A copy of it does not get a second one.
    let mut again = made.clone();
    again["metadata"] = json!({"name": "again"});
    let again = cluster.call("POST", PODS, again).await.ok();
    assert_eq!(proxies(&again), 1);
    let mut without = pod("without");
    without["metadata"]["labels"]["sidecar.istio.io/inject"] = "false".into();
    assert_eq!(proxies(&cluster.call("POST", PODS, without).await.ok()), 0);
    let mut odd = pod("odd");
    odd["metadata"]["annotations"] =
        json!({"traffic.sidecar.istio.io/excludeOutboundPorts": "http"});
    cluster.call("POST", PODS, odd).await.refused(
        422,
        "Invalid",
        "metadata.annotations[traffic.sidecar.istio.io/excludeOutboundPorts]: Invalid value: \"http\"",
    );
}

#[tokio::test]
async fn every_cluster_has_its_gateways() {
    let cluster = Cluster::with(|config| config.mesh_gateways = true).await;
    let services = "/api/v1/namespaces/istio-system/services";
    let ingress = cluster
        .get(&format!("{services}/istio-ingressgateway"))
        .await
        .ok();
    assert_eq!(ingress["spec"]["type"], "LoadBalancer");
    assert_ne!(ingress["spec"]["clusterIP"], Value::Null);
    for port in ingress["spec"]["ports"].as_array().unwrap() {
        assert!(port["nodePort"].as_i64().unwrap() >= 30000, "{port}");
    }
    let egress = cluster
        .get(&format!("{services}/istio-egressgateway"))
        .await
        .ok();
    assert_eq!(egress["spec"]["type"], "ClusterIP");
    let deployments = "/apis/apps/v1/namespaces/istio-system/deployments";
    let gateway = cluster
        .get(&format!("{deployments}/istio-ingressgateway"))
        .await
        .ok();
    let template = &gateway["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["istio"], "ingressgateway");
    let container = &template["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["proxy", "router"]));
    assert_eq!(container["image"], "trireme.local/proxy");
    assert!(container.get("restartPolicy").is_none());
    // Its pods are taken as they are, also where the namespace asks for proxies.
    let mut made = pod("gateway");
    made["metadata"]["labels"] = template["metadata"]["labels"].clone();
    made["spec"] = template["spec"].clone();
    let pods = "/api/v1/namespaces/istio-system/pods";
    let made = cluster.call("POST", pods, made).await.ok();
    assert_eq!(proxies(&made), 0);
    let mesh = cluster
        .get("/api/v1/namespaces/istio-system/configmaps/istio")
        .await
        .ok();
    assert!(mesh["data"]["mesh"].as_str().unwrap().contains("ALLOW_ANY"));
    // Again at the next start: what users changed stays.
    cluster
        .patch(
            &format!("{deployments}/istio-ingressgateway"),
            "merge-patch+json",
            json!({"spec": {"replicas": 5}}),
        )
        .await
        .ok();
    cluster.api.ensure_bootstrap().await.unwrap();
    let gateway = cluster
        .get(&format!("{deployments}/istio-ingressgateway"))
        .await
        .ok();
    assert_eq!(gateway["spec"]["replicas"], 5);
}

#[tokio::test]
async fn a_load_balancer_has_node_ports_and_takes_addresses_in_its_status() {
    let cluster = Cluster::start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let mut made = cluster.call("POST", SERVICES, service).await.ok();
    assert!(made["spec"]["ports"][0]["nodePort"].as_i64().is_some());
    made["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.168.7.9", "ipMode": "VIP"}]}});
    let path = format!("{SERVICES}/web/status");
    let written = cluster.call("PUT", &path, made.clone()).await.ok();
    assert_eq!(written["status"], made["status"]);
}

#[tokio::test]
async fn a_token_for_the_mesh_is_good_for_the_mesh_alone() {
    let cluster = Cluster::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster
        .call("POST", accounts, json!({"metadata": {"name": "web"}}))
        .await
        .ok();
    let wanted = json!({"spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600}});
    let answer = cluster
        .call("POST", &format!("{accounts}/web/token"), wanted)
        .await
        .ok();
    let bearer = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str())];
    cluster
        .send(None, "GET", PODS, &headers, "")
        .await
        .refused(401, "Unauthorized", "");
    // Past authentication: this cluster serves no xDS, so the path is unknown.
    let stream = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    let answer = cluster.send(None, "POST", stream, &headers, "").await;
    assert_ne!(answer.code, 401, "{}", answer.body);
    let forged = format!("{bearer}x");
    cluster
        .send(None, "POST", stream, &[("authorization", &forged)], "")
        .await
        .refused(401, "Unauthorized", "");
}

#[tokio::test]
async fn names_that_lead_nowhere_are_warned_of() {
    let cluster = Cluster::start().await;
    let collection = path("v1", "virtualservices");
    let mut object = virtual_service("v1", 50);
    object["spec"]["gateways"] = json!(["edge", "mesh"]);
    let made = cluster.call("POST", &collection, object.clone()).await;
    assert_eq!(made.code, 201);
    let host = "b.default.svc.cluster.local";
    assert_eq!(
        warnings(&made),
        [
            format!(
                "299 - \"spec.http[0].route[0].destination.host: Referenced host not found: \\\"{host}\\\"\""
            ),
            format!(
                "299 - \"spec.http[0].route[1].destination.host: Referenced host not found: \\\"{host}\\\"\""
            ),
            "299 - \"spec.gateways[0]: Referenced gateway not found: \\\"default/edge\\\"\""
                .to_owned(),
        ]
    );
    let rule = make_rule(&cluster, "b", &["v1"]).await;
    assert_eq!(
        warnings(&rule),
        [format!(
            "299 - \"spec.host: Referenced host not found: \\\"{host}\\\"\""
        )]
    );
    make_service(&cluster).await;
    let item = format!("{collection}/b");
    object["spec"]["gateways"] = json!([]);
    let changed = cluster.call("PUT", &item, object.clone()).await;
    assert_eq!(
        warnings(&changed),
        [format!(
            "299 - \"spec.http[0].route[1].destination.subset: Referenced host+subset in destinationrule not found: \\\"{host}+v2\\\"\""
        )]
    );
    // Another object for the same host.
    object["metadata"]["name"] = "other".into();
    object["spec"]["hosts"] = json!([host]);
    object["spec"]["http"] = json!([{"route": [{"destination": {"host": "b"}}]}]);
    let other = cluster.call("POST", &collection, object).await;
    let said = warnings(&other);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("virtual service default/b defines the same host"),
        "{said:?}"
    );
}
