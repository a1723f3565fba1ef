//! Apply and ownership, after the documented behaviour of Kubernetes.

use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn at(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "default"}, "data": data})
}

fn deployment(replicas: Option<i64>, image: &str) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image,
                "ports": [{"containerPort": 80}]}]},
        },
    }});
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = replicas.into();
    }
    object
}

fn applied(kind: &Kind, live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply(kind, live, config, manager, false, at(1)).unwrap()
}

fn fields(object: &Value, manager: &str) -> Value {
    object["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn the_first_apply_records_what_it_sets() {
    let object = applied(kinds::DEPLOYMENT, None, &deployment(Some(3), "web:1"), "me");
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "me", "operation": "Apply", "apiVersion": "apps/v1",
            "time": "2023-11-14T22:13:21Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {
                    "f:replicas": {},
                    "f:selector": {},
                    "f:template": {
                        "f:metadata": {"f:labels": {"f:app": {}}},
                        "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                            ".": {}, "f:image": {}, "f:name": {},
                            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                ".": {}, "f:containerPort": {}}},
                        }}},
                    },
                },
            },
        }])
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let config = deployment(Some(3), "web:1");
    let mut live = applied(kinds::DEPLOYMENT, None, &config, "me");
    // What the server adds: defaults and identity.
    live["metadata"]["uid"] = "u".into();
    live["metadata"]["resourceVersion"] = "7".into();
    live["metadata"]["creationTimestamp"] = "2023-11-14T22:13:21Z".into();
    live["metadata"]["generation"] = 1.into();
    live["spec"]["progressDeadlineSeconds"] = 600.into();
    live["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP".into();
    live["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    live["status"] = json!({"replicas": 3});
    let mut again = config.clone();
    again["metadata"]["creationTimestamp"] = Value::Null;
    again["status"] = json!({});
    let result = apply(kinds::DEPLOYMENT, Some(&live), &again, "me", false, at(99)).unwrap();
    assert_eq!(result, live);
    assert_eq!(result.to_string(), live.to_string());
}

#[test]
fn a_conflict_names_field_and_owner_in_kubernetes_words() {
    let mut live = deployment(Some(3), "web:1");
    track(
        kinds::DEPLOYMENT,
        None,
        &mut live,
        "kubectl-client-side-apply",
        "",
        at(0),
    );
    let refused = apply(
        kinds::DEPLOYMENT,
        Some(&live),
        &deployment(Some(5), "web:1"),
        "me",
        false,
        at(1),
    )
    .unwrap_err();
    assert_eq!(refused.code, 409);
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        refused.details.unwrap()["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"}])
    );
    let refused = apply(
        kinds::DEPLOYMENT,
        Some(&live),
        &deployment(Some(5), "web:2"),
        "me",
        false,
        at(1),
    )
    .unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.replicas\n\
         - .spec.template.spec.containers[name=\"web\"].image"
    );
    let forced = apply(
        kinds::DEPLOYMENT,
        Some(&live),
        &deployment(Some(5), "web:2"),
        "me",
        true,
        at(1),
    )
    .unwrap();
    assert_eq!(forced["spec"]["replicas"], 5);
    let theirs = fields(&forced, "kubectl-client-side-apply");
    assert!(theirs["f:spec"].get("f:replicas").is_none());
    assert!(theirs["f:spec"].get("f:selector").is_some());
}

#[test]
fn equal_values_are_owned_together() {
    let mut live = deployment(Some(3), "web:1");
    track(
        kinds::DEPLOYMENT,
        None,
        &mut live,
        "kubectl-create",
        "",
        at(0),
    );
    let shared = applied(
        kinds::DEPLOYMENT,
        Some(&live),
        &deployment(Some(3), "web:1"),
        "me",
    );
    assert_eq!(fields(&shared, "me")["f:spec"]["f:replicas"], json!({}));
    assert_eq!(
        fields(&shared, "kubectl-create")["f:spec"]["f:replicas"],
        json!({})
    );
}

#[test]
fn what_is_no_longer_applied_goes_when_nobody_else_owns_it() {
    let live = applied(
        kinds::CONFIG_MAP,
        None,
        &config_map(json!({"a": "1", "b": "2"})),
        "one",
    );
    let live = applied(
        kinds::CONFIG_MAP,
        Some(&live),
        &config_map(json!({"b": "2", "c": "3"})),
        "two",
    );
    assert_eq!(live["data"], json!({"a": "1", "b": "2", "c": "3"}));
    let live = applied(
        kinds::CONFIG_MAP,
        Some(&live),
        &config_map(json!({"a": "1"})),
        "one",
    );
    assert_eq!(
        live["data"],
        json!({"a": "1", "b": "2", "c": "3"}),
        "b is two's as well"
    );
    let live = applied(
        kinds::CONFIG_MAP,
        Some(&live),
        &config_map(json!({})),
        "two",
    );
    assert_eq!(live["data"], json!({"a": "1"}));
    let live = applied(
        kinds::CONFIG_MAP,
        Some(&live),
        &config_map(json!({"d": "4"})),
        "one",
    );
    assert_eq!(live["data"], json!({"d": "4"}));
}

#[test]
fn a_container_goes_with_its_defaults() {
    let mut config = deployment(None, "web:1");
    let containers = &mut config["spec"]["template"]["spec"]["containers"];
    containers
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "side", "image": "side:1"}));
    let mut live = applied(kinds::DEPLOYMENT, None, &config, "me");
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always".into();
    let live = applied(
        kinds::DEPLOYMENT,
        Some(&live),
        &deployment(None, "web:1"),
        "me",
    );
    let left = live["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["name"], "web");
}

#[test]
fn leaving_replicas_to_an_autoscaler() {
    let live = applied(kinds::DEPLOYMENT, None, &deployment(Some(3), "web:1"), "me");
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 7.into();
    track(
        kinds::DEPLOYMENT,
        Some(&live),
        &mut scaled,
        "autoscaler",
        "scale",
        at(2),
    );
    assert!(fields(&scaled, "me")["f:spec"].get("f:replicas").is_none());
    assert_eq!(
        fields(&scaled, "autoscaler"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    let refused = apply(
        kinds::DEPLOYMENT,
        Some(&scaled),
        &deployment(Some(3), "web:1"),
        "me",
        false,
        at(3),
    )
    .unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"autoscaler\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let left = applied(
        kinds::DEPLOYMENT,
        Some(&scaled),
        &deployment(None, "web:1"),
        "me",
    );
    assert_eq!(left["spec"]["replicas"], 7);
}

#[test]
fn updates_are_tracked_per_manager_and_unchanged_ones_leave_no_mark() {
    let mut live = config_map(json!({"a": "1", "b": "1"}));
    track(kinds::CONFIG_MAP, None, &mut live, "one", "", at(0));
    assert_eq!(
        fields(&live, "one"),
        json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}})
    );
    let mut same = live.clone();
    track(kinds::CONFIG_MAP, Some(&live), &mut same, "two", "", at(5));
    assert_eq!(same, live);
    let mut next = config_map(json!({"a": "2"}));
    track(kinds::CONFIG_MAP, Some(&live), &mut next, "two", "", at(6));
    assert_eq!(fields(&next, "one"), json!({"f:data": {}}));
    assert_eq!(fields(&next, "two"), json!({"f:data": {"f:a": {}}}));
}

#[test]
fn status_and_specification_are_tracked_apart() {
    let mut live = deployment(Some(1), "web:1");
    track(kinds::DEPLOYMENT, None, &mut live, "kubectl", "", at(0));
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    track(
        kinds::DEPLOYMENT,
        Some(&live),
        &mut new,
        "controller",
        "status",
        at(1),
    );
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry["manager"] == "controller")
        .unwrap();
    assert_eq!(entry["subresource"], "status");
    assert!(entry["fieldsV1"].get("f:spec").is_none());
    assert!(
        entry["fieldsV1"]["f:status"]["f:conditions"]["k:{\"type\":\"Available\"}"]["f:status"]
            .is_object()
    );
    assert_eq!(fields(&new, "kubectl"), fields(&live, "kubectl"));
}

#[test]
fn items_of_others_keep_their_place() {
    let mut config = deployment(None, "web:1");
    let live = applied(kinds::DEPLOYMENT, None, &config, "me");
    let mut injected = live.clone();
    let containers = injected["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap();
    containers.insert(0, json!({"name": "proxy", "image": "proxy:1"}));
    track(
        kinds::DEPLOYMENT,
        Some(&live),
        &mut injected,
        "injector",
        "",
        at(1),
    );
    config["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into();
    let next = applied(kinds::DEPLOYMENT, Some(&injected), &config, "me");
    let names: Vec<&Value> = next["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["proxy", "web"]);
    assert_eq!(
        next["spec"]["template"]["spec"]["containers"][1]["image"],
        "web:2"
    );
}

#[test]
fn finalizers_are_a_set() {
    let config = |finalizers: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "c", "namespace": "default", "finalizers": finalizers}})
    };
    let live = applied(kinds::CONFIG_MAP, None, &config(json!(["a/x"])), "one");
    let live = applied(
        kinds::CONFIG_MAP,
        Some(&live),
        &config(json!(["b/y"])),
        "two",
    );
    assert_eq!(live["metadata"]["finalizers"], json!(["b/y", "a/x"]));
    assert_eq!(
        fields(&live, "two"),
        json!({"f:metadata": {"f:finalizers": {"v:\"b/y\"": {}}}})
    );
    let live = applied(kinds::CONFIG_MAP, Some(&live), &config(json!([])), "one");
    assert_eq!(live["metadata"]["finalizers"], json!(["b/y"]));
}

#[test]
fn atomic_fields_are_owned_whole() {
    let service = |selector: Value| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "s", "namespace": "default"},
            "spec": {"selector": selector, "ports": [{"port": 80}]}})
    };
    let live = applied(
        kinds::SERVICE,
        None,
        &service(json!({"a": "1", "b": "2"})),
        "me",
    );
    let live = applied(
        kinds::SERVICE,
        Some(&live),
        &service(json!({"a": "1"})),
        "me",
    );
    assert_eq!(live["spec"]["selector"], json!({"a": "1"}));
    assert_eq!(fields(&live, "me")["f:spec"]["f:selector"], json!({}));
}

#[test]
fn malformed_configurations_are_refused() {
    let mut config = deployment(None, "web:1");
    let containers = config["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap();
    containers.push(json!({"name": "web"}));
    let refused = apply(kinds::DEPLOYMENT, None, &config, "me", false, at(0)).unwrap_err();
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.message,
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): \
         .spec.template.spec.containers: duplicate entries for key [name=\"web\"]"
    );
    let mut config = config_map(json!({}));
    config["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let refused = apply(kinds::CONFIG_MAP, None, &config, "me", false, at(0)).unwrap_err();
    assert_eq!(refused.message, "metadata.managedFields must be nil");
}

#[test]
fn untracked_objects_belong_to_before_first_apply() {
    let live = config_map(json!({"a": "1"}));
    let refused = apply(
        kinds::CONFIG_MAP,
        Some(&live),
        &config_map(json!({"a": "2"})),
        "me",
        false,
        at(0),
    )
    .unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
}

#[test]
fn update_managers_are_bounded() {
    let mut live = config_map(json!({}));
    for index in 0..30 {
        let mut next = live.clone();
        next["data"][format!("k{index:02}")] = "v".into();
        track(
            kinds::CONFIG_MAP,
            Some(&live),
            &mut next,
            &format!("m{index:02}"),
            "",
            at(index),
        );
        live = next;
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), UPDATE_MANAGERS_MAX);
    let ancient = fields(&live, ANCIENT_CHANGES);
    assert!(ancient["f:data"].get("f:k00").is_some());
    assert_eq!(fields(&live, "m29"), json!({"f:data": {"f:k29": {}}}));
}

#[test]
fn null_in_a_configuration_removes_the_field() {
    let live = applied(
        kinds::CONFIG_MAP,
        None,
        &config_map(json!({"a": "1", "b": "2"})),
        "me",
    );
    let live = applied(
        kinds::CONFIG_MAP,
        Some(&live),
        &config_map(json!({"a": null, "b": "2"})),
        "me",
    );
    assert_eq!(live["data"], json!({"b": "2"}));
}

#[test]
fn field_sets_survive_their_json_form() {
    let object = applied(kinds::DEPLOYMENT, None, &deployment(Some(3), "web:1"), "me");
    let json = fields(&object, "me");
    assert_eq!(FieldSet::from_json(&json).to_json(), json);
    assert!(FieldSet::from_json(&json!({})).is_empty());
    assert!(FieldSet::from_json(&json!("odd")).is_empty());
}

#[test]
fn versions_and_uids_in_a_configuration_are_preconditions() {
    let mut live = applied(
        kinds::CONFIG_MAP,
        None,
        &config_map(json!({"a": "1"})),
        "me",
    );
    live["metadata"]["resourceVersion"] = "7".into();
    live["metadata"]["uid"] = "u".into();
    let with = |field: &str, value: &str| {
        let mut config = config_map(json!({"a": "2"}));
        config["metadata"][field] = value.into();
        apply(kinds::CONFIG_MAP, Some(&live), &config, "me", true, at(2))
    };
    assert_eq!(with("resourceVersion", "7").unwrap()["data"]["a"], "2");
    assert_eq!(
        with("resourceVersion", "6").unwrap_err(),
        Status::modified(kinds::CONFIG_MAP, "c")
    );
    assert!(with("uid", "u").is_ok());
    assert_eq!(with("uid", "other").unwrap_err().code, 409);
}
