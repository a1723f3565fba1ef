//! Our protobuf against crate k8s-pb's structs, which are generated from Kubernetes' own .proto files.

use std::collections::BTreeMap;

use k8s_pb::api::apps::v1 as apps;
use k8s_pb::api::authentication::v1 as authentication;
use k8s_pb::api::authorization::v1 as authorization;
use k8s_pb::api::core::v1 as core;
use k8s_pb::api::discovery::v1 as discovery;
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use k8s_pb::apimachinery::pkg::util::intstr::IntOrString;
use prost::Message;
use serde_json::json;
use trireme_model::protobuf;

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn envelope(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: text(api_version),
            kind: text(kind),
        }),
        raw: Some(message.encode_to_vec()),
        content_encoding: text(""),
        content_type: text(""),
    };
    let mut bytes = b"k8s\0".to_vec();
    unknown.encode(&mut bytes).expect("a vector grows");
    bytes
}

fn opened(bytes: &[u8]) -> Vec<u8> {
    Unknown::decode(&bytes[4..])
        .expect("an envelope")
        .raw
        .expect("a message")
}

fn pod() -> core::Pod {
    let quantity = |value: &str| Quantity {
        string: text(value),
    };
    core::Pod {
        metadata: Some(meta::ObjectMeta {
            name: text("web"),
            generate_name: text(""),
            labels: BTreeMap::from([
                ("app".to_owned(), "web".to_owned()),
                ("empty".to_owned(), String::new()),
            ]),
            creation_timestamp: Some(meta::Time {
                seconds: Some(1_767_323_045),
                nanos: Some(0),
            }),
            generation: Some(0),
            managed_fields: vec![meta::ManagedFieldsEntry {
                manager: text("kubectl"),
                fields_v1: Some(meta::FieldsV1 {
                    raw: Some(br#"{"f:spec":{}}"#.to_vec()),
                }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        spec: Some(core::PodSpec {
            host_network: Some(false),
            termination_grace_period_seconds: Some(0),
            automount_service_account_token: Some(false),
            node_name: text(""),
            volumes: vec![core::Volume {
                name: text("config"),
                volume_source: Some(core::VolumeSource {
                    config_map: Some(core::ConfigMapVolumeSource {
                        local_object_reference: Some(core::LocalObjectReference {
                            name: text("web"),
                        }),
                        default_mode: Some(420),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
            }],
            containers: vec![core::Container {
                name: text("web"),
                image: text("nginx"),
                env: vec![core::EnvVar {
                    name: text("KEY"),
                    value: text(""),
                    value_from: Some(core::EnvVarSource {
                        secret_key_ref: Some(core::SecretKeySelector {
                            local_object_reference: Some(core::LocalObjectReference {
                                name: text("s"),
                            }),
                            key: text("k"),
                            optional: Some(false),
                        }),
                        ..Default::default()
                    }),
                }],
                ports: vec![core::ContainerPort {
                    container_port: Some(80),
                    host_port: Some(0),
                    ..Default::default()
                }],
                resources: Some(core::ResourceRequirements {
                    limits: BTreeMap::from([("cpu".to_owned(), quantity("500m"))]),
                    ..Default::default()
                }),
                liveness_probe: Some(core::Probe {
                    handler: Some(core::ProbeHandler {
                        http_get: Some(core::HttpGetAction {
                            port: Some(IntOrString {
                                r#type: Some(1),
                                int_val: Some(0),
                                str_val: text("http"),
                            }),
                            ..Default::default()
                        }),
                        ..Default::default()
                    }),
                    period_seconds: Some(5),
                    initial_delay_seconds: Some(0),
                    ..Default::default()
                }),
                stdin: Some(false),
                ..Default::default()
            }],
            ..Default::default()
        }),
        status: Some(core::PodStatus::default()),
    }
}

fn pod_json() -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web",
            "labels": {"app": "web", "empty": ""},
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "volumes": [{"name": "config", "configMap": {"name": "web", "defaultMode": 420}}],
            "containers": [{
                "name": "web",
                "image": "nginx",
                "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}],
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 5},
            }],
        },
        "status": {},
    })
}

#[test]
fn a_pod_reads_as_its_json() {
    let bytes = envelope("v1", "Pod", &pod());
    assert!(protobuf::is_envelope(&bytes));
    assert_eq!(protobuf::decode(&bytes).unwrap(), pod_json());
}

#[test]
fn a_pod_is_written_as_go_clients_read_it() {
    let decoded =
        core::Pod::decode(opened(&protobuf::encode(&pod_json()).unwrap()).as_slice()).unwrap();
    let spec = decoded.spec.unwrap();
    let original = pod();
    assert_eq!(spec.volumes, original.spec.as_ref().unwrap().volumes);
    assert_eq!(
        spec.containers[0].resources,
        original.spec.as_ref().unwrap().containers[0].resources
    );
    assert_eq!(spec.termination_grace_period_seconds, Some(0));
    let (written, wanted) = (decoded.metadata.unwrap(), original.metadata.unwrap());
    assert_eq!(written.labels, wanted.labels);
    assert_eq!(written.creation_timestamp, wanted.creation_timestamp);
    assert_eq!(
        written.managed_fields[0].fields_v1,
        wanted.managed_fields[0].fields_v1
    );
}

#[test]
fn other_kinds_keep_their_own_shapes() {
    let deployment = apps::Deployment {
        spec: Some(apps::DeploymentSpec {
            replicas: Some(0),
            min_ready_seconds: Some(0),
            strategy: Some(apps::DeploymentStrategy {
                rolling_update: Some(apps::RollingUpdateDeployment {
                    max_surge: Some(IntOrString {
                        r#type: Some(0),
                        int_val: Some(-1),
                        str_val: None,
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(
        protobuf::decode(&envelope("apps/v1", "Deployment", &deployment)).unwrap()["spec"],
        json!({"replicas": 0, "strategy": {"rollingUpdate": {"maxSurge": -1}}})
    );
    let secret = core::Secret {
        data: BTreeMap::from([("a".to_owned(), b"\x00\xff".to_vec())]),
        immutable: Some(false),
        ..Default::default()
    };
    let decoded = protobuf::decode(&envelope("v1", "Secret", &secret)).unwrap();
    assert_eq!(
        (&decoded["data"], &decoded["immutable"]),
        (&json!({"a": "AP8="}), &json!(false))
    );
    let slice = discovery::EndpointSlice {
        ports: vec![discovery::EndpointPort {
            port: Some(80),
            ..Default::default()
        }],
        endpoints: vec![discovery::Endpoint {
            conditions: Some(discovery::EndpointConditions {
                ready: Some(false),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let decoded =
        protobuf::decode(&envelope("discovery.k8s.io/v1", "EndpointSlice", &slice)).unwrap();
    assert_eq!(
        decoded["endpoints"],
        json!([{"conditions": {"ready": false}}])
    );
    let review = authorization::SubjectAccessReview {
        spec: Some(authorization::SubjectAccessReviewSpec {
            user: text("jane"),
            extra: BTreeMap::from([(
                "scopes".to_owned(),
                authorization::ExtraValue {
                    items: vec!["a".to_owned(), "b".to_owned()],
                },
            )]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let decoded = protobuf::decode(&envelope(
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
        &review,
    ))
    .unwrap();
    assert_eq!(
        decoded["spec"],
        json!({"user": "jane", "extra": {"scopes": ["a", "b"]}})
    );
}

#[test]
fn requests_that_are_no_kind_of_the_table() {
    let options = meta::DeleteOptions {
        grace_period_seconds: Some(0),
        orphan_dependents: Some(false),
        propagation_policy: text("Background"),
        dry_run: vec!["All".to_owned()],
        preconditions: Some(meta::Preconditions {
            uid: text("u"),
            ..Default::default()
        }),
        ..Default::default()
    };
    for version in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        let decoded = protobuf::decode(&envelope(version, "DeleteOptions", &options)).unwrap();
        assert_eq!(
            decoded,
            json!({"apiVersion": version, "kind": "DeleteOptions", "gracePeriodSeconds": 0, "orphanDependents": false,
                "propagationPolicy": "Background", "dryRun": ["All"], "preconditions": {"uid": "u"}})
        );
    }
    let request = authentication::TokenRequest {
        spec: Some(authentication::TokenRequestSpec {
            audiences: vec!["api".to_owned()],
            expiration_seconds: Some(600),
            ..Default::default()
        }),
        ..Default::default()
    };
    let decoded = protobuf::decode(&envelope(
        "authentication.k8s.io/v1",
        "TokenRequest",
        &request,
    ))
    .unwrap();
    assert_eq!(
        decoded["spec"],
        json!({"audiences": ["api"], "expirationSeconds": 600})
    );
}

#[test]
fn damaged_bytes_are_errors_and_never_more() {
    let bytes = envelope("v1", "Pod", &pod());
    for end in 0..bytes.len() {
        let _ = protobuf::decode(&bytes[..end]);
    }
    for at in 4..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let _ = protobuf::decode(&damaged);
        }
    }
    assert!(protobuf::decode(b"k8s\0\x0a\xff").is_err());
    assert!(protobuf::decode(b"{}").is_err());
    assert!(
        protobuf::decode(&envelope("v1", "Unheard", &pod()))
            .unwrap_err()
            .contains("no kind \"Unheard\"")
    );
}

#[test]
fn lists_go_both_ways() {
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}, "spec": {"containers": [{"name": "c"}]}}]});
    let bytes = protobuf::encode(&list).unwrap();
    assert_eq!(protobuf::decode(&bytes).unwrap(), list);
    let decoded = core::PodList::decode(opened(&bytes).as_slice()).unwrap();
    assert_eq!(decoded.items.len(), 2);
}
