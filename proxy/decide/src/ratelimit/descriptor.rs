//! Descriptors that rate limit actions make of a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Entries;
use crate::config::{DescriptorAction, DescriptorEntry, RateLimit};
use crate::head::RequestHead;
use crate::route::{Place, matches_header, matches_query};

/// The descriptors that a place's actions of `stage` make: the route's, and the virtual host's
/// where the route has none or includes them.
pub(crate) fn of_place(
    place: &Place,
    stage: u32,
    head: &RequestHead,
    remote: IpAddr,
    local_cluster: &str,
) -> Vec<Entries> {
    let Some(forward) = place.forward() else {
        return Vec::new();
    };
    let cluster = place.cluster(head).unwrap_or("");
    let make =
        |limits: &[RateLimit]| descriptors(limits, stage, head, remote, cluster, local_cluster);
    let mut all = make(&forward.rate_limits);
    if forward.rate_limits.is_empty() || forward.include_vh_rate_limits {
        all.extend(make(&place.virtual_host().rate_limits));
    }
    all
}

/// The descriptors that actions make: one of each [`RateLimit`] whose actions all add an entry.
#[must_use]
pub fn descriptors(
    limits: &[RateLimit],
    stage: u32,
    head: &RequestHead,
    remote: IpAddr,
    cluster: &str,
    local_cluster: &str,
) -> Vec<Entries> {
    limits
        .iter()
        .filter(|limit| limit.stage == stage)
        .filter_map(|limit| {
            let mut entries = Vec::with_capacity(limit.actions.len());
            for action in &limit.actions {
                match entry(action, head, remote, cluster, local_cluster) {
                    Made::Entry(entry) => entries.push(entry),
                    Made::Skip => {}
                    Made::Nothing => return None,
                }
            }
            (!entries.is_empty()).then_some(entries)
        })
        .collect()
}

enum Made {
    Entry(DescriptorEntry),
    /// None, and the descriptor goes on without.
    Skip,
    /// None, and so no descriptor.
    Nothing,
}

fn entry(
    action: &DescriptorAction,
    head: &RequestHead,
    remote: IpAddr,
    cluster: &str,
    local_cluster: &str,
) -> Made {
    let made = |key: &str, value: &str| {
        Made::Entry(DescriptorEntry {
            key: Arc::from(key),
            value: Arc::from(value),
        })
    };
    match action {
        DescriptorAction::SourceCluster => made("source_cluster", local_cluster),
        DescriptorAction::DestinationCluster => made("destination_cluster", cluster),
        DescriptorAction::RequestHeader {
            header,
            key,
            skip_if_absent,
        } => match head.first(header) {
            Some(value) => made(key, value),
            None if *skip_if_absent => Made::Skip,
            None => Made::Nothing,
        },
        DescriptorAction::RemoteAddress => made("remote_address", &remote.to_string()),
        DescriptorAction::MaskedRemoteAddress { v4_bits, v6_bits } => {
            made("masked_remote_address", &masked(remote, *v4_bits, *v6_bits))
        }
        DescriptorAction::GenericKey { key, value } => Made::Entry(DescriptorEntry {
            key: key.clone(),
            value: value.clone(),
        }),
        DescriptorAction::HeaderValueMatch(wanted) => {
            let matched = wanted
                .headers
                .iter()
                .all(|matcher| matches_header(matcher, head));
            if matched == wanted.expect_match {
                Made::Entry(DescriptorEntry {
                    key: wanted.key.clone(),
                    value: wanted.value.clone(),
                })
            } else {
                Made::Nothing
            }
        }
        DescriptorAction::QueryParameterValueMatch {
            key,
            value,
            expect_match,
            parameters,
        } => {
            let matched = parameters
                .iter()
                .all(|matcher| matches_query(matcher, head.path.query()));
            if matched == *expect_match {
                Made::Entry(DescriptorEntry {
                    key: key.clone(),
                    value: value.clone(),
                })
            } else {
                Made::Nothing
            }
        }
    }
}

fn masked(address: IpAddr, v4_bits: u8, v6_bits: u8) -> String {
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::from(v4_bits.min(32));
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            format!("{}/{bits}", Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let bits = u32::from(v6_bits.min(128));
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            format!("{}/{bits}", Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}
