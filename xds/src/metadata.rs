//! What we write beside Envoy's fields, where Istio writes it: the object that caused a resource,
//! the services that a cluster stands for, the workload behind an endpoint.

use std::collections::BTreeMap;

use crate::pb::envoy::config::core::v3::Metadata;
use crate::pb::google::protobuf::value::Kind;
use crate::pb::google::protobuf::{ListValue, Struct, Value};

/// The key of `filter_metadata` below which Istio keeps its fields.
pub const ISTIO: &str = "istio";
/// The key of `filter_metadata` below which Envoy looks for an endpoint's subset labels.
pub const ENVOY_LB: &str = "envoy.lb";
/// The key of `filter_metadata` below which Envoy looks for what chooses a transport socket.
pub const ENVOY_TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// Fields of a `Struct` under construction, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(BTreeMap<String, Value>);

impl Fields {
    pub fn new() -> Fields {
        Fields::default()
    }

    /// Fields that are all text.
    pub fn text<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in pairs {
            fields.set(name, string(value));
        }
        fields
    }

    pub fn set(&mut self, name: &str, value: Value) -> &mut Fields {
        self.0.insert(name.to_owned(), value);
        self
    }

    pub fn into_struct(self) -> Struct {
        Struct {
            fields: self.0.into_iter().collect(),
        }
    }

    pub fn into_value(self) -> Value {
        Value {
            kind: Some(Kind::StructValue(self.into_struct())),
        }
    }
}

pub fn string(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

pub fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

/// The text of a field, `None` where it is absent or something else.
pub fn text<'a>(fields: &'a Struct, name: &str) -> Option<&'a str> {
    match fields.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The fields of a field.
pub fn inner<'a>(fields: &'a Struct, name: &str) -> Option<&'a Struct> {
    match fields.fields.get(name)?.kind.as_ref()? {
        Kind::StructValue(inner) => Some(inner),
        _ => None,
    }
}

/// Sets one field below `filter_metadata[filter]`, and keeps the others.
pub fn set(metadata: &mut Option<Metadata>, filter: &str, field: &str, value: Value) {
    metadata
        .get_or_insert_default()
        .filter_metadata
        .entry(filter.to_owned())
        .or_default()
        .fields
        .insert(field.to_owned(), value);
}

/// `filter_metadata[filter]`.
pub fn filter<'a>(metadata: Option<&'a Metadata>, filter: &str) -> Option<&'a Struct> {
    metadata?.filter_metadata.get(filter)
}

/// The reference that Istio writes for an object, such as
/// `/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews`. `kind` in the form
/// `VirtualService`.
pub fn object_reference(
    group: &str,
    version: &str,
    kind: &str,
    namespace: &str,
    name: &str,
) -> String {
    let mut dashed = String::with_capacity(kind.len() + 4);
    for (index, letter) in kind.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            dashed.push('-');
        }
        dashed.push(letter.to_ascii_lowercase());
    }
    format!("/apis/{group}/{version}/namespaces/{namespace}/{dashed}/{name}")
}

/// Marks a resource (cluster, route, virtual host, filter chain) as caused by this object.
pub fn set_object(metadata: &mut Option<Metadata>, reference: &str) {
    set(metadata, ISTIO, "config", string(reference));
}

/// The object that caused a resource.
pub fn object(metadata: Option<&Metadata>) -> Option<&str> {
    text(filter(metadata, ISTIO)?, "config")
}

/// A service that a cluster stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub host: String,
    pub name: String,
    pub namespace: String,
}

/// Names the services that a cluster stands for, as telemetry labels them.
pub fn set_services(metadata: &mut Option<Metadata>, services: &[Service]) {
    let services = services.iter().map(|service| {
        Fields::text([
            ("host", service.host.as_str()),
            ("name", &service.name),
            ("namespace", &service.namespace),
        ])
        .into_value()
    });
    set(metadata, ISTIO, "services", list(services.collect()));
}

pub fn services(metadata: Option<&Metadata>) -> Vec<Service> {
    let listed = filter(metadata, ISTIO).and_then(|fields| fields.fields.get("services"));
    let Some(Kind::ListValue(list)) = listed.and_then(|value| value.kind.as_ref()) else {
        return Vec::new();
    };
    let mut services = Vec::new();
    for value in &list.values {
        if let Some(Kind::StructValue(fields)) = &value.kind {
            let field = |name| text(fields, name).unwrap_or_default().to_owned();
            services.push(Service {
                host: field("host"),
                name: field("name"),
                namespace: field("namespace"),
            });
        }
    }
    services
}

/// The workload behind an endpoint, as Istio packs it: `name;namespace;canonical name;canonical
/// revision;cluster`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub canonical_name: String,
    pub canonical_revision: String,
    pub cluster: String,
}

impl Workload {
    pub fn to_text(&self) -> String {
        format!(
            "{};{};{};{};{}",
            self.name, self.namespace, self.canonical_name, self.canonical_revision, self.cluster
        )
    }

    /// `None` unless the text has five parts.
    pub fn of_text(text: &str) -> Option<Workload> {
        let mut parts = text.split(';').map(str::to_owned);
        let workload = Workload {
            name: parts.next()?,
            namespace: parts.next()?,
            canonical_name: parts.next()?,
            canonical_revision: parts.next()?,
            cluster: parts.next()?,
        };
        parts.next().is_none().then_some(workload)
    }
}

/// Names the workload behind an endpoint.
pub fn set_workload(metadata: &mut Option<Metadata>, workload: &Workload) {
    set(metadata, ISTIO, "workload", string(&workload.to_text()));
}

pub fn workload(metadata: Option<&Metadata>) -> Option<Workload> {
    Workload::of_text(text(filter(metadata, ISTIO)?, "workload")?)
}

/// Labels by which subsets choose endpoints.
pub fn set_labels<'a>(
    metadata: &mut Option<Metadata>,
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    for (name, value) in labels {
        set(metadata, ENVOY_LB, name, string(value));
    }
}

/// Every label that is text.
pub fn labels(metadata: Option<&Metadata>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    if let Some(fields) = filter(metadata, ENVOY_LB) {
        for name in fields.fields.keys() {
            if let Some(value) = text(fields, name) {
                labels.insert(name.clone(), value.to_owned());
            }
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_istios() {
        let reference = object_reference(
            "networking.istio.io",
            "v1",
            "VirtualService",
            "shop",
            "reviews",
        );
        assert_eq!(
            reference,
            "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews"
        );
    }

    #[test]
    fn what_is_set_is_read() {
        let mut metadata = None;
        set_object(&mut metadata, "/apis/a");
        let services = [Service {
            host: "a.shop.svc.cluster.local".into(),
            name: "a".into(),
            namespace: "shop".into(),
        }];
        set_services(&mut metadata, &services);
        let workload_of = Workload {
            name: "a-v1".into(),
            namespace: "shop".into(),
            canonical_name: "a".into(),
            canonical_revision: "v1".into(),
            cluster: "Kubernetes".into(),
        };
        set_workload(&mut metadata, &workload_of);
        set_labels(&mut metadata, [("version", "v1")]);
        let metadata = metadata.as_ref();
        assert_eq!(object(metadata), Some("/apis/a"));
        assert_eq!(super::services(metadata), services);
        assert_eq!(workload(metadata), Some(workload_of));
        assert_eq!(labels(metadata)["version"], "v1");
    }

    #[test]
    fn nothing_is_read_from_nothing() {
        assert_eq!(object(None), None);
        assert_eq!(workload(Some(&Metadata::default())), None);
        assert_eq!(Workload::of_text("a;b;c"), None);
        assert_eq!(Workload::of_text("a;b;c;d;e;f"), None);
    }
}
