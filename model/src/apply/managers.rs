//! Who owns which fields: `metadata.managedFields` read, changed and written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::set::FieldSet;
use crate::meta;

/// Managers that only update are remembered up to this many, as in Kubernetes; the oldest are then
/// merged into one, so that the list cannot grow with every new client name.
pub const UPDATE_MANAGERS_MAX: usize = 10;

/// The name under which the oldest update managers are merged.
pub const ANCIENT_CHANGES: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// What tells managers apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    pub name: String,
    pub operation: Operation,
    pub subresource: String,
    /// Empty for appliers: they are the same in every version.
    pub api_version: String,
}

impl Manager {
    pub fn applier(name: &str, subresource: &str) -> Manager {
        Manager {
            name: name.to_string(),
            operation: Operation::Apply,
            subresource: subresource.to_string(),
            api_version: String::new(),
        }
    }

    pub fn updater(name: &str, subresource: &str, api_version: &str) -> Manager {
        Manager {
            name: name.to_string(),
            operation: Operation::Update,
            subresource: subresource.to_string(),
            api_version: api_version.to_string(),
        }
    }

    /// As conflicts name it.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ownership {
    pub set: FieldSet,
    pub api_version: String,
    pub time: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(pub BTreeMap<Manager, Ownership>);

impl Managers {
    pub fn read(object: &Value) -> Managers {
        let entries = object["metadata"]["managedFields"].as_array();
        let mut managers = BTreeMap::new();
        for entry in entries.into_iter().flatten() {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_string();
            let operation = match entry["operation"].as_str() {
                Some("Apply") => Operation::Apply,
                Some("Update") => Operation::Update,
                _ => continue,
            };
            let manager = Manager {
                name: text("manager"),
                operation,
                subresource: text("subresource"),
                api_version: match operation {
                    Operation::Apply => String::new(),
                    Operation::Update => text("apiVersion"),
                },
            };
            let ownership = Ownership {
                set: FieldSet::from_json(&entry["fieldsV1"]),
                api_version: text("apiVersion"),
                time: text("time"),
            };
            managers.insert(manager, ownership);
        }
        Managers(managers)
    }

    /// Whether both say the same of every field, whatever the times.
    pub fn same_fields(&self, other: &Managers) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().all(|(manager, mine)| {
                other.0.get(manager).is_some_and(|theirs| {
                    theirs.set == mine.set && theirs.api_version == mine.api_version
                })
            })
    }

    /// What any manager owns.
    pub fn union(&self) -> FieldSet {
        let mut all = FieldSet::default();
        for ownership in self.0.values() {
            all.union(&ownership.set);
        }
        all
    }

    /// Takes paths away from everyone but `keeper`, and forgets who then owns nothing.
    pub fn take_from_others(&mut self, keeper: &Manager, set: &FieldSet) {
        for (manager, ownership) in &mut self.0 {
            if manager != keeper {
                ownership.set.difference(set);
            }
        }
        self.0.retain(|_, ownership| !ownership.set.is_empty());
    }

    /// Merges the oldest updaters until their number is within the limit.
    fn cap(&mut self) {
        loop {
            let mut updaters: Vec<(String, Manager)> = self
                .0
                .iter()
                .filter(|(manager, _)| manager.operation == Operation::Update)
                .map(|(manager, ownership)| (ownership.time.clone(), manager.clone()))
                .collect();
            if updaters.len() <= UPDATE_MANAGERS_MAX {
                return;
            }
            updaters.sort();
            let oldest = updaters
                .into_iter()
                .map(|(_, manager)| manager)
                .find(|manager| manager.name != ANCIENT_CHANGES);
            let Some(oldest) = oldest else { return };
            let Some(ownership) = self.0.remove(&oldest) else {
                return;
            };
            let ancient = Manager::updater(ANCIENT_CHANGES, "", &oldest.api_version);
            match self.0.get_mut(&ancient) {
                Some(existing) => {
                    existing.set.union(&ownership.set);
                    existing.time = existing.time.clone().max(ownership.time);
                }
                None => {
                    self.0.insert(ancient, ownership);
                }
            }
        }
    }

    /// Writes `metadata.managedFields`: appliers first, then by time, as Kubernetes orders them.
    pub fn write(mut self, object: &mut Value) {
        self.cap();
        let mut entries: Vec<(Manager, Ownership)> = self.0.into_iter().collect();
        entries.sort_by(|(a, a_owned), (b, b_owned)| {
            (a.operation, &a_owned.time, a).cmp(&(b.operation, &b_owned.time, b))
        });
        let entries = entries
            .into_iter()
            .map(|(manager, ownership)| {
                let mut entry = json!({
                    "manager": manager.name,
                    "operation": match manager.operation {
                        Operation::Apply => "Apply",
                        Operation::Update => "Update",
                    },
                    "apiVersion": ownership.api_version,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": ownership.set.to_json(),
                });
                if !ownership.time.is_empty() {
                    entry["time"] = ownership.time.into();
                }
                if !manager.subresource.is_empty() {
                    entry["subresource"] = manager.subresource.into();
                }
                entry
            })
            .collect();
        meta::set_managed_fields(object, entries);
    }
}
