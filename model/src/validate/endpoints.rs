//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, items, name, one_of, text};
use crate::status::FieldError;

/// As Kubernetes limits a slice.
const SLICE_ENDPOINTS_MAX: usize = 1000;
const SLICE_PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;

pub fn endpoints(object: &Value, errors: &mut Errors) {
    for (index, subset) in items(&object["subsets"]).iter().enumerate() {
        let path = format!("subsets[{index}]");
        if items(&subset["addresses"]).is_empty() && items(&subset["notReadyAddresses"]).is_empty()
        {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(path.clone(), detail));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (index, entry) in items(&subset[list]).iter().enumerate() {
                routable(
                    text(entry, "ip"),
                    &format!("{path}.{list}[{index}].ip"),
                    errors,
                );
            }
        }
        let all = items(&subset["ports"]);
        for (index, port) in all.iter().enumerate() {
            let path = format!("{path}.ports[{index}]");
            let own = text(port, "name");
            if own.is_empty() {
                if all.len() > 1 {
                    errors.push(FieldError::required(format!("{path}.name"), ""));
                }
            } else {
                for fault in name::label(own) {
                    errors.push(FieldError::invalid(format!("{path}.name"), own, fault));
                }
            }
            let number = port["port"].as_i64().unwrap_or(0);
            for fault in name::port_number(number) {
                errors.push(FieldError::invalid(format!("{path}.port"), number, fault));
            }
            one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
        }
    }
}

/// An address that traffic can be sent to from elsewhere.
fn routable(given: &str, path: &str, errors: &mut Errors) {
    let Ok(address) = given.parse::<std::net::IpAddr>() else {
        for fault in name::address(given) {
            errors.push(FieldError::invalid(path, given, fault));
        }
        return;
    };
    let link_local = match address {
        std::net::IpAddr::V4(address) => address.is_link_local(),
        std::net::IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let fault = if address.is_unspecified() {
        format!("may not be unspecified ({given})")
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, given, fault));
}

pub fn slice(object: &Value, errors: &mut Errors) {
    let family = text(object, "addressType");
    match family {
        "" => errors.push(FieldError::required("addressType", "")),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => errors.push(FieldError::not_supported(
            "addressType",
            other,
            &["FQDN", "IPv4", "IPv6"],
        )),
    }
    let all = items(&object["endpoints"]);
    if all.len() > SLICE_ENDPOINTS_MAX {
        errors.push(FieldError::too_many(
            "endpoints",
            all.len(),
            SLICE_ENDPOINTS_MAX,
        ));
        return;
    }
    for (index, endpoint) in all.iter().enumerate() {
        let path = format!("endpoints[{index}].addresses");
        let addresses = items(&endpoint["addresses"]);
        if addresses.is_empty() {
            errors.push(FieldError::required(
                path.clone(),
                "must contain at least 1 address",
            ));
        } else if addresses.len() > ADDRESSES_MAX {
            errors.push(FieldError::too_many(
                path.clone(),
                addresses.len(),
                ADDRESSES_MAX,
            ));
        }
        for (index, address) in addresses.iter().enumerate() {
            slice_address(
                address.as_str().unwrap_or(""),
                family,
                &format!("{path}[{index}]"),
                errors,
            );
        }
    }
    let ports = items(&object["ports"]);
    if ports.len() > SLICE_PORTS_MAX {
        errors.push(FieldError::too_many("ports", ports.len(), SLICE_PORTS_MAX));
        return;
    }
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("ports[{index}]");
        let own = text(port, "name");
        if !own.is_empty() {
            for fault in name::label(own) {
                errors.push(FieldError::invalid(format!("{path}.name"), own, fault));
            }
        }
        if !names.insert(own) {
            errors.push(FieldError::duplicate(format!("{path}.name"), own));
        }
        if let Some(number) = port["port"].as_i64() {
            for fault in name::port_number(number) {
                errors.push(FieldError::invalid(format!("{path}.port"), number, fault));
            }
        }
        one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
    }
}

fn slice_address(given: &str, family: &str, path: &str, errors: &mut Errors) {
    match family {
        "IPv4" if given.parse::<std::net::Ipv4Addr>().is_err() => {
            errors.push(FieldError::invalid(
                path,
                given,
                "must be a valid IPv4 address",
            ));
        }
        "IPv6" if given.parse::<std::net::Ipv6Addr>().is_err() => {
            errors.push(FieldError::invalid(
                path,
                given,
                "must be a valid IPv6 address",
            ));
        }
        "IPv4" | "IPv6" => routable(given, path, errors),
        "FQDN" => {
            for fault in name::subdomain(given) {
                errors.push(FieldError::invalid(path, given, fault));
            }
        }
        _ => {}
    }
}
