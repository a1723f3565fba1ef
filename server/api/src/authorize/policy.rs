//! RBAC: roles and bindings, parsed once and evaluated for every request.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use trireme_model::Value;

use super::{Attributes, Decision};
use crate::identity::Identity;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RoleObject {
    // `null` is what Go clients send for an empty list.
    rules: Option<Vec<Rule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BindingObject {
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}

/// Every role and binding; the outer key of namespaced ones is the namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    cluster_roles: BTreeMap<String, Arc<[Rule]>>,
    roles: BTreeMap<(String, String), Arc<[Rule]>>,
    cluster_bindings: BTreeMap<String, Arc<BindingObject>>,
    bindings: BTreeMap<String, BTreeMap<String, Arc<BindingObject>>>,
}

/// One of the four collections, and the name within it.
enum Place<'a> {
    ClusterRole(&'a str),
    Role(&'a str, &'a str),
    ClusterBinding(&'a str),
    Binding(&'a str, &'a str),
}

fn place(key: &[u8]) -> Option<Place<'_>> {
    let rest = std::str::from_utf8(key)
        .ok()?
        .strip_prefix(super::RBAC_PREFIX)?;
    let (collection, rest) = rest.split_once('/')?;
    Some(match collection {
        "clusterroles" => Place::ClusterRole(rest),
        "clusterrolebindings" => Place::ClusterBinding(rest),
        "roles" => rest
            .split_once('/')
            .map(|(namespace, name)| Place::Role(namespace, name))?,
        "rolebindings" => rest
            .split_once('/')
            .map(|(namespace, name)| Place::Binding(namespace, name))?,
        _ => return None,
    })
}

impl Policy {
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        // An object that does not parse grants nothing; it passed validation, so that is our own bug.
        let rules = || {
            serde_json::from_slice::<RoleObject>(value)
                .unwrap_or_default()
                .rules
                .unwrap_or_default()
        };
        let binding =
            || Arc::new(serde_json::from_slice::<BindingObject>(value).unwrap_or_default());
        match place(key) {
            Some(Place::ClusterRole(name)) => {
                self.cluster_roles.insert(name.to_owned(), rules().into());
            }
            Some(Place::Role(namespace, name)) => {
                self.roles
                    .insert((namespace.to_owned(), name.to_owned()), rules().into());
            }
            Some(Place::ClusterBinding(name)) => {
                self.cluster_bindings.insert(name.to_owned(), binding());
            }
            Some(Place::Binding(namespace, name)) => {
                self.bindings
                    .entry(namespace.to_owned())
                    .or_default()
                    .insert(name.to_owned(), binding());
            }
            None => {}
        }
    }

    pub fn remove(&mut self, key: &[u8]) {
        match place(key) {
            Some(Place::ClusterRole(name)) => {
                self.cluster_roles.remove(name);
            }
            Some(Place::Role(namespace, name)) => {
                self.roles.remove(&(namespace.to_owned(), name.to_owned()));
            }
            Some(Place::ClusterBinding(name)) => {
                self.cluster_bindings.remove(name);
            }
            Some(Place::Binding(namespace, name)) => {
                if let Some(bindings) = self.bindings.get_mut(namespace) {
                    bindings.remove(name);
                    if bindings.is_empty() {
                        self.bindings.remove(namespace);
                    }
                }
            }
            None => {}
        }
    }

    /// The rules of a role as a binding in `namespace` refers to it.
    pub fn role_rules(
        &self,
        namespace: Option<&str>,
        role_kind: &str,
        name: &str,
    ) -> Option<Arc<[Rule]>> {
        match (role_kind, namespace) {
            ("ClusterRole", _) => self.cluster_roles.get(name).cloned(),
            ("Role", Some(namespace)) => self
                .roles
                .get(&(namespace.to_owned(), name.to_owned()))
                .cloned(),
            _ => None,
        }
    }

    /// Calls `visit` with every rule that applies to the identity, and why, until it answers true.
    fn visit(
        &self,
        identity: &Identity,
        namespace: Option<&str>,
        visit: &mut dyn FnMut(&Rule, &dyn Fn() -> String) -> bool,
    ) -> bool {
        for (binding_name, binding) in &self.cluster_bindings {
            let Some(subject) = subject_of(binding, identity, "") else {
                continue;
            };
            let role = &binding.role_ref.name;
            for rule in self
                .cluster_roles
                .get(role)
                .iter()
                .flat_map(|rules| rules.iter())
            {
                let reason = || {
                    format!(
                        "RBAC: allowed by ClusterRoleBinding {binding_name:?} of ClusterRole {role:?} to {subject}"
                    )
                };
                if visit(rule, &reason) {
                    return true;
                }
            }
        }
        let Some(namespace) = namespace else {
            return false;
        };
        for (binding_name, binding) in self.bindings.get(namespace).into_iter().flatten() {
            let Some(subject) = subject_of(binding, identity, namespace) else {
                continue;
            };
            let RoleRef { kind, name } = &binding.role_ref;
            for rule in self
                .role_rules(Some(namespace), kind, name)
                .iter()
                .flat_map(|rules| rules.iter())
            {
                let reason = || {
                    let binding = format!("{binding_name}/{namespace}");
                    format!(
                        "RBAC: allowed by RoleBinding {binding:?} of {kind} {name:?} to {subject}"
                    )
                };
                if visit(rule, &reason) {
                    return true;
                }
            }
        }
        false
    }

    pub fn decide(&self, identity: &Identity, attributes: &Attributes<'_>) -> Decision {
        let mut decision = Decision::no_opinion();
        self.visit(identity, attributes.namespace, &mut |rule, reason| {
            if rule.allows(attributes) {
                decision = Decision::allow(reason());
            }
            decision.allowed
        });
        decision
    }

    /// Every rule that applies to the identity, at the cluster scope and in `namespace`.
    pub fn rules_of(&self, identity: &Identity, namespace: Option<&str>) -> Vec<Rule> {
        let mut rules = Vec::new();
        self.visit(identity, namespace, &mut |rule, _| {
            rules.push(rule.clone());
            false
        });
        rules
    }
}

/// The subject of the binding that is this identity, as reviews name it.
fn subject_of(binding: &BindingObject, identity: &Identity, namespace: &str) -> Option<String> {
    binding.subjects.iter().flatten().find_map(|subject| {
        let matches = match subject.kind.as_str() {
            "User" => subject.name == identity.user,
            "Group" => identity.in_group(&subject.name),
            "ServiceAccount" => {
                let home = if subject.namespace.is_empty() {
                    namespace
                } else {
                    &subject.namespace
                };
                identity.service_account() == Some((home, &subject.name))
            }
            _ => false,
        };
        matches.then(|| match subject.kind.as_str() {
            "ServiceAccount" => format!(
                "ServiceAccount {:?}",
                format!("{}/{}", subject.name, subject.namespace)
            ),
            kind => format!("{kind} {:?}", subject.name),
        })
    })
}

fn listed(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !listed(&self.verbs, attributes.verb) {
            return false;
        }
        match attributes.path {
            Some(path) => self
                .non_resource_urls
                .iter()
                .any(|pattern| path_matches(pattern, path)),
            None => {
                listed(&self.api_groups, attributes.group)
                    && self.covers_resource(attributes.resource, attributes.subresource)
                    && (self.resource_names.is_empty()
                        || self
                            .resource_names
                            .iter()
                            .any(|name| name == attributes.name))
            }
        }
    }

    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources
            .iter()
            .any(|pattern| match pattern.split_once('/') {
                _ if pattern == "*" => true,
                None => subresource.is_empty() && pattern == resource,
                Some((own, part)) => {
                    !subresource.is_empty()
                        && part == subresource
                        && (own == "*" || own == resource)
                }
            })
    }
}

pub(crate) fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

/// The rules of a Role or ClusterRole object.
pub(crate) fn rules_in(object: &Value) -> Vec<Rule> {
    RoleObject::deserialize(object)
        .unwrap_or_default()
        .rules
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy() -> Policy {
        let mut policy = Policy::default();
        let mut put = |key: &str, value: Value| {
            policy.insert(
                format!("{}{key}", crate::authorize::RBAC_PREFIX).as_bytes(),
                value.to_string().as_bytes(),
            );
        };
        put(
            "clusterroles/view",
            json!({"rules": [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["get"], "nonResourceURLs": ["/healthz/*", "/version"]}]}),
        );
        put(
            "clusterrolebindings/all-view",
            json!({"roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "Group", "name": "viewers"}]}),
        );
        put(
            "roles/a/one",
            json!({"rules": [
            {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"], "resourceNames": ["web"]},
            {"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]}]}),
        );
        put(
            "rolebindings/a/one",
            json!({"roleRef": {"kind": "Role", "name": "one"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot"}, {"kind": "User", "name": "eve"}]}),
        );
        policy
    }

    fn allowed(
        identity: &Identity,
        verb: &str,
        group: &str,
        resource: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        policy().decide(identity, &attributes).allowed
    }

    #[test]
    fn rules_bind_subjects_to_verbs_on_resources() {
        let viewer = Identity::new("v", ["viewers"]);
        assert!(allowed(&viewer, "list", "", "pods", None, ""));
        assert!(allowed(&viewer, "get", "", "pods/log", Some("z"), "x"));
        assert!(!allowed(&viewer, "get", "", "pods/exec", Some("z"), "x"));
        assert!(!allowed(&viewer, "delete", "", "pods", Some("z"), "x"));
        assert!(!allowed(&viewer, "list", "apps", "pods", None, ""));
        let robot = Identity::of_service_account("a", "robot", "");
        assert!(allowed(
            &robot,
            "delete",
            "apps",
            "deployments",
            Some("a"),
            "web"
        ));
        assert!(!allowed(
            &robot,
            "delete",
            "apps",
            "deployments",
            Some("a"),
            "other"
        ));
        assert!(!allowed(
            &robot,
            "delete",
            "apps",
            "deployments",
            Some("b"),
            "web"
        ));
        assert!(!allowed(&robot, "list", "apps", "deployments", None, ""));
        assert!(allowed(
            &robot,
            "update",
            "apps",
            "deployments/scale",
            Some("a"),
            "x"
        ));
        assert!(!allowed(
            &Identity::of_service_account("b", "robot", ""),
            "get",
            "apps",
            "deployments",
            Some("a"),
            "web"
        ));
        assert!(allowed(
            &Identity::new("eve", [""; 0]),
            "get",
            "apps",
            "deployments",
            Some("a"),
            "web"
        ));
    }

    #[test]
    fn paths_match_by_prefix_only_with_a_star() {
        let viewer = Identity::new("v", ["viewers"]);
        let at = |path| {
            policy().decide(
                &viewer,
                &Attributes {
                    verb: "get",
                    path: Some(path),
                    ..Attributes::default()
                },
            )
        };
        assert!(at("/healthz/ping").allowed);
        assert!(at("/version").allowed);
        assert!(!at("/version/x").allowed);
        assert!(
            at("/version")
                .reason
                .contains("ClusterRoleBinding \"all-view\"")
        );
    }

    #[test]
    fn removed_bindings_grant_nothing() {
        let mut policy = policy();
        policy.remove(b"/registry/rbac.authorization.k8s.io/clusterrolebindings/all-view");
        let attributes = Attributes {
            verb: "get",
            resource: "pods",
            ..Attributes::default()
        };
        assert!(
            !policy
                .decide(&Identity::new("v", ["viewers"]), &attributes)
                .allowed
        );
    }
}
