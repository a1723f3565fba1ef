//! The machines' network: a bridge, and a namespace behind it for each machine.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use trireme_network::{Cidr, topology};

use super::state::{Machine, Role, State};

/// Where `ip netns` looks, so that `ip netns exec NAME` works for people.
const NAMESPACES: &str = "/run/netns";
/// 10.89.N.0/24: one N for each cluster on this machine.
const SUBNET_PREFIX: [u8; 2] = [10, 89];
const SERVER_HOST: u8 = 11;
const NODE_HOST: u8 = 101;
const PREFIX_LENGTH: u8 = 24;
pub const MAX_SERVERS: u8 = 9;
pub const MAX_NODES: u8 = 100;
/// First choice for kubectl's port on 127.0.0.1; the next free one otherwise.
const API_PORT: u16 = 6443;
const API_PORTS_TRIED: u16 = 200;

/// Chooses names and addresses for a new cluster and makes the bridge, under a lock, so that two
/// `up`s at once choose differently.
pub fn allocate(data: &Path, servers: u8, nodes: u8) -> Result<State> {
    let _lock = lock()?;
    let number = free_subnet()?;
    let id = format!("t{number}");
    let gateway = Ipv4Addr::new(SUBNET_PREFIX[0], SUBNET_PREFIX[1], number, 1);
    let mut state = State {
        bridge: format!("trireme{number}"),
        gateway,
        machines: Vec::new(),
        api_port: free_port()?,
        balancer: None,
        forwarding_was_on: None,
        id,
    };
    let rows = [
        (Role::Server, "server", SERVER_HOST, servers),
        (Role::Node, "node", NODE_HOST, nodes),
    ];
    for (role, word, first, count) in rows {
        for index in 0..count {
            let name = format!("{word}-{}", index + 1);
            let [a, b, c, _] = gateway.octets();
            state.machines.push(Machine {
                namespace: PathBuf::from(NAMESPACES).join(format!("trireme-{}-{name}", state.id)),
                // At most 15 bytes, as the kernel wants it.
                link: format!("{}{}{}", state.id, &word[..1], index + 1),
                data: data.join(&name),
                log: data.join("logs").join(format!("{name}.log")),
                address: Ipv4Addr::new(a, b, c, first + index),
                process: None,
                role,
                name,
            });
        }
    }
    // Written down before it is made: `down` can then remove what a killed `up` left.
    state.save(data)?;
    topology::create_bridge(&state.bridge, cidr(gateway)?)
        .context("making the bridge between the machines")?;
    Ok(state)
}

/// Makes what is missing of the machines' namespaces and cables; run again, it does nothing.
pub fn connect(state: &State) -> Result<()> {
    if !topology::link_exists(&state.bridge)? {
        topology::create_bridge(&state.bridge, cidr(state.gateway)?)?;
    }
    for machine in &state.machines {
        let whole = trireme_network::namespace::exists(&machine.namespace)
            && topology::link_exists(&machine.link)?;
        if whole {
            continue;
        }
        topology::delete_link(&machine.link)?;
        topology::delete_namespace(&machine.namespace)?;
        topology::create_namespace(&machine.namespace)
            .with_context(|| format!("making the namespace of {}", machine.name))?;
        topology::connect(
            &state.bridge,
            &machine.namespace,
            &machine.link,
            "eth0",
            cidr(machine.address)?,
            Some(state.gateway),
        )
        .with_context(|| format!("connecting {} to {}", machine.name, state.bridge))?;
    }
    Ok(())
}

/// Removes the namespaces, cables and the bridge; what is gone already is no error.
pub fn remove(state: &State) -> Result<()> {
    for machine in &state.machines {
        topology::delete_link(&machine.link)?;
        topology::delete_namespace(&machine.namespace)?;
    }
    topology::delete_link(&state.bridge)?;
    if let Some(was_on) = state.forwarding_was_on {
        topology::stop_sharing_uplink(&uplink_table(state), was_on)?;
    }
    Ok(())
}

/// The nft table that lets the machines out.
pub fn uplink_table(state: &State) -> String {
    format!("trireme_{}", state.id)
}

pub fn subnet(state: &State) -> Result<Cidr> {
    cidr(state.gateway)
}

/// On a directory that every machine has, so that no file is left of it.
fn lock() -> Result<nix::fcntl::Flock<File>> {
    let path = Path::new("/run");
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("locking {}", path.display()))
}

fn free_subnet() -> Result<u8> {
    let taken: Vec<Ipv4Addr> = nix::ifaddrs::getifaddrs()
        .context("listing this machine's addresses")?
        .filter_map(|interface| {
            interface
                .address?
                .as_sockaddr_in()
                .map(|socket| socket.ip())
        })
        .collect();
    (1..=250)
        .find(|number| {
            let used = taken.iter().any(|address| {
                let [a, b, c, _] = address.octets();
                [a, b] == SUBNET_PREFIX && c == *number
            });
            let bridge = format!("trireme{number}");
            !used && !topology::link_exists(&bridge).unwrap_or(true)
        })
        .context("all of 10.89.1.0/24 to 10.89.250.0/24 are in use on this machine; end a cluster with `trireme down`")
}

fn free_port() -> Result<u16> {
    for port in API_PORT..API_PORT + API_PORTS_TRIED {
        if std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!(
        "no free port on 127.0.0.1 between {API_PORT} and {}",
        API_PORT + API_PORTS_TRIED
    )
}

fn cidr(address: Ipv4Addr) -> Result<Cidr> {
    Cidr::new(address, PREFIX_LENGTH).context("a prefix length beyond 32")
}
