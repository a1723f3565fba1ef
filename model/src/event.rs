//! Events are stored once, as core/v1 has them; events.k8s.io/v1 is another view of the same objects.

use serde_json::Value;

use crate::meta::map_mut;

/// Core name and events.k8s.io name of each field that differs.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(
    object: &mut Value,
    api_version: &str,
    pairs: impl Iterator<Item = (&'static str, &'static str)>,
) {
    let map = map_mut(object);
    for (from, to) in pairs {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
    map.insert("apiVersion".to_owned(), api_version.into());
}

/// Turns an events.k8s.io/v1 Event into the core/v1 form that is stored.
pub fn to_core(object: &mut Value) {
    rename(
        object,
        "v1",
        RENAMED.into_iter().map(|(core, events)| (events, core)),
    );
}

/// Turns a stored (core/v1) Event into the events.k8s.io/v1 form.
pub fn to_events(object: &mut Value) {
    rename(object, "events.k8s.io/v1", RENAMED.into_iter());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_two_views_are_inverse() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "message": "m", "count": 2,
            "involvedObject": {"kind": "Pod"}, "source": {"component": "c"}, "reason": "r",
            "reportingComponent": "c", "lastTimestamp": "2026-01-01T00:00:00Z"});
        let mut view = core.clone();
        to_events(&mut view);
        assert_eq!(view["note"], "m");
        assert_eq!(view["regarding"]["kind"], "Pod");
        assert!(view.get("message").is_none());
        to_core(&mut view);
        assert_eq!(view, core);
    }
}
