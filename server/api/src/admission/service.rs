//! Addresses of Services.

use crate::api::ConfigError;

/// The block from which ClusterIPs are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    first: u32,
    size: u32,
}

impl Network {
    pub fn parse(cidr: &str) -> Result<Network, ConfigError> {
        let refused = |reason: &str| ConfigError::ServiceCidr { cidr: cidr.to_owned(), reason: reason.to_owned() };
        let (address, bits) = cidr.split_once('/').ok_or_else(|| refused("no prefix length"))?;
        let address: std::net::Ipv4Addr = address.parse().map_err(|_| refused("not an IPv4 address"))?;
        let bits: u32 = bits.parse().map_err(|_| refused("not a prefix length"))?;
        if !(8..=29).contains(&bits) {
            return Err(refused("the prefix length must be from 8 to 29"));
        }
        let size = 1u32 << (32 - bits);
        let first = u32::from(address) & !(size - 1);
        Ok(Network { first, size })
    }
}
