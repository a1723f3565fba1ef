//! The addresses of a node's pods.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::Ipv4Addr;

use crate::Cidr;

/// Addresses kept back at the front of the range: the network's own, and the
/// one the node itself carries on its VXLAN interface.
const RESERVED_FRONT: u32 = 2;
/// And at its end: the broadcast address.
const RESERVED_BACK: u32 = 1;

/// Hands out a node's pod addresses. The agent makes it anew at every start
/// from the pods that exist; nothing else is stored.
///
/// Addresses are taken in turn, so a released one comes back only after all
/// others: a client that still talks to a dead pod meets nobody rather than
/// a stranger.
#[derive(Debug, Clone)]
pub struct AddressPool {
    range: Cidr,
    used: BTreeMap<Ipv4Addr, String>,
    /// Offset in the range of the next address to try.
    next: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("all {capacity} pod addresses of {range} are in use")]
    Exhausted { range: Cidr, capacity: u32 },
    #[error("pod range {range} is too small: it needs at least four addresses")]
    TooSmall { range: Cidr },
}

impl AddressPool {
    /// A pool over `range` in which `existing` (address, pod uid) are taken.
    /// Addresses outside the range are remembered but never handed out again.
    pub fn new(
        range: Cidr,
        existing: impl IntoIterator<Item = (Ipv4Addr, String)>,
    ) -> Result<AddressPool, PoolError> {
        let range = range.subnet();
        if range.prefix() > 30 {
            return Err(PoolError::TooSmall { range });
        }
        let used: BTreeMap<Ipv4Addr, String> = existing.into_iter().collect();
        // After the highest one in use: the closest to "in turn" that can be
        // known without a record of released addresses.
        let highest = used.keys().rev().find(|address| range.contains(**address));
        let next = highest.map_or(0, |address| {
            u32::from(*address) - u32::from(range.network()) + 1
        });
        Ok(AddressPool { range, used, next })
    }

    pub fn range(&self) -> Cidr {
        self.range
    }

    /// How many pods the range can hold.
    pub fn capacity(&self) -> u32 {
        let size = u64::from(u32::from(self.range.last()) - u32::from(self.range.network())) + 1;
        (size - u64::from(RESERVED_FRONT) - u64::from(RESERVED_BACK)).min(u64::from(u32::MAX))
            as u32
    }

    pub fn in_use(&self) -> usize {
        self.used.len()
    }

    /// The address the node itself may carry inside the range.
    pub fn node_address(range: Cidr) -> Option<Ipv4Addr> {
        range.nth(1)
    }

    /// The pod's address: the one it has, or the next free one.
    pub fn allocate(&mut self, pod_uid: &str) -> Result<Ipv4Addr, PoolError> {
        if let Some(address) = self.address_of(pod_uid) {
            return Ok(address);
        }
        let capacity = self.capacity();
        for step in 0..capacity {
            let slot = (self.next.saturating_sub(RESERVED_FRONT) + step) % capacity;
            let Some(address) = self.range.nth(slot + RESERVED_FRONT) else {
                break;
            };
            if let Entry::Vacant(free) = self.used.entry(address) {
                free.insert(pod_uid.to_owned());
                self.next = slot + RESERVED_FRONT + 1;
                return Ok(address);
            }
        }
        Err(PoolError::Exhausted {
            range: self.range,
            capacity,
        })
    }

    pub fn address_of(&self, pod_uid: &str) -> Option<Ipv4Addr> {
        self.used
            .iter()
            .find(|(_, uid)| *uid == pod_uid)
            .map(|(address, _)| *address)
    }

    /// Gives the pod's address back; `None` when it had none.
    pub fn release(&mut self, pod_uid: &str) -> Option<Ipv4Addr> {
        let address = self.address_of(pod_uid)?;
        self.used.remove(&address);
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_released_address_comes_back_last() {
        let mut pool = AddressPool::new(range("10.42.0.0/29"), []).unwrap();
        assert_eq!(pool.capacity(), 5);
        let first = pool.allocate("a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 42, 0, 2));
        assert_eq!(pool.allocate("a").unwrap(), first);
        assert_eq!(pool.release("a"), Some(first));
        assert_eq!(pool.release("a"), None);
        let later: Vec<_> = ["b", "c", "d", "e", "f"]
            .iter()
            .map(|uid| pool.allocate(uid).unwrap())
            .collect();
        assert_eq!(later.last(), Some(&first));
        assert_eq!(
            pool.allocate("g"),
            Err(PoolError::Exhausted {
                range: range("10.42.0.0/29"),
                capacity: 5
            })
        );
        pool.release("d");
        assert_eq!(pool.allocate("g").unwrap(), later[2]);
    }

    #[test]
    fn a_new_pool_knows_the_pods_that_exist() {
        let taken = Ipv4Addr::new(10, 42, 0, 5);
        let mut pool = AddressPool::new(range("10.42.0.0/29"), [(taken, "a".to_owned())]).unwrap();
        assert_eq!(pool.address_of("a"), Some(taken));
        assert_eq!(pool.allocate("b").unwrap(), Ipv4Addr::new(10, 42, 0, 6));
        assert_eq!(pool.allocate("c").unwrap(), Ipv4Addr::new(10, 42, 0, 2));
    }

    #[test]
    fn never_hands_out_the_ends_of_the_range() {
        let mut pool = AddressPool::new(range("10.42.3.0/24"), []).unwrap();
        let mut all: Vec<_> = (0..pool.capacity())
            .map(|pod| pool.allocate(&pod.to_string()).unwrap())
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 253);
        assert_eq!(all[0], Ipv4Addr::new(10, 42, 3, 2));
        assert_eq!(all[252], Ipv4Addr::new(10, 42, 3, 254));
        assert_eq!(
            AddressPool::new(range("10.42.3.0/31"), []).unwrap_err(),
            PoolError::TooSmall {
                range: range("10.42.3.0/31")
            }
        );
    }
}
