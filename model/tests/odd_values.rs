//! Every function takes every value: each field of real manifests, replaced by each kind of odd value, goes through
//! the whole path of a write, checked and unchecked, without a panic.

use serde_json::json;
use trireme_model::schema::FieldValidation;
use trireme_model::{
    Value, defaults, event, kinds, meta, openapi, protobuf, schema, strategy, validate,
};

fn manifests() -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut manifests = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the golden folder") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a golden file");
        for block in text
            .split("\n--- ")
            .filter_map(|block| block.strip_prefix("stored\n"))
        {
            let block = block.split("\n=== ").next().unwrap_or(block);
            let (object, _) = schema::parse_yaml(block.as_bytes()).expect("a stored object");
            manifests.push(object);
        }
    }
    manifests
}

/// Every place in the value, as JSON pointers.
fn places(value: &Value, pointer: &str, found: &mut Vec<String>) {
    found.push(pointer.to_owned());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{pointer}/{key}"), found);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                places(value, &format!("{pointer}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn write(kind: &kinds::Kind, object: &Value, old: &Value) {
    let now = "2026-01-02T03:04:05Z".parse().expect("a time");
    let mut created = object.clone();
    defaults::apply(kind, &mut created);
    strategy::prepare_create(kind, &mut created, "u", now);
    let _ = validate::create(kind, &created);
    for (new, old) in [(object, old), (old, object)] {
        let mut updated = new.clone();
        defaults::apply(kind, &mut updated);
        strategy::prepare_update(kind, &mut updated, old);
        let _ = validate::update(kind, &updated, old);
        let mut updated = new.clone();
        strategy::prepare_status_update(kind, &mut updated, old);
        let _ = validate::status_update(kind, &updated, old);
        let mut updated = new.clone();
        strategy::prepare_finalize(&mut updated, old);
        let _ = validate::ephemeral_containers_update(new, old);
    }
    let _ = validate::scale(object);
    let _ = validate::binding(object);
    let _ = validate::token_request(object);
    let mut scaled = object.clone();
    strategy::merge_scale(&mut scaled, &strategy::scale_of(object));
    let _ = protobuf::encode(object);
    let mut view = object.clone();
    event::to_events(&mut view);
    event::to_core(&mut view);
    let _ = (
        meta::name(object),
        meta::labels(object),
        meta::controller_of(object),
    );
}

#[test]
fn no_odd_value_panics() {
    let odd = [
        json!(null),
        json!(true),
        json!(-3),
        json!(1.5e300),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}é\n/../%"),
        json!([]),
        json!([null, 3, "x", {}]),
        json!({}),
        json!({"": {"x": null}, "type": 3}),
    ];
    let manifests = manifests();
    assert!(manifests.len() > 15, "only {} manifests", manifests.len());
    for old in &manifests {
        let kind = kinds::find_kind(meta::api_version(old), meta::kind(old)).expect("a kind");
        let mut found = Vec::new();
        places(old, "", &mut found);
        for pointer in &found {
            for value in &odd {
                let mut object = old.clone();
                *object.pointer_mut(pointer).expect("a place of its own") = value.clone();
                write(kind, &object, old);
                for mode in [
                    FieldValidation::Ignore,
                    FieldValidation::Warn,
                    FieldValidation::Strict,
                ] {
                    let mut checked = object.clone();
                    if schema::check(kind, &mut checked, mode).is_ok() {
                        write(kind, &checked, old);
                    }
                }
            }
        }
    }
}

#[test]
fn stored_objects_survive_protobuf() {
    for object in manifests() {
        let kind =
            kinds::find_kind(meta::api_version(&object), meta::kind(&object)).expect("a kind");
        if kind.is_istio() {
            // Custom resources have no such form.
            assert!(protobuf::encode(&object).is_err());
            continue;
        }
        let bytes = protobuf::encode(&object).expect("encodes");
        let mut decoded = protobuf::decode(&bytes).expect("decodes");
        // Empty strings are absent in protobuf; the defaults that are empty come back.
        defaults::apply(kind, &mut decoded);
        assert_eq!(decoded, object);
    }
}

#[test]
fn documents_are_the_same_each_time() {
    let first = openapi::v2_hash();
    assert_eq!(first, openapi::v2_hash());
    assert!(!openapi::v2_protobuf().is_empty());
    assert!(
        openapi::v2_bytes().len() < 2 << 20,
        "the document outgrew what a server should keep"
    );
}
