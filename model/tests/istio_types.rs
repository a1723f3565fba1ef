//! Stored objects of Istio's kinds, read as their types and written again, say the same.

use serde::Serialize;
use serde::de::DeserializeOwned;
use trireme_model::istio::{
    self, DestinationRuleSpec, EnvoyFilterSpec, GatewaySpec, Object, ServiceEntrySpec, SidecarSpec,
    VirtualServiceSpec, WorkloadEntrySpec,
};
use trireme_model::{Value, schema};

/// The stored objects of the golden files.
fn stored() -> Vec<Value> {
    let mut objects = Vec::new();
    for text in [
        include_str!("golden/istio.txt"),
        include_str!("golden/istio-slides.txt"),
    ] {
        for block in text
            .split("\n--- ")
            .filter_map(|block| block.strip_prefix("stored\n"))
        {
            let block = block.split("\n=== ").next().unwrap_or(block);
            objects.push(schema::parse_yaml(block.as_bytes()).expect("YAML").0);
        }
    }
    objects
}

fn again<S: Default + DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(object: &Value) {
    let read: Object<S> = Object::read(object).expect("an object that is stored can be read");
    let written = serde_json::to_value(&read).expect("and written");
    let second: Object<S> = Object::read(&written).expect("and read again");
    assert_eq!(second, read);
    fields_kept(&object["spec"], &written["spec"], "spec");
}

/// Every field is there again, except where it says what its absence says; durations may be spelt otherwise.
fn fields_kept(before: &Value, after: &Value, path: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                let empty = match value {
                    Value::Null => true,
                    Value::Bool(flag) => !flag,
                    Value::Number(number) => number.as_f64() == Some(0.0),
                    Value::String(text) => {
                        // The first of each enumeration is what absence means.
                        text.is_empty()
                            || ["NONE", "V1", "DISABLE", "PASSTHROUGH", "MESH_EXTERNAL"]
                                .contains(&text.as_str())
                            || ["REGISTRY_ONLY", "ANY"].contains(&text.as_str())
                    }
                    Value::Array(items) => items.is_empty(),
                    Value::Object(map) => map.is_empty(),
                };
                match after.get(name) {
                    Some(other) => fields_kept(value, other, &format!("{path}.{name}")),
                    None => assert!(empty, "{path}.{name} is lost"),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len(), "{path}");
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                fields_kept(before, after, &format!("{path}[{index}]"));
            }
        }
        (Value::String(before), Value::String(after)) if before != after => {
            let duration = |text: &str| text.parse::<istio::Duration>().expect("a duration");
            assert_eq!(duration(before), duration(after), "{path}");
        }
        (Value::Number(before), Value::Number(after)) => {
            assert_eq!(before.as_f64(), after.as_f64(), "{path}");
        }
        (before, after) => assert_eq!(before, after, "{path}"),
    }
}

#[test]
fn stored_objects_are_read_without_loss() {
    let mut seen = std::collections::BTreeSet::new();
    for object in stored() {
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        match kind.as_str() {
            "VirtualService" => again::<VirtualServiceSpec>(&object),
            "DestinationRule" => again::<DestinationRuleSpec>(&object),
            "Gateway" => again::<GatewaySpec>(&object),
            "ServiceEntry" => again::<ServiceEntrySpec>(&object),
            "WorkloadEntry" => again::<WorkloadEntrySpec>(&object),
            "Sidecar" => again::<SidecarSpec>(&object),
            "EnvoyFilter" => again::<EnvoyFilterSpec>(&object),
            other => panic!("no type for {other}"),
        }
        seen.insert(kind);
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
}
