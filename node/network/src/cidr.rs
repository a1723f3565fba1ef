use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 address with a prefix length, as in `10.42.1.0/24`. The host bits
/// are kept, so `10.42.1.7/24` names both an address and its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IPv4 range: write it as address/prefix, for example 10.42.1.0/24")]
pub struct CidrError {
    pub text: String,
}

impl Cidr {
    /// `None` when the prefix is longer than 32 bits.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Cidr> {
        (prefix <= 32).then_some(Cidr { address, prefix })
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn mask(&self) -> u32 {
        if self.prefix == 0 {
            0
        } else {
            u32::MAX << (32 - self.prefix)
        }
    }

    /// The first address of the range.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & self.mask())
    }

    /// The last address of the range.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask())
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network())
    }

    /// The address `offset` places after the first, `None` beyond the range.
    pub fn nth(&self, offset: u32) -> Option<Ipv4Addr> {
        let address = u32::from(self.network()).checked_add(offset)?;
        (address <= u32::from(self.last())).then(|| Ipv4Addr::from(address))
    }

    /// The same range without host bits.
    pub fn subnet(&self) -> Cidr {
        Cidr {
            address: self.network(),
            prefix: self.prefix,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Cidr::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| CidrError {
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_bounds() {
        let range: Cidr = "10.42.1.7/24".parse().unwrap();
        assert_eq!(range.network(), Ipv4Addr::new(10, 42, 1, 0));
        assert_eq!(range.last(), Ipv4Addr::new(10, 42, 1, 255));
        assert!(range.contains(Ipv4Addr::new(10, 42, 1, 200)));
        assert!(!range.contains(Ipv4Addr::new(10, 42, 2, 0)));
        assert_eq!(range.nth(255), Some(Ipv4Addr::new(10, 42, 1, 255)));
        assert_eq!(range.nth(256), None);
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        let one: Cidr = "1.2.3.4/32".parse().unwrap();
        assert_eq!((one.network(), one.last()), (one.address(), one.address()));
    }

    #[test]
    fn refuses_what_is_no_range() {
        for text in [
            "",
            "10.42.0.0",
            "10.42.0.0/33",
            "10.42.0/24",
            "fd00::/64",
            "10.42.0.0/x",
        ] {
            assert_eq!(
                text.parse::<Cidr>(),
                Err(CidrError {
                    text: text.to_owned()
                })
            );
        }
    }
}
