//! What is wrong with objects that were admitted: they refer to nothing, contradict each other, can have no effect, or
//! have less than they ask for. Codes are those of Istio's analysis messages, the words our own.

mod gateways;
mod routing;
mod rules;
mod status;

use std::collections::BTreeMap;
use std::fmt;

use trireme_decide::ObjectKey;

use crate::host;
use crate::mesh::Mesh;
use crate::service::Service;

pub use status::{CONTROLLER, Due, due, plan};

/// What a finding is about; each is a type of condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// Something that it names is not there.
    Unresolved,
    /// Another object claims the same.
    Conflict,
    /// It, or a part of it, comes after something that takes everything.
    Shadowed,
    /// It has less effect than it asks for.
    Limited,
}

impl Concern {
    pub const ALL: [Concern; 4] = [
        Concern::Unresolved,
        Concern::Conflict,
        Concern::Shadowed,
        Concern::Limited,
    ];

    /// Type of the condition, and its status while there is a finding.
    pub fn condition(self) -> (&'static str, &'static str) {
        match self {
            Concern::Unresolved => ("ResolvedRefs", "False"),
            Concern::Conflict => ("Conflicted", "True"),
            Concern::Shadowed => ("Shadowed", "True"),
            Concern::Limited => ("Limited", "True"),
        }
    }
}

/// One thing that is wrong with one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// `VirtualService`, ...
    pub kind: &'static str,
    pub key: ObjectKey,
    pub concern: Concern,
    /// Of Istio's analysis messages, where it has one for this.
    pub code: &'static str,
    /// In one word.
    pub reason: &'static str,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: ", self.kind, self.key)?;
        if !self.code.is_empty() {
            write!(out, "[{}] ", self.code)?;
        }
        out.write_str(&self.message)
    }
}

/// Where findings about one object are gathered.
struct Findings<'a> {
    kind: &'static str,
    key: &'a ObjectKey,
    found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    fn of(kind: &'static str, key: &'a ObjectKey) -> Findings<'a> {
        Findings {
            kind,
            key,
            found: Vec::new(),
        }
    }

    fn add(&mut self, concern: Concern, code: &'static str, reason: &'static str, message: String) {
        let finding = Finding {
            kind: self.kind,
            key: self.key.clone(),
            concern,
            code,
            reason,
            message,
        };
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// Something that the object names and that is not there.
    fn missing(&mut self, what: &str, name: &str) {
        self.add(
            Concern::Unresolved,
            "IST0101",
            "ReferencedResourceNotFound",
            format!("Referenced {what} not found: {name:?}"),
        );
    }
}

/// Every finding about every object, by kind, object and concern.
pub fn findings(mesh: &Mesh) -> Vec<Finding> {
    let mut found = routing::findings(mesh);
    found.extend(rules::findings(mesh));
    found.extend(gateways::findings(mesh));
    found.sort();
    found
}

/// The findings of each object that has some.
pub fn by_object(mesh: &Mesh) -> BTreeMap<(&'static str, ObjectKey), Vec<Finding>> {
    let mut by_object: BTreeMap<(&'static str, ObjectKey), Vec<Finding>> = BTreeMap::new();
    for finding in findings(mesh) {
        let object = by_object.entry((finding.kind, finding.key.clone()));
        object.or_default().push(finding);
    }
    by_object
}

/// The service of a host as an object of a namespace means it, a wildcard's if there is no other.
fn service<'a>(mesh: &'a Mesh, host: &str, namespace: &str) -> Option<&'a Service> {
    let registry = &mesh.view().registry;
    if let Some(exact) = registry.visible(host, namespace) {
        return Some(exact);
    }
    // Wildcards sort before every letter.
    let wildcards = registry.all().take_while(|(name, _)| name.as_str() < "+");
    let mut wildcards = wildcards.filter(|(name, _)| host::covers(name, host));
    wildcards.find_map(|(name, _)| registry.visible(name, namespace).map(|it| it.as_ref()))
}
