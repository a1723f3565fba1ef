//! Balancing: keys, tables, localities, slow start.

use std::collections::BTreeSet;

use super::{Report, at};
use crate::istio::{
    ConsistentHash, LoadBalancerSettings, LocalityFailover, LocalityLbSetting, Warmup,
    ZoneAwareLbSetting,
};

/// Envoy's largest Maglev table is below this.
const TABLE_SIZE_END: u64 = 5_000_011;
const TOPOLOGY_LABELS: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

pub fn check(
    settings: Option<&LoadBalancerSettings>,
    has_outlier_detection: bool,
    path: &str,
    report: &mut Report,
) {
    let Some(settings) = settings else { return };
    let path = format!("{path}.loadBalancer");
    if let Some(hash) = &settings.consistent_hash {
        consistent_hash(hash, &format!("{path}.consistentHash"), report);
    }
    if settings.locality_lb_setting.is_some() && settings.zone_aware_lb_setting.is_some() {
        let detail = "only one of localityLbSetting and zoneAwareLbSetting can be set";
        report.forbidden(format!("{path}.zoneAwareLbSetting"), detail);
    }
    if let Some(setting) = &settings.locality_lb_setting {
        let path = format!("{path}.localityLbSetting");
        locality(setting, &path, report);
        needs_outlier_detection(
            !setting.failover.is_empty() || !setting.failover_priority.is_empty(),
            has_outlier_detection,
            &path,
            report,
        );
    }
    if let Some(setting) = &settings.zone_aware_lb_setting {
        let path = format!("{path}.zoneAwareLbSetting");
        zone_aware(setting, &path, report);
        needs_outlier_detection(
            !setting.failover.is_empty() || !setting.failover_priority.is_empty(),
            has_outlier_detection,
            &path,
            report,
        );
    }
    if let Some(settings) = &settings.warmup {
        warmup(settings, &format!("{path}.warmup"), report);
    }
}

fn needs_outlier_detection(fails_over: bool, has: bool, path: &str, report: &mut Report) {
    if fails_over && !has {
        report.warn(
            path,
            "outlier detection policy must be provided for failover",
        );
    }
}

fn consistent_hash(hash: &ConsistentHash, path: &str, report: &mut Report) {
    if let Some(cookie) = &hash.http_cookie {
        let mut names = BTreeSet::new();
        for (index, attribute) in cookie.attributes.iter().enumerate() {
            let name = attribute.name.as_str();
            if !names.insert(name) {
                let path = at(&format!("{path}.httpCookie"), "attributes", index);
                let detail = format!("duplicate cookie attribute name: {name}");
                report.invalid(format!("{path}.name"), name, detail);
            }
        }
    }
    if let Some(maglev) = &hash.maglev {
        let size = maglev.table_size;
        let field = format!("{path}.maglev.tableSize");
        if size == 0 {
            report.required(field, "tableSize must be set for maglev");
        } else if size >= TABLE_SIZE_END {
            let detail = format!("tableSize must be less than {TABLE_SIZE_END} for maglev");
            report.invalid(field, size, detail);
        } else if !is_prime(size) {
            report.invalid(field, size, "tableSize must be a prime number for maglev");
        }
    }
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|factor| factor * factor <= number)
            .all(|factor| !number.is_multiple_of(factor))
}

fn locality(setting: &LocalityLbSetting, path: &str, report: &mut Report) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        let detail = "can not simultaneously specify 'distribute' and 'failover'";
        return report.forbidden(format!("{path}.failover"), detail);
    }
    if !setting.failover.is_empty() {
        for (index, label) in setting.failover_priority.iter().enumerate() {
            if TOPOLOGY_LABELS.contains(&label.as_str()) {
                let detail = format!(
                    "can not simultaneously set 'failover' and topology label '{label}' in 'failover_priority'"
                );
                report.forbidden(at(path, "failoverPriority", index), detail);
            }
        }
    }
    let mut sources = Vec::new();
    for (index, distribute) in setting.distribute.iter().enumerate() {
        let path = at(path, "distribute", index);
        sources.push(distribute.from.as_str());
        let mut total: u64 = 0;
        for (place, weight) in &distribute.to {
            total += u64::from(*weight);
            if !(1..=100).contains(weight) {
                let detail = "locality weight must be in range [1, 100]";
                report.invalid(format!("{path}.to[{place}]"), *weight, detail);
            }
        }
        if total != 100 {
            let detail = format!("total locality weight {total} != 100");
            report.invalid(format!("{path}.to"), total, detail);
        }
        let places: Vec<&str> = distribute.to.keys().map(String::as_str).collect();
        places_apart(&places, &format!("{path}.to"), report);
    }
    places_apart(&sources, &format!("{path}.distribute"), report);
    failover(
        &setting.failover,
        "locality lb failover",
        "only specify region",
        path,
        report,
    );
}

fn failover(
    rules: &[LocalityFailover],
    what: &str,
    region_words: &str,
    path: &str,
    report: &mut Report,
) {
    for (index, rule) in rules.iter().enumerate() {
        let path = at(path, "failover", index);
        let parts = [rule.from.as_str(), rule.to.as_str()];
        if rule.from == rule.to {
            let detail = format!("{what} settings must specify different regions");
            report.invalid(&path, rule.from.as_str(), detail);
        }
        if parts.iter().any(|part| part.contains('/')) {
            report.invalid(&path, parts.join(" to "), format!("{what} {region_words}"));
        }
        if parts.iter().any(|part| part.contains('*')) {
            let detail = format!("{what} region should not contain '*' wildcard");
            report.invalid(&path, parts.join(" to "), detail);
        }
    }
}

fn zone_aware(setting: &ZoneAwareLbSetting, path: &str, report: &mut Report) {
    for (index, label) in setting.failover_priority.iter().enumerate() {
        if TOPOLOGY_LABELS.contains(&label.as_str()) {
            let detail = format!(
                "'failover_priority' for zone aware lb must not use topology label '{label}'; region- and zone-level routing are handled automatically"
            );
            report.forbidden(at(path, "failoverPriority", index), detail);
        }
    }
    let words = "only specifies region; zone and subzone failover are handled automatically";
    failover(
        &setting.failover,
        "zone aware lb failover",
        words,
        path,
        report,
    );
}

/// No two of these localities may have places in common.
fn places_apart(places: &[&str], path: &str, report: &mut Report) {
    let mut seen: Vec<Vec<&str>> = Vec::new();
    for place in places {
        let stars = place.matches('*').count();
        if stars > 1 || stars == 1 && !place.ends_with('*') {
            let detail = format!(
                "locality {place} wildcard '*' number can not exceed 1 and must be in the end"
            );
            return report.invalid(path, *place, detail);
        }
        let parts: Vec<&str> = place.splitn(3, '/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            let detail =
                format!("locality {place} must not contain empty region/zone/subzone info");
            return report.invalid(path, *place, detail);
        }
        let own: Vec<&str> = parts.into_iter().take_while(|part| *part != "*").collect();
        if seen.iter().any(|other| {
            let shared = own.len().min(other.len());
            own[..shared] == other[..shared]
        }) {
            let detail = format!("locality {place} overlap with previous specified ones");
            return report.invalid(path, *place, detail);
        }
        seen.push(own);
    }
}

fn warmup(warmup: &Warmup, path: &str, report: &mut Report) {
    if let Some(percent) = warmup
        .minimum_percent
        .filter(|percent| !(0.0..=100.0).contains(percent))
    {
        let detail = "minimumPercent value should be less than or equal to 100";
        report.invalid(format!("{path}.minimumPercent"), percent, detail);
    }
    if let Some(aggression) = warmup.aggression.filter(|aggression| *aggression <= 0.0) {
        let detail = "aggression should be greater than 0";
        report.invalid(format!("{path}.aggression"), aggression, detail);
    }
}
