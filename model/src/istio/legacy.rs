//! What older releases and the workshop's slides write, brought to today's spelling, with a warning that says what to
//! write today.
//!
//! | written | means today |
//! |---|---|
//! | `fault.delay.percent: 50` | `fault.delay.percentage.value: 50` |
//! | `percentage: 50` | `percentage.value: 50` |
//! | `mirrorPercent: 50`, `mirror_percent` | `mirrorPercentage.value: 50` |
//! | `corsPolicy.allowOrigin: [o]` | `corsPolicy.allowOrigins: [{exact: o}]` |
//! | `outlierDetection.consecutiveErrors` | `consecutive5xxErrors` |
//! | `trafficPolicy.tcp`, `trafficPolicy.http` | `trafficPolicy.connectionPool.tcp`, `.http` |
//! | `loadBalancer.simple: LEAST_CONN` | `LEAST_REQUEST` |
//! | `loadBalancer.warmupDurationSecs` | `loadBalancer.warmup.duration` |
//! | `consistentHash.minimumRingSize` | `consistentHash.ringHash.minimumRingSize` |
//!
//! Stored objects have no old spelling, so where both are present the old one is what a client just wrote over a
//! stored object (`kubectl apply` patches maps), and it wins; faults' `percent` is Istio's exception, where
//! `percentage` wins (routes are lists, which are replaced as a whole, so both come from one author).

use serde_json::{Map, Value, json};

/// Brings an object of this kind (`VirtualService`, ...) to today's spelling. Returns one warning a place. Anything
/// that is no old spelling stays as it is, also where it is wrong: schema and validation name that.
pub fn normalize(kind: &str, object: &mut Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(spec) = object.get_mut("spec") else {
        return warnings;
    };
    match kind {
        "VirtualService" => {
            for (index, route) in list(spec, "http").iter_mut().enumerate() {
                http_route(route, &format!("spec.http[{index}]"), &mut warnings);
            }
        }
        "DestinationRule" => {
            traffic_policy(spec, "spec", &mut warnings);
            for (index, subset) in list(spec, "subsets").iter_mut().enumerate() {
                traffic_policy(subset, &format!("spec.subsets[{index}]"), &mut warnings);
            }
        }
        _ => {}
    }
    warnings
}

fn list<'a>(value: &'a mut Value, field: &str) -> &'a mut [Value] {
    value
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .map(Vec::as_mut_slice)
        .unwrap_or_default()
}

fn struct_at<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    value.get_mut(field).and_then(Value::as_object_mut)
}

/// Takes a field out; a null is an absent one.
fn take(map: &mut Map<String, Value>, field: &str) -> Option<Value> {
    map.remove(field).filter(|value| !value.is_null())
}

fn warn(warnings: &mut Vec<String>, path: &str, old: &str, new: &str) {
    warnings.push(format!(
        "{path}.{old}: an old spelling; write {path}.{new} instead"
    ));
}

fn http_route(route: &mut Value, path: &str, warnings: &mut Vec<String>) {
    if let Some(fault) = route.get_mut("fault") {
        for which in ["delay", "abort"] {
            let Some(fault) = struct_at(fault, which) else {
                continue;
            };
            let path = format!("{path}.fault.{which}");
            percentage(fault, &path, "percentage", warnings);
            if fault.get("percent").is_some_and(Value::is_number)
                && let Some(percent) = take(fault, "percent")
            {
                warn(
                    warnings,
                    &path,
                    "percent",
                    &format!("percentage: {{value: {percent}}}"),
                );
                if fault.get("percentage").is_none_or(Value::is_null) {
                    fault.insert("percentage".to_owned(), json!({"value": percent}));
                }
            }
        }
    }
    if let Some(cors) = struct_at(route, "corsPolicy")
        && cors.get("allowOrigin").is_some_and(Value::is_array)
        && let Some(Value::Array(origins)) = take(cors, "allowOrigin")
    {
        warn(
            warnings,
            &format!("{path}.corsPolicy"),
            "allowOrigin",
            "allowOrigins: [{exact: ...}]",
        );
        let matches = cors.entry("allowOrigins").or_insert(Value::Null);
        if matches.is_null() {
            *matches = origins
                .into_iter()
                .map(|origin| json!({"exact": origin}))
                .collect();
        }
    }
    for (index, mirror) in list(route, "mirrors").iter_mut().enumerate() {
        if let Some(mirror) = mirror.as_object_mut() {
            percentage(
                mirror,
                &format!("{path}.mirrors[{index}]"),
                "percentage",
                warnings,
            );
        }
    }
    let Some(route) = route.as_object_mut() else {
        return;
    };
    percentage(route, path, "mirrorPercentage", warnings);
    for old in ["mirrorPercent", "mirror_percent"] {
        if route.get(old).is_some_and(Value::is_number)
            && let Some(percent) = take(route, old)
        {
            warn(
                warnings,
                path,
                old,
                &format!("mirrorPercentage: {{value: {percent}}}"),
            );
            if route.get("mirrorPercentage").is_none_or(Value::is_null) {
                route.insert("mirrorPercentage".to_owned(), json!({"value": percent}));
            }
        }
    }
}

/// A plain number where a Percent belongs.
fn percentage(owner: &mut Map<String, Value>, path: &str, field: &str, warnings: &mut Vec<String>) {
    if let Some(value) = owner.get_mut(field)
        && value.is_number()
    {
        warnings.push(format!(
            "{path}.{field}: a plain number is an old spelling; write {path}.{field}: {{value: {value}}} instead"
        ));
        *value = json!({"value": value.take()});
    }
}

fn traffic_policy(owner: &mut Value, path: &str, warnings: &mut Vec<String>) {
    let Some(policy) = owner.get_mut("trafficPolicy") else {
        return;
    };
    let path = format!("{path}.trafficPolicy");
    if let Some(policy) = policy.as_object_mut() {
        for protocol in ["tcp", "http"] {
            if !policy.get(protocol).is_some_and(Value::is_object) {
                continue;
            }
            let Some(settings) = take(policy, protocol) else {
                continue;
            };
            warn(
                warnings,
                &path,
                protocol,
                &format!("connectionPool.{protocol}"),
            );
            let pool = policy.entry("connectionPool").or_insert(Value::Null);
            if pool.is_null() {
                *pool = json!({});
            }
            if let Some(pool) = pool.as_object_mut() {
                overlay(pool.entry(protocol).or_insert(Value::Null), settings);
            }
        }
    }
    policy_parts(policy, &path, warnings);
    for (index, port) in list(policy, "portLevelSettings").iter_mut().enumerate() {
        policy_parts(
            port,
            &format!("{path}.portLevelSettings[{index}]"),
            warnings,
        );
    }
}

/// What was just written, over what is there, field by field.
fn overlay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (field, value) in over {
                overlay(under.entry(field).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn policy_parts(policy: &mut Value, path: &str, warnings: &mut Vec<String>) {
    if let Some(outlier) = struct_at(policy, "outlierDetection")
        && outlier
            .get("consecutiveErrors")
            .is_some_and(Value::is_number)
        && let Some(errors) = take(outlier, "consecutiveErrors")
    {
        warn(
            warnings,
            &format!("{path}.outlierDetection"),
            "consecutiveErrors",
            "consecutive5xxErrors",
        );
        outlier.insert("consecutive5xxErrors".to_owned(), errors);
    }
    let Some(balancer) = struct_at(policy, "loadBalancer") else {
        return;
    };
    let path = format!("{path}.loadBalancer");
    if balancer
        .get("simple")
        .is_some_and(|simple| simple == "LEAST_CONN")
    {
        warnings.push(format!(
            "{path}.simple: LEAST_CONN is an old spelling; write LEAST_REQUEST instead"
        ));
        balancer.insert("simple".to_owned(), json!("LEAST_REQUEST"));
    }
    if balancer
        .get("warmupDurationSecs")
        .is_some_and(Value::is_string)
        && let Some(duration) = take(balancer, "warmupDurationSecs")
    {
        warn(warnings, &path, "warmupDurationSecs", "warmup.duration");
        overlay(
            balancer.entry("warmup").or_insert(Value::Null),
            json!({"duration": duration}),
        );
    }
    if let Some(hash) = balancer
        .get_mut("consistentHash")
        .and_then(Value::as_object_mut)
        && hash
            .get("minimumRingSize")
            .is_some_and(|size| !size.is_null())
        && let Some(size) = take(hash, "minimumRingSize")
    {
        warn(
            warnings,
            &format!("{path}.consistentHash"),
            "minimumRingSize",
            "ringHash.minimumRingSize",
        );
        overlay(
            hash.entry("ringHash").or_insert(Value::Null),
            json!({"minimumRingSize": size}),
        );
    }
}
