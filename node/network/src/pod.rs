//! A pod's network: a namespace, and a point-to-point veth pair to the node.
//! No bridge: the pod has a /32, routes everything to 169.254.1.1, whose
//! hardware address is the node's end; the node has a /32 route to the pod.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use netlink_packet_route::address::AddressScope;

use crate::namespace::{self, run_in, set_sysctl};
use crate::netlink::{Link, Netlink, Route, RouteDetail, VethEnd};
use crate::{Cidr, NetworkError};

/// The gateway every pod sees; no interface carries it.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The interface's name inside the pod.
pub const POD_INTERFACE: &str = "eth0";

/// The node's end of every pair: a fixed address, so the pod's static
/// neighbour never goes stale. Point-to-point links cannot clash.
const NODE_HARDWARE: [u8; 6] = [0xee; 6];

/// Names of the node's ends: this and twelve digits.
const LINK_PREFIX: &str = "tp";

/// Marks the node's end of a finished pod network, in the interface's alias:
/// this, the pod's uid, and its address.
const ALIAS_PREFIX: &str = "trireme-pod";

#[derive(Debug, Clone)]
pub struct PodNetworkConfig {
    /// Where the namespaces are mounted, one file a pod, named by its uid.
    pub directory: PathBuf,
    /// The node's address: the source of its own packets to pods.
    pub node_ip: Ipv4Addr,
    /// The largest packet; `None` takes that of the interface which has the
    /// default route, or 1500.
    pub mtu: Option<u32>,
}

/// Makes and removes pod networks in the current network namespace.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    config: PodNetworkConfig,
    mtu: u32,
}

/// A pod network found on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAttachment {
    pub pod_uid: String,
    pub netns: PathBuf,
    /// `None` when it was left half made: `setup` makes it again, `teardown`
    /// removes it.
    pub address: Option<Ipv4Addr>,
}

impl PodNetwork {
    /// Turns on forwarding and relaxes source checks as far as pods need.
    pub fn new(config: PodNetworkConfig) -> Result<PodNetwork, NetworkError> {
        fs::create_dir_all(&config.directory).map_err(|source| NetworkError::Namespace {
            path: config.directory.clone(),
            operation: "create the directory",
            source,
        })?;
        set_sysctl("net/ipv4/ip_forward", "1")?;
        // Strict source checks (1) drop what comes back over another path
        // than it would leave by, as VXLAN and multi-homed nodes do.
        if fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter")
            .is_ok_and(|value| value.trim() == "1")
        {
            set_sysctl("net/ipv4/conf/all/rp_filter", "2")?;
        }
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => uplink_mtu()?.unwrap_or(1500),
        };
        Ok(PodNetwork { config, mtu })
    }

    /// Where the pod's namespace is or would be mounted.
    pub fn path(&self, pod_uid: &str) -> PathBuf {
        self.config.directory.join(pod_uid)
    }

    /// Makes the pod's network and returns the path of its namespace. Returns
    /// at once when it is there already with that address; whatever else is
    /// found of the pod is removed first.
    pub fn setup(&self, pod_uid: &str, ip: Ipv4Addr) -> Result<PathBuf, NetworkError> {
        let path = self.checked_path(pod_uid)?;
        let mut node = Netlink::open()?;
        if namespace::exists(&path) {
            let alias = alias(pod_uid, ip);
            if node
                .links()?
                .iter()
                .any(|link| link.alias.as_deref() == Some(alias.as_str()))
            {
                return Ok(path);
            }
        }
        self.teardown(pod_uid)?;
        namespace::create(&path)?;
        match self.attach(&mut node, &path, pod_uid, ip) {
            Ok(()) => Ok(path),
            Err(error) => {
                if let Err(left) = self.teardown(pod_uid) {
                    tracing::warn!(pod_uid, error = %left, "a half-made pod network could not be removed");
                }
                Err(error)
            }
        }
    }

    fn attach(
        &self,
        node: &mut Netlink,
        path: &Path,
        pod_uid: &str,
        ip: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let name = fresh_link_name();
        let octets = ip.octets();
        // Locally administered, and different for every pod address.
        let pod_hardware = [0x02, 0x54, octets[0], octets[1], octets[2], octets[3]];
        let file = namespace::open(path)?;
        node.add_veth(
            &VethEnd {
                name: &name,
                hardware: Some(NODE_HARDWARE),
                mtu: Some(self.mtu),
            },
            &VethEnd {
                name: POD_INTERFACE,
                hardware: Some(pod_hardware),
                mtu: Some(self.mtu),
            },
            Some(&file),
        )?;
        let link = node.link(&name)?;
        let configured = run_in(path, || configure_pod(ip))
            .and_then(|inside| inside)
            .and_then(|()| {
                node.add_neighbour(link.index, ip, pod_hardware, false)?;
                let route = Route {
                    destination: host(ip),
                    gateway: None,
                    link: link.index,
                };
                node.add_route(
                    &route,
                    RouteDetail {
                        source: Some(self.config.node_ip),
                        ..RouteDetail::default()
                    },
                )?;
                // Last: the alias says that everything above is done.
                node.set_alias(link.index, &alias(pod_uid, ip))
            });
        configured.inspect_err(|_| {
            let _ = node.delete_link(link.index);
        })
    }

    /// Removes the pod's network, whole or half made; succeeds when there is
    /// none.
    pub fn teardown(&self, pod_uid: &str) -> Result<(), NetworkError> {
        let path = self.checked_path(pod_uid)?;
        let mut node = Netlink::open()?;
        for link in node.links()? {
            if read_alias(&link).is_some_and(|(uid, _)| uid == pod_uid) {
                node.delete_link(link.index)?;
            }
        }
        // A pair without its alias (a crash before the last step) goes with
        // the namespace: no process is in it yet.
        namespace::delete(&path)
    }

    /// Every pod network on this node, finished or not, for adoption after a
    /// restart of the agent.
    pub fn list(&self) -> Result<Vec<PodAttachment>, NetworkError> {
        let links = Netlink::open()?.links()?;
        let mut found = std::collections::BTreeMap::new();
        let failed = |source: io::Error| NetworkError::Namespace {
            path: self.config.directory.clone(),
            operation: "list the directory",
            source,
        };
        for entry in fs::read_dir(&self.config.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(pod_uid) = entry.file_name().into_string() {
                found.insert(pod_uid, None);
            }
        }
        for link in &links {
            if let Some((uid, address)) = read_alias(link) {
                // Without its namespace (after a reboot of a container host,
                // say) a pair is half made, whatever its alias says.
                let usable = namespace::exists(&self.path(uid));
                found.insert(uid.to_owned(), usable.then_some(address));
            }
        }
        Ok(found
            .into_iter()
            .map(|(pod_uid, address)| PodAttachment {
                netns: self.path(&pod_uid),
                pod_uid,
                address,
            })
            .collect())
    }

    fn checked_path(&self, pod_uid: &str) -> Result<PathBuf, NetworkError> {
        let good = !pod_uid.is_empty()
            && pod_uid.len() <= 128
            && pod_uid
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !good {
            return Err(NetworkError::Namespace {
                path: self.config.directory.join(pod_uid),
                operation: "use the pod's uid as a file name",
                source: io::Error::from(io::ErrorKind::InvalidInput),
            });
        }
        Ok(self.path(pod_uid))
    }
}

fn configure_pod(ip: Ipv4Addr) -> Result<(), NetworkError> {
    let mut pod = Netlink::open()?;
    let loopback = pod.link("lo")?;
    pod.set_up(loopback.index)?;
    let link = pod.link(POD_INTERFACE)?;
    pod.add_address(link.index, host(ip), AddressScope::Universe)?;
    pod.set_up(link.index)?;
    pod.add_neighbour(link.index, POD_GATEWAY, NODE_HARDWARE, false)?;
    pod.add_route(
        &Route {
            destination: host(POD_GATEWAY),
            gateway: None,
            link: link.index,
        },
        RouteDetail::default(),
    )?;
    let everywhere = Cidr::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length");
    pod.add_route(
        &Route {
            destination: everywhere,
            gateway: Some(POD_GATEWAY),
            link: link.index,
        },
        RouteDetail::default(),
    )?;
    // A container without capabilities may listen on port 80 and ping, as
    // under other runtimes: the namespace is the pod's alone.
    set_sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    set_sysctl("net/ipv4/ping_group_range", "0\t2147483647")
}

fn host(ip: Ipv4Addr) -> Cidr {
    Cidr::new(ip, 32).expect("32 is a prefix length")
}

fn alias(pod_uid: &str, ip: Ipv4Addr) -> String {
    format!("{ALIAS_PREFIX} {pod_uid} {ip}")
}

fn read_alias(link: &Link) -> Option<(&str, Ipv4Addr)> {
    let mut words = link.alias.as_deref()?.split(' ');
    if words.next()? != ALIAS_PREFIX {
        return None;
    }
    Some((words.next()?, words.next()?.parse().ok()?))
}

/// A name not used lately: the kernel keeps a deleted veth's name for some
/// 30 ms, so names of the pod's uid would clash when one is made again.
fn fresh_link_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_millis() as u64);
    // 32 bits of milliseconds repeat after 50 days, the count after 65,536
    // pods of one agent.
    format!("{LINK_PREFIX}{:08x}{:04x}", now_ms as u32, count as u16)
}

fn uplink_mtu() -> Result<Option<u32>, NetworkError> {
    let mut netlink = Netlink::open()?;
    // Any address that is surely elsewhere: 198.51.100.0/24 is documentation's.
    let Some(route) = netlink.route_to(Ipv4Addr::new(198, 51, 100, 1))? else {
        return Ok(None);
    };
    Ok(netlink
        .link_by_index(route.link)?
        .map(|link| link.mtu)
        .filter(|mtu| (1280..=9000).contains(mtu)))
}
