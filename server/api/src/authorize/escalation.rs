//! Nobody grants what he does not have: roles and bindings are written only by those whose own rules
//! cover what is granted, or who hold the verbs `escalate` or `bind`.

use trireme_model::kinds::{self, Kind};
use trireme_model::status::Status;
use trireme_model::{Value, meta};

use super::policy::{Rule, path_matches, rules_in};
use super::{Attributes, Authorizer};
use crate::identity::Identity;

/// Checks a role or binding about to be written; other kinds pass.
pub(crate) fn check(
    authorizer: &Authorizer,
    identity: &Identity,
    kind: &Kind,
    object: &Value,
) -> Result<(), Status> {
    if identity.is_master() || kind.group != kinds::ROLE.group {
        return Ok(());
    }
    let namespace = kind.namespaced.then(|| meta::namespace(object));
    let name = meta::name(object);
    let granted: Vec<Rule> = if *kind == *kinds::ROLE || *kind == *kinds::CLUSTER_ROLE {
        if holds(
            authorizer,
            identity,
            "escalate",
            kind.plural,
            namespace,
            name,
        ) {
            return Ok(());
        }
        // What an aggregation rule will gather is not known, so that it needs everything.
        if aggregates(object)
            && !covered(&authorizer.policy().rules_of(identity, None), &everything())
        {
            let why = "must have cluster-admin privileges to use an aggregationRule";
            return Err(Status::forbidden(kind, name, why));
        }
        rules_in(object)
    } else {
        let text = |field: &str| {
            object
                .get("roleRef")
                .and_then(|role| role.get(field))
                .and_then(Value::as_str)
                .unwrap_or("")
        };
        let resource = if text("kind") == "ClusterRole" {
            "clusterroles"
        } else {
            "roles"
        };
        if holds(
            authorizer,
            identity,
            "bind",
            resource,
            namespace,
            text("name"),
        ) {
            return Ok(());
        }
        match authorizer
            .policy()
            .role_rules(namespace, text("kind"), text("name"))
        {
            Some(rules) => rules.to_vec(),
            None => {
                let role = if resource == "clusterroles" {
                    kinds::CLUSTER_ROLE
                } else {
                    kinds::ROLE
                };
                return Err(Status::not_found(role, text("name")));
            }
        }
    };
    let own = authorizer.policy().rules_of(identity, namespace);
    let missing: Vec<String> = granted
        .iter()
        .filter(|rule| !covered(&own, rule))
        .map(shown)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        identity.user,
        identity.groups,
        missing.join("\n")
    );
    Err(Status::forbidden(kind, name, &why))
}

fn aggregates(role: &Value) -> bool {
    role.pointer("/aggregationRule/clusterRoleSelectors")
        .and_then(Value::as_array)
        .is_some_and(|selectors| !selectors.is_empty())
}

fn everything() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule {
        verbs: all(),
        api_groups: all(),
        resources: all(),
        ..Rule::default()
    }
}

fn holds(
    authorizer: &Authorizer,
    identity: &Identity,
    verb: &str,
    resource: &str,
    namespace: Option<&str>,
    name: &str,
) -> bool {
    let attributes = Attributes {
        verb,
        group: kinds::ROLE.group,
        resource,
        namespace,
        name,
        ..Attributes::default()
    };
    authorizer.decide(identity, &attributes).allowed
}

/// Every single permission in `granted` is held by one of the rules.
fn covered(own: &[Rule], granted: &Rule) -> bool {
    let any = [String::new()];
    let names: &[String] = if granted.resource_names.is_empty() {
        &any
    } else {
        &granted.resource_names
    };
    granted.verbs.iter().all(|verb| {
        let resources = granted.api_groups.iter().all(|group| {
            granted.resources.iter().all(|resource| {
                names.iter().all(|name| {
                    own.iter()
                        .any(|rule| covers(rule, verb, group, resource, name))
                })
            })
        });
        let paths = granted.non_resource_urls.iter().all(|path| {
            own.iter().any(|rule| {
                has(&rule.verbs, verb)
                    && rule
                        .non_resource_urls
                        .iter()
                        .any(|pattern| path_matches(pattern, path))
            })
        });
        resources && paths
    })
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

fn covers(rule: &Rule, verb: &str, group: &str, resource: &str, name: &str) -> bool {
    let resource_covered = rule.resources.iter().any(|own| {
        own == "*"
            || own == resource
            || own.strip_prefix("*/").is_some_and(|part| {
                resource
                    .split_once('/')
                    .is_some_and(|(_, asked)| asked == part)
            })
    });
    let name_covered =
        rule.resource_names.is_empty() || rule.resource_names.iter().any(|own| own == name);
    has(&rule.verbs, verb) && has(&rule.api_groups, group) && resource_covered && name_covered
}

fn shown(rule: &Rule) -> String {
    let mut parts = Vec::new();
    for (label, list) in [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ] {
        if !list.is_empty() {
            parts.push(format!("{label}:{list:?}"));
        }
    }
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            non_resource_urls: Vec::new(),
        }
    }

    #[test]
    fn what_one_holds_in_parts_one_may_grant_as_a_whole() {
        let own = [
            rule(&["get"], &[""], &["pods"], &[]),
            rule(&["list"], &[""], &["*"], &[]),
        ];
        assert!(covered(
            &own,
            &rule(&["get", "list"], &[""], &["pods"], &[])
        ));
        assert!(covered(
            &own,
            &rule(&["list"], &[""], &["secrets", "pods/log"], &[])
        ));
        assert!(!covered(&own, &rule(&["get"], &[""], &["secrets"], &[])));
        assert!(!covered(&own, &rule(&["*"], &[""], &["pods"], &[])));
        let named = [rule(&["get"], &[""], &["secrets"], &["a"])];
        assert!(covered(
            &named,
            &rule(&["get"], &[""], &["secrets"], &["a"])
        ));
        assert!(!covered(&named, &rule(&["get"], &[""], &["secrets"], &[])));
    }
}
