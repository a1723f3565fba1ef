use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-5d4f-abcde", "namespace": "shop",
            "labels": {"app": "web", "version": "v2", "pod-template-hash": "5d4f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": "u", "controller": true}]},
        "spec": {"containers": [{"name": "web", "image": "web", "ports": [{"containerPort": 8080}]}],
            "initContainers": [{"name": "prepare", "image": "prepare"}]},
        "status": {"phase": "Pending", "qosClass": "BestEffort"},
    })
}

#[test]
fn namespace_and_pod_decide_together() {
    let with = |namespace: &[(&str, &str)], label: Option<&str>, annotation: Option<&str>| {
        let mut pod = pod();
        if let Some(text) = label {
            meta::set_label(&mut pod, INJECT, text);
        }
        if let Some(text) = annotation {
            pod["metadata"]["annotations"] = json!({ INJECT: text });
        }
        wanted("shop", &labels(namespace), &pod)
    };
    let enabled = &[("istio-injection", "enabled")][..];
    let disabled = &[("istio-injection", "disabled")][..];
    let revision = &[("istio.io/rev", "canary")][..];
    for (namespace, label, annotation, expected) in [
        (&[][..], None, None, false),
        (enabled, None, None, true),
        (revision, None, None, true),
        (enabled, Some("false"), None, false),
        (enabled, None, Some("false"), false),
        (enabled, Some("true"), Some("false"), true),
        (&[][..], Some("true"), None, true),
        (&[][..], None, Some("true"), true),
        (disabled, Some("true"), None, false),
        (enabled, Some("nonsense"), None, false),
    ] {
        let found = with(namespace, label, annotation);
        assert_eq!(found, expected, "{namespace:?} {label:?} {annotation:?}");
    }
}

#[test]
fn some_pods_never_get_one() {
    let enabled = labels(&[("istio-injection", "enabled")]);
    for namespace in NEVER {
        assert!(!wanted(namespace, &enabled, &pod()), "{namespace}");
    }
    let mut on_host = pod();
    on_host["spec"]["hostNetwork"] = true.into();
    assert!(!wanted("shop", &enabled, &on_host));
    for list in ["containers", "initContainers"] {
        let mut own = pod();
        own["spec"][list] = json!([{"name": "istio-proxy", "image": "x"}]);
        assert!(!wanted("shop", &enabled, &own), "{list}");
    }
}

#[test]
fn the_proxy_is_a_native_sidecar_and_starts_first() {
    let mut pod = pod();
    write(&mut pod, Ipv4Addr::new(10, 43, 0, 1), "cluster.local");
    let proxy = &pod["spec"]["initContainers"][0];
    assert_eq!(proxy["name"], "istio-proxy");
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["args"], json!(["proxy", "sidecar"]));
    assert_eq!(proxy["securityContext"]["runAsUser"], 1337);
    assert_eq!(
        proxy["resources"],
        json!({"requests": {"cpu": "10m", "memory": "40Mi"}})
    );
    assert_eq!(proxy["startupProbe"]["httpGet"]["port"], 15021);
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "prepare");
    let value = |name: &str| {
        let all = proxy["env"].as_array().unwrap();
        let found = all.iter().find(|each| each["name"] == name).unwrap();
        found["value"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(value("ISTIO_META_WORKLOAD_NAME"), "web");
    assert_eq!(
        value("ISTIO_META_OWNER"),
        "kubernetes://apis/apps/v1/namespaces/shop/deployments/web"
    );
    assert_eq!(value("DISCOVERY_ADDRESS"), "10.43.0.1:443");
    assert!(value("ISTIO_META_POD_PORTS").contains("8080"));
    let marks = meta::annotations(&pod);
    let status: Value = serde_json::from_str(&marks[STATUS]).unwrap();
    assert_eq!(status["initContainers"], json!(["istio-proxy"]));
    assert_eq!(marks["kubectl.kubernetes.io/default-container"], "web");
    let own = meta::labels(&pod);
    assert_eq!(own["service.istio.io/canonical-name"], "web");
    assert_eq!(own["service.istio.io/canonical-revision"], "v2");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    let faults = trireme_model::validate::create(POD, &{
        let mut stored = pod.clone();
        defaults::apply(POD, &mut stored);
        stored
    });
    assert_eq!(faults, Vec::new());
}

#[test]
fn annotations_size_the_proxy() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "sidecar.istio.io/proxyCPU": "100m",
        "sidecar.istio.io/proxyCPULimit": "1",
        "sidecar.istio.io/proxyMemoryLimit": "128Mi",
        "sidecar.istio.io/proxyImage": "example.com/proxy:1",
    });
    write(&mut pod, Ipv4Addr::new(10, 43, 0, 1), "cluster.local");
    let proxy = &pod["spec"]["initContainers"][0];
    assert_eq!(
        proxy["resources"],
        json!({"requests": {"cpu": "100m", "memory": "40Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}})
    );
    assert_eq!(proxy["image"], "example.com/proxy:1");
}

#[test]
fn annotations_that_interception_cannot_follow_are_refused() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8, 192.168.1.1",
        "traffic.sidecar.istio.io/excludeOutboundPorts": "80,443",
        "traffic.sidecar.istio.io/includeInboundPorts": "*",
        "traffic.sidecar.istio.io/excludeInboundPorts": "",
    });
    assert_eq!(traffic_annotations(&pod), Vec::new());
    pod["metadata"]["annotations"] = json!({
        "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/33",
        "traffic.sidecar.istio.io/excludeOutboundPorts": "http",
    });
    let faults: Vec<String> = traffic_annotations(&pod)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(faults.len(), 2);
    assert!(faults[0].starts_with(
        "metadata.annotations[traffic.sidecar.istio.io/includeOutboundIPRanges]: Invalid value: \"10.0.0.0/33\""
    ));
}
