//! Services.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Errors, items, metadata, name, one_of, probe, text};
use crate::status::FieldError;

/// A day, the longest that a client stays with one endpoint.
const AFFINITY_MAX_SECONDS: i64 = 86_400;

pub fn service(spec: &Value, errors: &mut Errors) {
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None"
        || items(&spec["clusterIPs"]).iter().any(|ip| ip == "None");
    let all = items(&spec["ports"]);
    if all.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    one_of(
        spec,
        "spec",
        "type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        errors,
    );
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let noun = if kind == "NodePort" {
                "NodePort"
            } else {
                "LoadBalancer"
            };
            let detail = format!("may not be set to 'None' for {noun} services");
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", detail));
        }
        "ExternalName" => external_name(spec, errors),
        _ => {}
    }
    ports(spec, errors);
    metadata::labels(&spec["selector"], "spec.selector", errors);
    affinity(spec, errors);
    addresses(spec, errors);
    policies(spec, kind, errors);
}

fn external_name(spec: &Value, errors: &mut Errors) {
    for field in ["clusterIPs", "clusterIP"] {
        let set = match &spec[field] {
            Value::Array(list) => !list.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => false,
        };
        if set {
            let detail = "may not be set when `type` is 'ExternalName'";
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
        }
    }
    // The trailing dot of a full name is allowed.
    let target = text(spec, "externalName").trim_end_matches('.');
    if target.is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    } else {
        for fault in name::subdomain(target) {
            errors.push(FieldError::invalid("spec.externalName", target, fault));
        }
    }
}

fn ports(spec: &Value, errors: &mut Errors) {
    let all = items(&spec["ports"]);
    let kind = text(spec, "type");
    let (mut names, mut numbers, mut on_nodes) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in all.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let own = text(port, "name");
        if own.is_empty() {
            if all.len() > 1 {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
        } else {
            for fault in name::label(own) {
                errors.push(FieldError::invalid(format!("{path}.name"), own, fault));
            }
            if !names.insert(own) {
                errors.push(FieldError::duplicate(format!("{path}.name"), own));
            }
        }
        let number = port["port"].as_i64().unwrap_or(0);
        for fault in name::port_number(number) {
            errors.push(FieldError::invalid(format!("{path}.port"), number, fault));
        }
        one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
        if !port["targetPort"].is_null() {
            probe::port_reference(&port["targetPort"], &format!("{path}.targetPort"), errors);
        }
        let protocol = text(port, "protocol");
        if !numbers.insert((protocol, number)) {
            errors.push(FieldError::duplicate(
                path.clone(),
                json!({"protocol": protocol, "port": number}),
            ));
        }
        let on_node = port["nodePort"].as_i64().unwrap_or(0);
        if on_node == 0 {
            continue;
        }
        if kind == "ClusterIP" || kind == "ExternalName" {
            let detail = format!("may not be used when `type` is '{kind}'");
            errors.push(FieldError::forbidden(format!("{path}.nodePort"), detail));
        }
        for fault in name::port_number(on_node) {
            errors.push(FieldError::invalid(
                format!("{path}.nodePort"),
                on_node,
                fault,
            ));
        }
        if !on_nodes.insert((protocol, on_node)) {
            errors.push(FieldError::duplicate(format!("{path}.nodePort"), on_node));
        }
    }
}

fn affinity(spec: &Value, errors: &mut Errors) {
    one_of(
        spec,
        "spec",
        "sessionAffinity",
        &["ClientIP", "None"],
        errors,
    );
    let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    if let Some(seconds) = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64()
        && !(1..=AFFINITY_MAX_SECONDS).contains(&seconds)
    {
        let detail = format!("must be greater than 0 and less than {AFFINITY_MAX_SECONDS}");
        errors.push(FieldError::invalid(path, seconds, detail));
    }
}

fn addresses(spec: &Value, errors: &mut Errors) {
    let all = items(&spec["clusterIPs"]);
    if let (Some(first), Some(single)) = (all.first(), spec["clusterIP"].as_str())
        && !single.is_empty()
        && first != single
    {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            first.clone(),
            "must be same as `clusterIP`",
        ));
    }
    if all.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(
            "spec.clusterIPs",
            spec["clusterIPs"].clone(),
            detail,
        ));
    }
    for (index, address) in all.iter().enumerate() {
        let address = address.as_str().unwrap_or("");
        if address == "None" {
            if all.len() > 1 {
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(
                    format!("spec.clusterIPs[{index}]"),
                    address,
                    detail,
                ));
            }
            continue;
        }
        for fault in name::address(address) {
            errors.push(FieldError::invalid(
                format!("spec.clusterIPs[{index}]"),
                address,
                fault,
            ));
        }
    }
    for (index, address) in items(&spec["externalIPs"]).iter().enumerate() {
        let address = address.as_str().unwrap_or("");
        for fault in name::address(address) {
            errors.push(FieldError::invalid(
                format!("spec.externalIPs[{index}]"),
                address,
                fault,
            ));
        }
    }
    for (index, family) in items(&spec["ipFamilies"]).iter().enumerate() {
        let family = family.as_str().unwrap_or("");
        if family != "IPv4" && family != "IPv6" {
            let path = format!("spec.ipFamilies[{index}]");
            errors.push(FieldError::not_supported(path, family, &["IPv4", "IPv6"]));
        }
    }
    let policy = text(spec, "ipFamilyPolicy");
    let allowed = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    if !policy.is_empty() && !allowed.contains(&policy) {
        errors.push(FieldError::not_supported(
            "spec.ipFamilyPolicy",
            policy,
            &allowed,
        ));
    }
}

fn policies(spec: &Value, kind: &str, errors: &mut Errors) {
    for field in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        let policy = text(spec, field);
        if !policy.is_empty() && policy != "Cluster" && policy != "Local" {
            errors.push(FieldError::not_supported(
                format!("spec.{field}"),
                policy,
                &["Cluster", "Local"],
            ));
        }
    }
    let external = !items(&spec["externalIPs"]).is_empty();
    let reached_from_outside =
        matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external);
    if !text(spec, "externalTrafficPolicy").is_empty() && !reached_from_outside {
        let policy = text(spec, "externalTrafficPolicy");
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(
            "spec.externalTrafficPolicy",
            policy,
            detail,
        ));
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if kind != "LoadBalancer" && !spec[field].is_null() {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
        }
    }
}

/// The cluster address of a service does not change, except to or from ExternalName.
pub fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"], &old["spec"]);
    if text(old, "type") == "ExternalName" || text(new, "type") == "ExternalName" {
        return;
    }
    let (before, after) = (items(&old["clusterIPs"]), items(&new["clusterIPs"]));
    if let Some(kept) = before.first()
        && after.first() != Some(kept)
    {
        let detail = if after.is_empty() {
            "primary clusterIP can not be unset"
        } else {
            "may not change once set"
        };
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            new["clusterIPs"].clone(),
            detail,
        ));
    }
    if let (Some(before), Some(after)) = (
        items(&old["ipFamilies"]).first(),
        items(&new["ipFamilies"]).first(),
    ) && before != after
    {
        errors.push(FieldError::invalid(
            "spec.ipFamilies[0]",
            new["ipFamilies"].clone(),
            "may not change once set",
        ));
    }
}
