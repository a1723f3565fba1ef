//! Addresses and ports of Services: each is a key, taken and freed in the transaction that writes the
//! Service, so that no two Services can hold one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rand::Rng;
use serde_json::json;
use trireme_model::kinds::{self, Kind};
use trireme_model::status::{FieldError, Status};
use trireme_model::{Value, meta};

use crate::api::{Api, ConfigError};
use crate::verb::change::Allocation;

const ADDRESSES: &str = "/registry/ranges/serviceips/";
const NODE_PORTS: &str = "/registry/ranges/servicenodeports/";
/// Random picks before the range is searched: while it is less than half full, 32 picks all fail once in
/// four thousand million times.
const RANDOM_PICKS: u32 = 32;

/// The block from which ClusterIPs are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    first: u32,
    bits: u32,
}

impl Network {
    pub fn parse(cidr: &str) -> Result<Network, ConfigError> {
        let refused = |reason: &str| ConfigError::ServiceCidr {
            cidr: cidr.to_owned(),
            reason: reason.to_owned(),
        };
        let (address, bits) = cidr
            .split_once('/')
            .ok_or_else(|| refused("no prefix length"))?;
        let address: Ipv4Addr = address
            .parse()
            .map_err(|_| refused("not an IPv4 address"))?;
        let bits: u32 = bits.parse().map_err(|_| refused("not a prefix length"))?;
        if !(8..=29).contains(&bits) {
            return Err(refused("the prefix length must be from 8 to 29"));
        }
        Ok(Network {
            first: u32::from(address) & !((1u32 << (32 - bits)) - 1),
            bits,
        })
    }

    fn size(self) -> u32 {
        1 << (32 - self.bits)
    }

    /// Neither the network's own address nor the broadcast address.
    fn usable(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.first);
        offset > 0 && offset < self.size() - 1
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + offset)
    }

    /// The address of the `kubernetes` Service.
    pub fn api_address(self) -> Ipv4Addr {
        self.at(1)
    }

    fn shown(self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.first), self.bits)
    }
}

/// Fills in the addresses and ports that a Service asks for, and says what to take and free with its write.
/// `new` is `None` when it is deleted.
pub(crate) fn allocate(
    api: &Api,
    kind: &Kind,
    old: Option<&Value>,
    new: Option<&mut Value>,
) -> Result<Allocation, Status> {
    if *kind != *kinds::SERVICE {
        return Ok(Allocation::default());
    }
    let held = old.map(keys).unwrap_or_default();
    let Some(new) = new else {
        return Ok(Allocation {
            free: held.into_iter().collect(),
            ..Allocation::default()
        });
    };
    if let Some(old) = old {
        drop_what_the_type_has_not(old, new);
    }
    let name = meta::name(new).to_owned();
    let mut errors = Vec::new();
    cluster_ip(api, &held, new, &mut errors)?;
    node_ports(api, &held, new, &mut errors)?;
    if !errors.is_empty() {
        return Err(Status::invalid(kind, &name, errors));
    }
    let wanted = keys(new);
    Ok(Allocation {
        take: wanted.difference(&held).cloned().collect(),
        free: held.difference(&wanted).cloned().collect(),
        ..Allocation::default()
    })
}

fn service_type(service: &Value) -> &str {
    let given = service
        .get("spec")
        .and_then(|spec| spec.get("type"))
        .and_then(Value::as_str)
        .unwrap_or("");
    if given.is_empty() { "ClusterIP" } else { given }
}

fn has_node_ports(service: &Value) -> bool {
    matches!(service_type(service), "NodePort" | "LoadBalancer")
}

fn cluster_ip_of(service: &Value) -> &str {
    service
        .get("spec")
        .and_then(|spec| spec.get("clusterIP"))
        .and_then(Value::as_str)
        .unwrap_or("")
}

fn ports(service: &Value) -> &[Value] {
    let ports = service
        .get("spec")
        .and_then(|spec| spec.get("ports"))
        .and_then(Value::as_array);
    ports.map(Vec::as_slice).unwrap_or_default()
}

fn node_port(port: &Value) -> i64 {
    port.get("nodePort").and_then(Value::as_i64).unwrap_or(0)
}

/// The allocation keys that a stored Service holds.
fn keys(service: &Value) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let address = cluster_ip_of(service);
    if service_type(service) != "ExternalName" && !matches!(address, "" | "None") {
        keys.insert(format!("{ADDRESSES}{address}"));
    }
    if has_node_ports(service) {
        keys.extend(
            ports(service)
                .iter()
                .map(node_port)
                .filter(|port| *port > 0)
                .map(port_key),
        );
    }
    keys
}

/// A changed type sheds the addresses that the user did not change himself.
fn drop_what_the_type_has_not(old: &Value, new: &mut Value) {
    if service_type(new) == "ExternalName" && service_type(old) != "ExternalName" {
        let unchanged = cluster_ip_of(new).is_empty() || cluster_ip_of(new) == cluster_ip_of(old);
        if unchanged && let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
            for field in [
                "clusterIP",
                "clusterIPs",
                "ipFamilies",
                "ipFamilyPolicy",
                "internalTrafficPolicy",
            ] {
                spec.remove(field);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let before: BTreeSet<i64> = ports(old).iter().map(node_port).collect();
        let list = new
            .get_mut("spec")
            .and_then(|spec| spec.get_mut("ports"))
            .and_then(Value::as_array_mut);
        for port in list.into_iter().flatten() {
            if before.contains(&node_port(port))
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
        if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("externalTrafficPolicy");
        }
    }
}

fn port_key(port: i64) -> String {
    // Ports sort as numbers.
    format!("{NODE_PORTS}{port:05}")
}

fn cluster_ip(
    api: &Api,
    held: &BTreeSet<String>,
    service: &mut Value,
    errors: &mut Vec<FieldError>,
) -> Result<(), Status> {
    if service_type(service) == "ExternalName" {
        return Ok(());
    }
    let network = api.service_network;
    let mut address = cluster_ip_of(service).to_owned();
    if address == "None" {
        set_cluster_ip(service, "None");
        return Ok(());
    }
    if address.is_empty() {
        address = match pick_address(api)? {
            Some(address) => address.to_string(),
            None => {
                errors.push(FieldError::invalid(
                    "spec.clusterIPs",
                    json!([""]),
                    "failed to allocate a serviceIP: range is full",
                ));
                return Ok(());
            }
        };
    } else if !held.contains(&format!("{ADDRESSES}{address}")) {
        let problem = match address.parse::<Ipv4Addr>() {
            // Validation names what is no address.
            Err(_) => return Ok(()),
            Ok(parsed) if !network.usable(parsed) => Some(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
                network.shown()
            )),
            Ok(_) if api.store.read(&format!("{ADDRESSES}{address}"))?.is_some() => {
                Some("provided IP is already allocated".to_owned())
            }
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            errors.push(FieldError::invalid(
                "spec.clusterIPs",
                json!([address]),
                format!("failed to allocate IP {address}: {problem}"),
            ));
            return Ok(());
        }
    }
    set_cluster_ip(service, &address);
    Ok(())
}

fn set_cluster_ip(service: &mut Value, address: &str) {
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("clusterIP".to_owned(), address.into());
        spec.insert("clusterIPs".to_owned(), json!([address]));
        spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        spec.entry("ipFamilyPolicy")
            .or_insert_with(|| "SingleStack".into());
    }
}

fn pick_address(api: &Api) -> Result<Option<Ipv4Addr>, Status> {
    let network = api.service_network;
    let last = network.size() - 2;
    for _ in 0..RANDOM_PICKS {
        let address = network.at(rand::rng().random_range(2..=last));
        if api.store.read(&format!("{ADDRESSES}{address}"))?.is_none() {
            return Ok(Some(address));
        }
    }
    let (taken, _) = api.store.read_prefix(ADDRESSES)?;
    let taken: BTreeSet<&[u8]> = taken.iter().map(|kv| kv.key.as_ref()).collect();
    Ok((2..=last)
        .map(|offset| network.at(offset))
        .find(|address| !taken.contains(format!("{ADDRESSES}{address}").as_bytes())))
}

fn node_ports(
    api: &Api,
    held: &BTreeSet<String>,
    service: &mut Value,
    errors: &mut Vec<FieldError>,
) -> Result<(), Status> {
    if !has_node_ports(service) {
        return Ok(());
    }
    let automatic = service_type(service) == "NodePort"
        || service
            .get("spec")
            .and_then(|spec| spec.get("allocateLoadBalancerNodePorts"))
            .and_then(Value::as_bool)
            .unwrap_or(true);
    let range = &api.config.node_port_range;
    let mut used: BTreeSet<i64> = ports(service)
        .iter()
        .map(node_port)
        .filter(|port| *port > 0)
        .collect();
    // One number may serve one port by TCP and by UDP.
    let mut chosen: Vec<(i64, i64)> = Vec::new();
    let Some(list) = service
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("ports"))
        .and_then(Value::as_array_mut)
    else {
        return Ok(());
    };
    for (index, port) in list.iter_mut().enumerate() {
        let given = node_port(port);
        let field = format!("spec.ports[{index}].nodePort");
        if given == 0 {
            let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
            let shared = chosen
                .iter()
                .find(|(of, _)| *of == number)
                .map(|(_, port)| *port);
            let picked = match shared {
                _ if !automatic => continue,
                Some(shared) => Some(shared),
                None => pick_port(api, &used)?,
            };
            match picked {
                Some(picked) => {
                    used.insert(picked);
                    chosen.push((number, picked));
                    if let Some(port) = port.as_object_mut() {
                        port.insert("nodePort".to_owned(), picked.into());
                    }
                }
                None => errors.push(FieldError::invalid(
                    field,
                    0,
                    "failed to allocate a nodePort: range is full",
                )),
            }
        } else if !held.contains(&port_key(given)) {
            let in_range = u16::try_from(given).is_ok_and(|given| range.contains(&given));
            if !in_range {
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                );
                errors.push(FieldError::invalid(field, given, why));
            } else if api.store.read(&port_key(given))?.is_some() {
                errors.push(FieldError::invalid(
                    field,
                    given,
                    "provided port is already allocated",
                ));
            }
        }
    }
    Ok(())
}

fn pick_port(api: &Api, used: &BTreeSet<i64>) -> Result<Option<i64>, Status> {
    let range = &api.config.node_port_range;
    let free = |port: i64| -> Result<bool, Status> {
        Ok(!used.contains(&port) && api.store.read(&port_key(port))?.is_none())
    };
    for _ in 0..RANDOM_PICKS {
        let port = i64::from(rand::rng().random_range(range.clone()));
        if free(port)? {
            return Ok(Some(port));
        }
    }
    for port in range.clone() {
        if free(i64::from(port))? {
            return Ok(Some(i64::from(port)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_ends_where_its_prefix_says() {
        let network = Network::parse("10.43.7.9/16").unwrap();
        assert_eq!(network.shown(), "10.43.0.0/16");
        assert_eq!(network.api_address(), Ipv4Addr::new(10, 43, 0, 1));
        assert!(network.usable(Ipv4Addr::new(10, 43, 255, 254)));
        for outside in [
            [10, 43, 0, 0],
            [10, 43, 255, 255],
            [10, 44, 0, 1],
            [10, 42, 255, 255],
        ] {
            assert!(!network.usable(Ipv4Addr::from(outside)));
        }
        for wrong in ["10.43.0.0", "x/16", "10.43.0.0/40", "10.43.0.0/31"] {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_service_holds_its_address_and_ports() {
        let service = json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.7",
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "nodePort": 30081}]}});
        let keys: Vec<String> = keys(&service).into_iter().collect();
        assert_eq!(
            keys,
            [
                "/registry/ranges/serviceips/10.43.0.7",
                "/registry/ranges/servicenodeports/30080",
                "/registry/ranges/servicenodeports/30081"
            ]
        );
        assert!(super::keys(&json!({"spec": {"clusterIP": "None"}})).is_empty());
        assert!(super::keys(&json!({"spec": {"type": "ExternalName"}})).is_empty());
    }

    #[test]
    fn a_changed_type_sheds_what_it_has_no_use_for() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.7", "ports": [{"port": 80, "nodePort": 30080}]}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        drop_what_the_type_has_not(&old, &mut new);
        assert_eq!(new["spec"]["ports"], json!([{"port": 80}]));
        new["spec"]["type"] = "ExternalName".into();
        drop_what_the_type_has_not(&old, &mut new);
        assert_eq!(new["spec"].get("clusterIP"), None);
    }
}
