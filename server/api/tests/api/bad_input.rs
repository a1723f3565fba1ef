//! Everything malformed gets Kubernetes' own code, reason and words, and changes nothing.

use serde_json::{Value, json};

use crate::cluster::{
    CONFIG_MAPS, Cluster, DEPLOYMENTS, PODS, SERVICES, admin, config_map, deployment, pod,
};

struct Case {
    name: &'static str,
    method: &'static str,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
    code: u16,
    reason: &'static str,
    message: &'static str,
}

fn case(
    name: &'static str,
    method: &'static str,
    path: impl Into<String>,
    body: impl Into<Body>,
    code: u16,
    reason: &'static str,
    message: &'static str,
) -> Case {
    let Body(content_type, body) = body.into();
    Case {
        name,
        method,
        path: path.into(),
        content_type,
        body,
        code,
        reason,
        message,
    }
}

struct Body(&'static str, Vec<u8>);

impl From<Value> for Body {
    fn from(value: Value) -> Body {
        Body(
            "application/json",
            if value.is_null() {
                Vec::new()
            } else {
                value.to_string().into_bytes()
            },
        )
    }
}

impl From<(&'static str, &str)> for Body {
    fn from((content_type, text): (&'static str, &str)) -> Body {
        Body(content_type, text.as_bytes().to_vec())
    }
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) => list[field.parse::<usize>().unwrap()] = value,
        parent => parent[field] = value,
    }
    object
}

fn cases() -> Vec<Case> {
    let strict = |path: &str| format!("{path}?fieldValidation=Strict");
    let big = "x".repeat(1_600_000);
    vec![
        case(
            "malformed JSON",
            "POST",
            PODS,
            ("application/json", "{\"a\": "),
            400,
            "BadRequest",
            "",
        ),
        case(
            "malformed YAML",
            "POST",
            PODS,
            ("application/yaml", "a: [b"),
            400,
            "BadRequest",
            "",
        ),
        case(
            "not an object",
            "POST",
            PODS,
            ("application/json", "[1]"),
            400,
            "BadRequest",
            "",
        ),
        case(
            "empty body",
            "POST",
            PODS,
            Value::Null,
            400,
            "BadRequest",
            "",
        ),
        case(
            "unknown media type",
            "POST",
            PODS,
            ("text/plain", "x"),
            415,
            "UnsupportedMediaType",
            "application/json",
        ),
        case(
            "unknown field",
            "POST",
            strict(DEPLOYMENTS),
            with(deployment("a"), "/spec/replica", 3.into()),
            400,
            "BadRequest",
            "strict decoding error: unknown field \"spec.replica\"",
        ),
        case(
            "duplicate field",
            "POST",
            strict(CONFIG_MAPS),
            (
                "application/json",
                r#"{"metadata":{"name":"a","name":"b"}}"#,
            ),
            400,
            "BadRequest",
            "duplicate field",
        ),
        case(
            "wrong type",
            "POST",
            DEPLOYMENTS,
            with(deployment("a"), "/spec/replicas", "two".into()),
            400,
            "BadRequest",
            "spec.replicas",
        ),
        case(
            "bad name",
            "POST",
            PODS,
            with(pod("a"), "/metadata/name", "Not_A_Name".into()),
            422,
            "Invalid",
            "metadata.name: Invalid value: \"Not_A_Name\"",
        ),
        case(
            "no name",
            "POST",
            PODS,
            with(pod("a"), "/metadata", json!({})),
            422,
            "Invalid",
            "metadata.name: Required value: name or generateName is required",
        ),
        case(
            "bad label",
            "POST",
            CONFIG_MAPS,
            with(
                config_map("a", "x"),
                "/metadata/labels",
                json!({"a": "not a value"}),
            ),
            422,
            "Invalid",
            "metadata.labels",
        ),
        case(
            "no image",
            "POST",
            PODS,
            with(pod("a"), "/spec/containers/0", json!({"name": "app"})),
            422,
            "Invalid",
            "spec.containers[0].image: Required value",
        ),
        case(
            "no containers",
            "POST",
            PODS,
            with(pod("a"), "/spec/containers", json!([])),
            422,
            "Invalid",
            "spec.containers: Required value",
        ),
        case(
            "selector does not match",
            "POST",
            DEPLOYMENTS,
            with(
                deployment("a"),
                "/spec/template/metadata/labels",
                json!({"app": "other"}),
            ),
            422,
            "Invalid",
            "spec.template.metadata.labels",
        ),
        case(
            "missing namespace",
            "POST",
            "/api/v1/namespaces/nowhere/pods",
            pod("a"),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        case(
            "other namespace in the body",
            "POST",
            PODS,
            with(pod("a"), "/metadata/namespace", "kube-system".into()),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        case(
            "other kind in the body",
            "POST",
            PODS,
            config_map("a", "x"),
            400,
            "BadRequest",
            "cannot be handled as a Pod",
        ),
        case(
            "other version in the body",
            "POST",
            DEPLOYMENTS,
            with(deployment("a"), "/apiVersion", "apps/v1beta1".into()),
            400,
            "BadRequest",
            "does not match the expected API version (apps/v1)",
        ),
        case(
            "version set on create",
            "POST",
            CONFIG_MAPS,
            with(
                config_map("a", "x"),
                "/metadata/resourceVersion",
                "7".into(),
            ),
            400,
            "BadRequest",
            "resourceVersion should not be set on objects to be created",
        ),
        case(
            "exists already",
            "POST",
            CONFIG_MAPS,
            config_map("there", "x"),
            409,
            "AlreadyExists",
            "configmaps \"there\" already exists",
        ),
        case(
            "conflicting version",
            "PUT",
            format!("{CONFIG_MAPS}/there"),
            with(
                config_map("there", "y"),
                "/metadata/resourceVersion",
                "1".into(),
            ),
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"there\": the object has been modified",
        ),
        case(
            "conflicting uid",
            "PUT",
            format!("{CONFIG_MAPS}/there"),
            with(config_map("there", "y"), "/metadata/uid", "other".into()),
            409,
            "Conflict",
            "Precondition failed: UID",
        ),
        case(
            "conflicting version in a patch",
            "PATCH",
            format!("{CONFIG_MAPS}/there"),
            (
                "application/merge-patch+json",
                r#"{"metadata":{"resourceVersion":"1"},"data":{"key":"z"}}"#,
            ),
            409,
            "Conflict",
            "the object has been modified",
        ),
        case(
            "name differs from the path",
            "PUT",
            format!("{CONFIG_MAPS}/there"),
            config_map("here", "y"),
            400,
            "BadRequest",
            "the name of the object (here) does not match the name on the URL (there)",
        ),
        case(
            "update of nothing",
            "PUT",
            format!("{CONFIG_MAPS}/gone"),
            config_map("gone", "y"),
            404,
            "NotFound",
            "configmaps \"gone\" not found",
        ),
        case(
            "deletion of nothing",
            "DELETE",
            format!("{CONFIG_MAPS}/gone"),
            Value::Null,
            404,
            "NotFound",
            "configmaps \"gone\" not found",
        ),
        case(
            "get of nothing",
            "GET",
            format!("{PODS}/gone"),
            Value::Null,
            404,
            "NotFound",
            "pods \"gone\" not found",
        ),
        case(
            "oversized object",
            "POST",
            CONFIG_MAPS,
            config_map("big", &big),
            413,
            "RequestEntityTooLarge",
            "limit is 1572864",
        ),
        case(
            "unknown resource",
            "GET",
            "/api/v1/namespaces/default/widgets",
            Value::Null,
            404,
            "NotFound",
            "could not find the requested resource",
        ),
        case(
            "method that is none",
            "PUT",
            PODS,
            pod("a"),
            405,
            "MethodNotAllowed",
            "",
        ),
        case(
            "deletecollection of namespaces",
            "DELETE",
            "/api/v1/namespaces",
            Value::Null,
            405,
            "MethodNotAllowed",
            "",
        ),
        case(
            "bad selector",
            "GET",
            format!("{PODS}?labelSelector=a=b=c"),
            Value::Null,
            400,
            "BadRequest",
            "",
        ),
        case(
            "field that cannot be selected",
            "GET",
            format!("{PODS}?fieldSelector=spec.nothing=x"),
            Value::Null,
            400,
            "BadRequest",
            "field label not supported: spec.nothing",
        ),
        case(
            "bad limit",
            "GET",
            format!("{PODS}?limit=many"),
            Value::Null,
            400,
            "BadRequest",
            "invalid syntax",
        ),
        case(
            "bad version",
            "GET",
            format!("{PODS}?resourceVersion=abc"),
            Value::Null,
            400,
            "BadRequest",
            "Invalid value: \"abc\"",
        ),
        case(
            "bad continue",
            "GET",
            format!("{PODS}?continue=abc"),
            Value::Null,
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        case(
            "bad dryRun",
            "POST",
            format!("{PODS}?dryRun=Some"),
            pod("a"),
            422,
            "Invalid",
            "dryRun: Unsupported value: \"Some\": supported values: \"All\"",
        ),
        case(
            "permanent namespace",
            "DELETE",
            "/api/v1/namespaces/kube-system",
            Value::Null,
            403,
            "Forbidden",
            "this namespace may not be deleted",
        ),
        case(
            "immutable selector",
            "PATCH",
            format!("{DEPLOYMENTS}/there"),
            (
                "application/merge-patch+json",
                r#"{"spec":{"selector":{"matchLabels":{"app":"x"}},"template":{"metadata":{"labels":{"app":"x"}}}}}"#,
            ),
            422,
            "Invalid",
            "field is immutable",
        ),
        case(
            "patch that is none",
            "PATCH",
            format!("{CONFIG_MAPS}/there"),
            ("application/json", "{}"),
            415,
            "UnsupportedMediaType",
            "application/merge-patch+json",
        ),
        case(
            "JSON patch whose test fails",
            "PATCH",
            format!("{CONFIG_MAPS}/there"),
            (
                "application/json-patch+json",
                r#"[{"op":"test","path":"/data/key","value":"other"}]"#,
            ),
            422,
            "Invalid",
            "",
        ),
        case(
            "apply without a manager",
            "PATCH",
            format!("{CONFIG_MAPS}/there"),
            ("application/apply-patch+yaml", "{}"),
            422,
            "Invalid",
            "fieldManager: Required value",
        ),
        case(
            "address outside the block",
            "POST",
            SERVICES,
            json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.99.0.1", "ports": [{"port": 80}]}}),
            422,
            "Invalid",
            "spec.clusterIPs: Invalid value: [\"10.99.0.1\"]: failed to allocate IP 10.99.0.1: the provided IP (10.99.0.1) is not in the valid range",
        ),
        case(
            "port outside the range",
            "POST",
            SERVICES,
            json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}}),
            422,
            "Invalid",
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        case(
            "missing service account",
            "POST",
            PODS,
            with(pod("a"), "/spec/serviceAccountName", "robot".into()),
            403,
            "Forbidden",
            "error looking up service account default/robot: serviceaccount \"robot\" not found",
        ),
        case(
            "log of an unscheduled pod",
            "GET",
            format!("{PODS}/there/log"),
            Value::Null,
            400,
            "BadRequest",
            "does not have a host assigned",
        ),
        case(
            "exec without an upgrade",
            "POST",
            format!("{PODS}/there/exec?command=sh"),
            Value::Null,
            400,
            "BadRequest",
            "Upgrade request required",
        ),
    ]
}

#[tokio::test]
async fn bad_input_is_refused_in_kubernetes_words_and_changes_nothing() {
    let cluster = Cluster::start().await;
    cluster
        .call("POST", CONFIG_MAPS, config_map("there", "x"))
        .await
        .ok();
    cluster.call("POST", PODS, pod("there")).await.ok();
    cluster
        .call("POST", DEPLOYMENTS, deployment("there"))
        .await
        .ok();
    let before = cluster.replica.revision();
    let mut wrong = Vec::new();
    for case in cases() {
        let headers = [
            ("content-type", case.content_type),
            ("user-agent", "test/1"),
        ];
        let answer = cluster
            .send(Some(admin()), case.method, &case.path, &headers, case.body)
            .await;
        let reason = answer.body["reason"].as_str().unwrap_or("").to_owned();
        let message = answer.body["message"].as_str().unwrap_or("").to_owned();
        let right =
            answer.code == case.code && reason == case.reason && message.contains(case.message);
        if !right || answer.body["kind"] != "Status" {
            wrong.push(format!(
                "{}: {} {reason} {message:?}",
                case.name, answer.code
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(
        cluster.replica.revision(),
        before,
        "a refused request changed something"
    );
}

#[tokio::test]
async fn unknown_fields_warn_by_default_and_are_dropped() {
    let cluster = Cluster::start().await;
    let object = with(deployment("a"), "/spec/replica", 3.into());
    let answer = cluster.call("POST", DEPLOYMENTS, object).await;
    assert_eq!(
        answer.headers["warning"].to_str().unwrap(),
        "299 - \"unknown field \\\"spec.replica\\\"\""
    );
    assert!(answer.ok()["spec"].get("replica").is_none());
}

#[tokio::test]
async fn without_an_identity_there_is_only_health_and_version() {
    let cluster = Cluster::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(
            cluster.send(None, "GET", path, &[], "").await.code,
            200,
            "{path}"
        );
    }
    for path in [
        "/api",
        "/apis",
        PODS,
        "/metrics",
        "/openapi/v3",
        "/nothing",
        "/",
    ] {
        cluster
            .send(None, "GET", path, &[], "")
            .await
            .refused(401, "Unauthorized", "Unauthorized");
    }
    cluster
        .send(None, "GET", PODS, &[("authorization", "Bearer a.b.c")], "")
        .await
        .refused(401, "Unauthorized", "Unauthorized");
}
