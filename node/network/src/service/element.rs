//! Map elements to the kernel, as one nf_tables transaction over netlink.

use std::io;

use super::desired::{Key, Value};
use super::table::TABLE;
use crate::NetworkError;
use crate::netfilter::{
    self, Messages, NLM_F_ACK, NLM_F_CREATE, Netfilter, attribute, nested, string,
};

/// linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFPROTO_IPV4: u8 = 2;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_GOTO: i32 = -4;

/// An attribute's length has 16 bits and an element takes at most about 100
/// bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Removes and adds elements; all or nothing. A key in both is replaced.
pub(super) fn apply(removed: &[&Key], added: &[(&Key, &Value)]) -> Result<(), NetworkError> {
    let failed = |source: io::Error| NetworkError::Netlink {
        operation: format!(
            "change {} elements of the service maps",
            removed.len() + added.len()
        ),
        source,
    };
    let mut messages = Messages::default();
    let batch = |kind: u16, messages: &mut Messages| {
        messages.message(kind, 0, 0, NFNL_SUBSYS_NFTABLES, |_| {})
    };
    batch(NFNL_MSG_BATCH_BEGIN, &mut messages);
    let mut parts: Vec<(u16, &'static str, Vec<(&Key, Option<&Value>)>)> = Vec::new();
    let removals = removed.iter().map(|key| (NFT_MSG_DELSETELEM, *key, None));
    let additions = added
        .iter()
        .map(|(key, value)| (NFT_MSG_NEWSETELEM, *key, Some(*value)));
    for (kind, key, value) in removals.chain(additions) {
        match parts.last_mut() {
            Some((of_kind, map, elements))
                if *of_kind == kind
                    && *map == key.map()
                    && elements.len() < ELEMENTS_PER_MESSAGE =>
            {
                elements.push((key, value));
            }
            _ => parts.push((kind, key.map(), vec![(key, value)])),
        }
    }
    let count = parts.len();
    for (part, (kind, map, elements)) in parts.iter().enumerate() {
        let mut flags = if *kind == NFT_MSG_NEWSETELEM {
            NLM_F_CREATE
        } else {
            0
        };
        if part + 1 == count {
            flags |= NLM_F_ACK;
        }
        messages.message(
            NFNL_SUBSYS_NFTABLES << 8 | kind,
            flags,
            NFPROTO_IPV4,
            0,
            |bytes| {
                string(bytes, NFTA_SET_ELEM_LIST_TABLE, TABLE);
                string(bytes, NFTA_SET_ELEM_LIST_SET, map);
                nested(bytes, NFTA_SET_ELEM_LIST_ELEMENTS, |bytes| {
                    for (key, value) in elements {
                        element(bytes, key, *value);
                    }
                });
            },
        );
    }
    let last = messages.sequence;
    batch(NFNL_MSG_BATCH_END, &mut messages);
    netfilter::Netfilter::open()
        .and_then(|mut netfilter: Netfilter| netfilter.transact(&messages, last))
        .map_err(failed)
}

fn element(bytes: &mut Vec<u8>, key: &Key, value: Option<&Value>) {
    nested(bytes, NFTA_LIST_ELEM, |bytes| {
        nested(bytes, NFTA_SET_ELEM_KEY, |bytes| {
            attribute(bytes, NFTA_DATA_VALUE, &key_bytes(key))
        });
        match value {
            None | Some(Value::Member) => {}
            Some(Value::Endpoint(address, port)) => nested(bytes, NFTA_SET_ELEM_DATA, |bytes| {
                let mut data = address.octets().to_vec();
                data.extend_from_slice(&padded(&port.to_be_bytes()));
                attribute(bytes, NFTA_DATA_VALUE, &data);
            }),
            Some(Value::Goto(chain)) => nested(bytes, NFTA_SET_ELEM_DATA, |bytes| {
                nested(bytes, NFTA_DATA_VERDICT, |bytes| {
                    attribute(bytes, NFTA_VERDICT_CODE, &NFT_GOTO.to_be_bytes());
                    string(bytes, NFTA_VERDICT_CHAIN, &chain.to_string());
                });
            }),
        }
    });
}

/// Concatenated keys: every field fills whole 32-bit registers; numbers drawn
/// by the kernel are in its own byte order.
fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16);
    match key {
        Key::Service(address, ..) | Key::Endpoint(address, ..) => {
            bytes.extend_from_slice(&address.octets())
        }
        Key::Hairpin(address) => {
            bytes.extend_from_slice(&address.octets());
            bytes.extend_from_slice(&address.octets());
        }
        Key::NodePort(..) | Key::NodePortEndpoint(..) => {}
    }
    match key {
        Key::Service(_, protocol, port)
        | Key::Endpoint(_, protocol, port, _)
        | Key::NodePort(protocol, port)
        | Key::NodePortEndpoint(protocol, port, _) => {
            bytes.extend_from_slice(&padded(&[protocol.number()]));
            bytes.extend_from_slice(&padded(&port.to_be_bytes()));
        }
        Key::Hairpin(_) => {}
    }
    match key {
        Key::Endpoint(.., slot) | Key::NodePortEndpoint(.., slot) => {
            bytes.extend_from_slice(&slot.to_ne_bytes())
        }
        _ => {}
    }
    bytes
}

fn padded(value: &[u8]) -> [u8; 4] {
    let mut register = [0; 4];
    register[..value.len()].copy_from_slice(value);
    register
}
