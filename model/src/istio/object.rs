//! What every object of these kinds is made of.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One object: metadata as everywhere in Kubernetes, a kind's own spec, and Istio's status.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Object<S: Default> {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: S,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl<S: Default + DeserializeOwned> Object<S> {
    /// Reads an object as it is stored. The error says which field does not fit.
    pub fn read(value: &Value) -> Result<Object<S>, serde_json::Error> {
        Self::deserialize(value)
    }
}

impl<S: Default> Object<S> {
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or("")
    }

    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("")
    }
}

message! {
    /// `IstioStatus`.
    pub struct Status {
        pub conditions: Vec<Condition>,
        pub validation_messages: Vec<Value>,
        /// Protobuf's JSON writes 64-bit numbers as strings; Kubernetes' writes numbers. Both are kept as they came.
        pub observed_generation: Value,
    }

    /// `IstioCondition`.
    pub struct Condition {
        pub r#type: String,
        /// `True`, `False` or `Unknown`.
        pub status: String,
        pub last_probe_time: Option<String>,
        pub last_transition_time: Option<String>,
        pub reason: String,
        pub message: String,
        pub observed_generation: Value,
    }
}
