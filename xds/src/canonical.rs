//! Encoded messages with their maps sorted.
//!
//! Protobuf maps have no order and the generated types keep them in hash maps whose order differs
//! from one value to the next. Versions are digests of bytes, so the bytes must not depend on it.
//! This works on the wire form: a table says where in the messages that we write maps lie.

/// What a field holds, as far as maps can be below it.
enum Field {
    /// A message of this type (perhaps repeated).
    Message(&'static str),
    /// A map from strings to messages of this type; empty where nothing below has maps.
    Map(&'static str),
}

use Field::{Map, Message};

const METADATA: &str = "envoy.config.core.v3.Metadata";
const STRUCT: &str = "google.protobuf.Struct";
const VALUE: &str = "google.protobuf.Value";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const CLUSTER_WEIGHT: &str = "envoy.config.route.v3.WeightedCluster.ClusterWeight";
const FORMAT: &str = "envoy.config.core.v3.SubstitutionFormatString";
const LOAD: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Message → its fields with maps below them. An `Any` is not followed: its content was packed
/// by [`crate::pack`] before.
const TABLE: &[(&str, &[(u32, Field)])] = &[
    (STRUCT, &[(1, Map(VALUE))]),
    (
        VALUE,
        &[
            (5, Message(STRUCT)),
            (6, Message("google.protobuf.ListValue")),
        ],
    ),
    ("google.protobuf.ListValue", &[(1, Message(VALUE))]),
    (METADATA, &[(1, Map(STRUCT)), (2, Map(""))]),
    (
        "envoy.config.core.v3.Node",
        &[(3, Message(STRUCT)), (12, Map(""))],
    ),
    (
        "envoy.config.cluster.v3.Cluster",
        &[
            (
                22,
                Message("envoy.config.cluster.v3.Cluster.LbSubsetConfig"),
            ),
            (25, Message(METADATA)),
            (33, Message(LOAD)),
            (36, Map("")),
            (
                43,
                Message("envoy.config.cluster.v3.Cluster.TransportSocketMatch"),
            ),
        ],
    ),
    (
        "envoy.config.cluster.v3.Cluster.LbSubsetConfig",
        &[(2, Message(STRUCT))],
    ),
    (
        "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
        &[(2, Message(STRUCT))],
    ),
    (
        LOAD,
        &[
            (2, Message("envoy.config.endpoint.v3.LocalityLbEndpoints")),
            (5, Map("")),
        ],
    ),
    (
        "envoy.config.endpoint.v3.LocalityLbEndpoints",
        &[
            (2, Message("envoy.config.endpoint.v3.LbEndpoint")),
            (9, Message(METADATA)),
        ],
    ),
    (
        "envoy.config.endpoint.v3.LbEndpoint",
        &[(3, Message(METADATA))],
    ),
    (
        "envoy.config.listener.v3.Listener",
        &[
            (3, Message("envoy.config.listener.v3.FilterChain")),
            (6, Message(METADATA)),
            (25, Message("envoy.config.listener.v3.FilterChain")),
        ],
    ),
    (
        "envoy.config.listener.v3.FilterChain",
        &[(5, Message(METADATA))],
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &[(4, Message(ROUTES))],
    ),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &[(9, Message(METADATA))],
    ),
    (
        ROUTES,
        &[
            (2, Message("envoy.config.route.v3.VirtualHost")),
            (16, Map("")),
            (17, Message(METADATA)),
        ],
    ),
    (
        "envoy.config.route.v3.VirtualHost",
        &[
            (3, Message("envoy.config.route.v3.Route")),
            (15, Map("")),
            (24, Message(METADATA)),
        ],
    ),
    (
        "envoy.config.route.v3.Route",
        &[
            (2, Message("envoy.config.route.v3.RouteAction")),
            (4, Message(METADATA)),
            (13, Map("")),
        ],
    ),
    (
        "envoy.config.route.v3.RouteAction",
        &[
            (3, Message("envoy.config.route.v3.WeightedCluster")),
            (4, Message(METADATA)),
        ],
    ),
    (
        "envoy.config.route.v3.WeightedCluster",
        &[(1, Message(CLUSTER_WEIGHT))],
    ),
    (CLUSTER_WEIGHT, &[(3, Message(METADATA)), (10, Map(""))]),
    (
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        &[
            (3, Message(STRUCT)),
            (4, Message(STRUCT)),
            (5, Message(FORMAT)),
        ],
    ),
    (FORMAT, &[(2, Message(STRUCT))]),
];

/// The bytes of a message of type `name`, with its maps in the order of their keys.
pub(crate) fn sort_maps(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    match fields_of(name) {
        // Bytes that we did not understand are left as they were encoded.
        Some(fields) => sorted(fields, &bytes).unwrap_or(bytes),
        None => bytes,
    }
}

fn fields_of(name: &str) -> Option<&'static [(u32, Field)]> {
    TABLE
        .iter()
        .find(|(message, _)| *message == name)
        .map(|(_, fields)| *fields)
}

fn sorted(fields: &[(u32, Field)], bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    // Entries of the map that is being read: prost writes a field's entries one after another.
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let mut map = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        let whole = rest;
        let (field, payload, after) = field(rest)?;
        rest = after;
        if field != map {
            flush(&mut out, map, &mut entries);
        }
        let known = fields.iter().find(|(number, _)| *number == field);
        match (known, payload) {
            (Some((_, Map(value))), Some(payload)) => {
                map = field;
                entries.push(match fields_of(value) {
                    Some(_) => sorted(&[(2, Message(value))], payload)?,
                    None => payload.to_vec(),
                });
            }
            (Some((_, Message(message))), Some(payload)) => {
                let inner = match fields_of(message) {
                    Some(fields) => sorted(fields, payload)?,
                    None => payload.to_vec(),
                };
                write(&mut out, field, &inner);
            }
            _ => out.extend_from_slice(&whole[..whole.len() - after.len()]),
        }
    }
    flush(&mut out, map, &mut entries);
    Some(out)
}

/// An entry begins with its key, so sorting entries by their key's text is sorting what follows
/// the length; entries without a key (the empty one) come first.
fn flush(out: &mut Vec<u8>, field: u32, entries: &mut Vec<Vec<u8>>) {
    entries.sort_by(|one, other| key(one).cmp(key(other)));
    for entry in entries.drain(..) {
        write(out, field, &entry);
    }
}

fn key(entry: &[u8]) -> &[u8] {
    match field(entry) {
        Some((1, Some(key), _)) => key,
        _ => &[],
    }
}

fn write(out: &mut Vec<u8>, field: u32, payload: &[u8]) {
    varint_to(out, u64::from(field) << 3 | 2);
    varint_to(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

/// The next field: its number, its bytes where it is length-delimited, and what follows.
fn field(bytes: &[u8]) -> Option<(u32, Option<&[u8]>, &[u8])> {
    let (tag, rest) = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok()?;
    match tag & 7 {
        0 => Some((number, None, varint(rest)?.1)),
        1 => Some((number, None, rest.get(8..)?)),
        2 => {
            let (length, rest) = varint(rest)?;
            let length = usize::try_from(length).ok()?;
            Some((number, Some(rest.get(..length)?), rest.get(length..)?))
        }
        5 => Some((number, None, rest.get(4..)?)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn varint_to(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use crate::metadata::{self, Fields};
    use crate::pb::envoy::config::core::v3::Metadata;
    use crate::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
    use crate::{encode, pack};

    /// A route configuration whose maps have many entries, built anew each time.
    fn routes() -> RouteConfiguration {
        let names: Vec<String> = (0..20).map(|index| format!("key-{index}")).collect();
        let fields = || Fields::text(names.iter().map(|name| (name.as_str(), "value")));
        let metadata = Metadata {
            filter_metadata: names
                .iter()
                .map(|name| (name.clone(), fields().into_struct()))
                .collect(),
            ..Metadata::default()
        };
        let filters = names
            .iter()
            .map(|name| (name.clone(), pack(&metadata)))
            .collect();
        RouteConfiguration {
            name: "80".into(),
            virtual_hosts: vec![VirtualHost {
                name: "a".into(),
                domains: vec!["*".into()],
                routes: vec![Route {
                    metadata: Some(metadata.clone()),
                    typed_per_filter_config: filters,
                    ..Route::default()
                }],
                ..VirtualHost::default()
            }],
            ..RouteConfiguration::default()
        }
    }

    #[test]
    fn equal_messages_have_equal_bytes() {
        let first = encode(&routes());
        for _ in 0..20 {
            assert_eq!(encode(&routes()), first);
        }
        assert_eq!(
            RouteConfiguration::decode(first.as_slice()).as_ref(),
            Ok(&routes())
        );
    }

    #[test]
    fn metadata_survives() {
        let mut some = None;
        metadata::set_object(&mut some, "/apis/x");
        let bytes = encode(some.as_ref().expect("set"));
        let read = Metadata::decode(bytes.as_slice()).expect("valid");
        assert_eq!(metadata::object(Some(&read)), Some("/apis/x"));
    }
}
