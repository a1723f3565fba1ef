//! Cases from Kubernetes' documentation of its patches.

use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn deployment(spec: Value) -> Value {
    json!({"metadata": {"name": "d"}, "spec": spec})
}

fn strategic_spec(spec: Value, patch: Value) -> Value {
    strategic(
        kinds::DEPLOYMENT,
        &deployment(spec),
        &json!({"spec": patch}),
    )
    .unwrap()["spec"]
        .clone()
}

fn pod_spec(spec: Value, patch: Value) -> Value {
    strategic(kinds::POD, &json!({"spec": spec}), &json!({"spec": patch})).unwrap()["spec"].clone()
}

#[test]
fn json_patch_and_its_refusals() {
    let object = json!({"metadata": {"labels": {"a": "1"}}});
    let patch = json!([
        {"op": "test", "path": "/metadata/labels/a", "value": "1"},
        {"op": "add", "path": "/metadata/labels/b", "value": "2"},
        {"op": "remove", "path": "/metadata/labels/a"},
    ]);
    let patched = super::json(&object, &patch).unwrap();
    assert_eq!(patched, json!({"metadata": {"labels": {"b": "2"}}}));

    let failing = json!([{"op": "test", "path": "/metadata/labels/a", "value": "9"}]);
    assert_eq!(super::json(&object, &failing).unwrap_err().code, 422);
    let missing = json!([{"op": "remove", "path": "/spec"}]);
    assert_eq!(super::json(&object, &missing).unwrap_err().code, 422);
    assert_eq!(
        super::json(&object, &json!({"op": "add"}))
            .unwrap_err()
            .code,
        400
    );
    assert_eq!(
        super::json(&object, &json!([{"op": "fly", "path": ""}]))
            .unwrap_err()
            .code,
        400
    );
    let root = json!([{"op": "replace", "path": "", "value": 1}]);
    assert_eq!(super::json(&object, &root).unwrap_err().code, 422);
}

#[test]
fn json_patch_cannot_grow_without_bound() {
    let object = json!({"a": "x".repeat(1000)});
    let copy = |index: usize| json!({"op": "copy", "from": "", "path": format!("/b{index}")});
    let doubling: Vec<Value> = (0..40).map(copy).collect();
    let refused = super::json(&object, &Value::Array(doubling)).map_err(|status| status.code);
    assert_eq!(refused.err(), Some(413));
    let one = json!({"op": "test", "path": "/a", "value": 1});
    let many = Value::Array(vec![one; JSON_PATCH_MAX_OPERATIONS + 1]);
    assert_eq!(super::json(&object, &many).unwrap_err().code, 413);
}

#[test]
fn merge_patch() {
    let object = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
    let patch = json!({"a": {"b": null, "c": [3]}, "e": {"f": null, "g": 1}});
    let patched = merge(&object, &patch).unwrap();
    assert_eq!(patched, json!({"a": {"c": [3]}, "d": 1, "e": {"g": 1}}));
    assert_eq!(merge(&object, &json!([1])).unwrap_err().code, 400);
}

#[test]
fn containers_merge_by_name() {
    let spec = json!({"template": {"spec": {"containers": [
        {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}]},
        {"name": "log", "image": "log:1"},
    ]}}});
    let patch = json!({"template": {"spec": {"containers": [
        {"name": "web", "image": "web:2", "env": [{"name": "B", "value": "2"}]},
        {"name": "new", "image": "new:1", "command": null},
    ]}}});
    assert_eq!(
        strategic_spec(spec, patch),
        json!({"template": {"spec": {"containers": [
            {"name": "web", "image": "web:2",
             "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"name": "log", "image": "log:1"},
            {"name": "new", "image": "new:1"},
        ]}}})
    );
}

#[test]
fn tolerations_and_arguments_are_replaced() {
    let spec = json!({
        "tolerations": [{"key": "a"}],
        "containers": [{"name": "c", "args": ["x"], "envFrom": [{"prefix": "A"}]}],
    });
    let patch = json!({
        "tolerations": [{"key": "b"}],
        "containers": [{"name": "c", "args": ["y", "z"], "envFrom": [{"prefix": "B"}]}],
    });
    assert_eq!(pod_spec(spec, patch.clone()), patch);
}

#[test]
fn directives_delete_and_replace() {
    let spec = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
    assert_eq!(
        pod_spec(
            spec.clone(),
            json!({"containers": [{"name": "a", "$patch": "delete"}]})
        ),
        json!({"containers": [{"name": "b", "image": "1"}]})
    );
    assert_eq!(
        pod_spec(
            spec.clone(),
            json!({"containers": [{"name": "c", "image": "2"}, {"$patch": "replace"}]})
        ),
        json!({"containers": [{"name": "c", "image": "2"}]})
    );
    assert_eq!(
        pod_spec(
            spec.clone(),
            json!({"containers": [{"name": "a", "image": "2", "$patch": "merge"}]})
        ),
        json!({"containers": [{"name": "a", "image": "2"}, {"name": "b", "image": "1"}]})
    );
    assert_eq!(
        pod_spec(
            json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
            json!({"securityContext": {"$patch": "replace", "runAsUser": 3}})
        ),
        json!({"securityContext": {"runAsUser": 3}})
    );
    assert_eq!(
        pod_spec(
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "delete"}})
        ),
        json!({"nodeSelector": {}})
    );
    let wrong = json!({"spec": {"containers": [{"name": "a", "$patch": "explode"}]}});
    assert_eq!(
        strategic(kinds::POD, &json!({"spec": spec}), &wrong)
            .unwrap_err()
            .code,
        400
    );
}

#[test]
fn primitive_lists_merge_and_lose_items() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["a"],
        "$setElementOrder/finalizers": ["c", "b"],
        "finalizers": ["c"],
    }});
    assert_eq!(
        strategic(kinds::CONFIG_MAP, &object, &patch).unwrap(),
        json!({"metadata": {"finalizers": ["c", "b"]}})
    );
    let patch = json!({"metadata": {"finalizers": ["c", "a"]}});
    assert_eq!(
        strategic(kinds::CONFIG_MAP, &object, &patch).unwrap(),
        json!({"metadata": {"finalizers": ["a", "b", "c"]}})
    );
}

#[test]
fn element_order_moves_items_as_kubectl_apply_asks() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "side"}, {"name": "b"}]});
    let patch = json!({
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "b", "image": "2"}],
    });
    // "side" came by another hand: it stays before "b", where the server had it.
    assert_eq!(
        pod_spec(spec.clone(), patch),
        json!({"containers": [{"name": "side"}, {"name": "b", "image": "2"}, {"name": "a"}]})
    );
    let wrong = json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}],
        "containers": [{"name": "b"}],
    }});
    let status = strategic(kinds::POD, &json!({"spec": spec}), &wrong).unwrap_err();
    assert_eq!(
        status.message,
        "invalid patch format of setElementOrder list"
    );
}

#[test]
fn retained_keys_drop_the_others() {
    let spec = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
    let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
    assert_eq!(
        strategic_spec(spec, patch),
        json!({"strategy": {"type": "Recreate"}})
    );
    let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let patch = json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"],
        "hostPath": {"path": "/x"}}]});
    assert_eq!(
        pod_spec(volumes.clone(), patch),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]})
    );
    let patch =
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {}}]}});
    let status = strategic(kinds::POD, &json!({"spec": volumes}), &patch).unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (400, "invalid patch format of retainKeys")
    );
}

#[test]
fn a_missing_merge_key_is_refused() {
    let object = json!({"spec": {"containers": [{"name": "a"}]}});
    let patch = json!({"spec": {"containers": [{"image": "b"}]}});
    assert_eq!(
        strategic(kinds::POD, &object, &patch).unwrap_err().code,
        422
    );
}

#[test]
fn conditions_merge_by_type_and_service_ports_by_port() {
    let node = json!({"status": {"conditions": [
        {"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "False"}]}});
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(
        strategic(kinds::NODE, &node, &patch).unwrap()["status"]["conditions"],
        json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}])
    );
    let service = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 443}]}});
    let patch =
        json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}], "selector": {"x": "y"}}});
    assert_eq!(
        strategic(kinds::SERVICE, &service, &patch).unwrap()["spec"],
        json!({"ports": [{"port": 80, "name": "a", "targetPort": 8080}, {"port": 443}],
            "selector": {"x": "y"}})
    );
}
