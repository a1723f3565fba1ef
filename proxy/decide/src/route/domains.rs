//! Virtual hosts by domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{ConfigError, RouteParts};
use crate::names::Names;

/// The index of a route configuration's domains. The most specific domain wins, as in Envoy:
/// exact, then the longest `*.suffix`, then the longest `prefix.*`, then `*`. Case does not count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Domains {
    exact: Names,
    /// The virtual host of each exact name.
    exact_hosts: Vec<u32>,
    /// By length, longest first; the text without its star.
    suffixes: Vec<(usize, BTreeMap<Arc<str>, u32>)>,
    prefixes: Vec<(usize, BTreeMap<Arc<str>, u32>)>,
    any: Option<u32>,
}

impl Domains {
    /// Indexes the domains of `parts`.
    ///
    /// # Errors
    /// [`ConfigError::DuplicateDomain`].
    pub fn new(parts: &RouteParts) -> Result<Domains, ConfigError> {
        let mut domains = Domains::default();
        let mut exact: BTreeMap<Arc<str>, u32> = BTreeMap::new();
        for (index, host) in parts.virtual_hosts.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            for domain in &host.domains {
                let lower = domain.to_ascii_lowercase();
                let before = if lower == "*" {
                    domains.any.replace(index)
                } else if let Some(suffix) = lower.strip_prefix('*') {
                    insert(&mut domains.suffixes, suffix, index)
                } else if let Some(prefix) = lower.strip_suffix('*') {
                    insert(&mut domains.prefixes, prefix, index)
                } else {
                    exact.insert(Arc::from(lower), index)
                };
                if let Some(before) = before {
                    let first = &parts.virtual_hosts[before as usize].name;
                    return Err(ConfigError::DuplicateDomain {
                        configuration: parts.name.to_string(),
                        domain: domain.to_string(),
                        first: first.to_string(),
                        second: host.name.to_string(),
                    });
                }
            }
        }
        domains.exact = Names::new(exact.keys().cloned());
        domains.exact_hosts = exact.into_values().collect();
        domains
            .suffixes
            .sort_by_key(|(length, _)| usize::MAX - length);
        domains
            .prefixes
            .sort_by_key(|(length, _)| usize::MAX - length);
        Ok(domains)
    }

    /// The index of the virtual host for `authority` (already without what is ignored).
    #[must_use]
    pub fn find(&self, authority: &str) -> Option<usize> {
        let lowered;
        let host = if authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lowered = authority.to_ascii_lowercase();
            &lowered
        } else {
            authority
        };
        if let Some(position) = self.exact.find(host) {
            return Some(self.exact_hosts[position] as usize);
        }
        for (length, table) in &self.suffixes {
            // At least one letter must stand for the star.
            if host.len() > *length
                && let Some(end) = host.get(host.len() - length..)
                && let Some(index) = table.get(end)
            {
                return Some(*index as usize);
            }
        }
        for (length, table) in &self.prefixes {
            if host.len() > *length
                && let Some(start) = host.get(..*length)
                && let Some(index) = table.get(start)
            {
                return Some(*index as usize);
            }
        }
        self.any.map(|index| index as usize)
    }
}

fn insert(
    tables: &mut Vec<(usize, BTreeMap<Arc<str>, u32>)>,
    text: &str,
    index: u32,
) -> Option<u32> {
    let position = match tables.iter().position(|(length, _)| *length == text.len()) {
        Some(position) => position,
        None => {
            tables.push((text.len(), BTreeMap::new()));
            tables.len() - 1
        }
    };
    tables[position].1.insert(Arc::from(text), index)
}
