//! Where something runs: region, zone and sub-zone, each possibly unknown.

use std::fmt;

/// Labels of nodes that say where they stand.
const REGION_LABEL: &str = "topology.kubernetes.io/region";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const SUB_ZONE_LABEL: &str = "topology.istio.io/subzone";
/// A pod's or WorkloadEntry's own word for it, dots instead of slashes where it is a label.
pub const LOCALITY_LABEL: &str = "istio-locality";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

impl Locality {
    /// Reads `region/zone/sub-zone`, the rest possibly absent.
    pub fn parse(text: &str) -> Locality {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        Locality {
            region: parts.next().unwrap_or_default(),
            zone: parts.next().unwrap_or_default(),
            sub_zone: parts.next().unwrap_or_default(),
        }
    }

    pub fn of_node_labels<'a>(label: impl Fn(&str) -> Option<&'a String>) -> Locality {
        let read = |name| label(name).cloned().unwrap_or_default();
        Locality {
            region: read(REGION_LABEL),
            zone: read(ZONE_LABEL),
            sub_zone: read(SUB_ZONE_LABEL),
        }
    }

    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }

    /// Whether a pattern such as `region/zone/*` or `region` means this place.
    pub fn matches(&self, pattern: &str) -> bool {
        let mine = [&self.region, &self.zone, &self.sub_zone];
        let mut parts = pattern.split('/');
        for own in mine {
            match parts.next() {
                None | Some("*") => return true,
                Some(part) if part == own => {}
                Some(_) => return false,
            }
        }
        true
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.region)?;
        if !self.zone.is_empty() || !self.sub_zone.is_empty() {
            write!(out, "/{}", self.zone)?;
        }
        if !self.sub_zone.is_empty() {
            write!(out, "/{}", self.sub_zone)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_a_star_or_at_their_end() {
        let here = Locality::parse("eu/a/1");
        for pattern in ["eu", "eu/*", "eu/a", "eu/a/*", "eu/a/1", "*"] {
            assert!(here.matches(pattern), "{pattern}");
        }
        for pattern in ["us", "eu/b", "eu/b/*", "eu/a/2"] {
            assert!(!here.matches(pattern), "{pattern}");
        }
    }
}
