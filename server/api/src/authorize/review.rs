//! Questions about permissions, and about who asks: answered, never stored.

use serde_json::{Value, json};
use trireme_model::kinds::{self, Kind};
use trireme_model::status::{FieldError, Status};
use trireme_model::{meta, schema};

use super::Attributes;
use crate::identity::Identity;
use crate::route::Target;
use crate::verb::Caller;
use crate::verb::create::check_type;

pub(crate) async fn answer(
    caller: &Caller<'_>,
    kind: &'static Kind,
    mut review: Value,
) -> Result<Value, Status> {
    caller
        .authorize("create", &Target::object(kind, "", ""), None)
        .await?;
    check_type(kind, &review)?;
    schema::check(kind, &mut review, schema::FieldValidation::Ignore)?;
    let spec = review.get("spec").cloned().unwrap_or_default();
    let mut answer = json!({
        "kind": kind.kind,
        "apiVersion": kind.api_version(),
        "metadata": { "creationTimestamp": null },
    });
    if *kind == *kinds::SELF_SUBJECT_REVIEW {
        answer["metadata"]["creationTimestamp"] = meta::timestamp(caller.api.now()).into();
        answer["status"] = json!({ "userInfo": user_info(caller.identity) });
    } else if *kind == *kinds::SELF_SUBJECT_ACCESS_REVIEW {
        answer["status"] = decide(caller, kind, caller.identity, &spec)?;
        answer["spec"] = spec;
    } else if *kind == *kinds::SUBJECT_ACCESS_REVIEW {
        let identity = subject(kind, &spec)?;
        answer["status"] = decide(caller, kind, &identity, &spec)?;
        answer["spec"] = spec;
    } else if *kind == *kinds::SELF_SUBJECT_RULES_REVIEW {
        let namespace = spec
            .get("namespace")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        answer["status"] = rules(caller, &namespace);
        answer["spec"] = spec;
    } else {
        return Err(Status::method_not_allowed_here());
    }
    Ok(answer)
}

fn user_info(identity: &Identity) -> Value {
    let mut info = json!({ "username": identity.user, "groups": identity.groups });
    if !identity.uid.is_empty() {
        info["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

fn subject(kind: &Kind, spec: &Value) -> Result<Identity, Status> {
    let user = spec.get("user").and_then(Value::as_str).unwrap_or("");
    let groups: Vec<String> = spec
        .get("groups")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|group| group.as_str().map(str::to_owned))
        .collect();
    if user.is_empty() && groups.is_empty() {
        let error = FieldError::invalid(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        );
        return Err(Status::invalid(kind, "", vec![error]));
    }
    // Exactly what was asked about: no group is added.
    Ok(Identity {
        user: user.to_owned(),
        groups,
        ..Identity::anonymous()
    })
}

fn decide(
    caller: &Caller<'_>,
    kind: &Kind,
    identity: &Identity,
    spec: &Value,
) -> Result<Value, Status> {
    let resource = spec
        .get("resourceAttributes")
        .filter(|attributes| attributes.is_object());
    let path = spec
        .get("nonResourceAttributes")
        .filter(|attributes| attributes.is_object());
    let text = |attributes: &'_ Value, field: &str| -> String {
        attributes
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let decision = match (resource, path) {
        (Some(asked), None) => {
            let (verb, group, resource) = (
                text(asked, "verb"),
                text(asked, "group"),
                text(asked, "resource"),
            );
            let (subresource, namespace, name) = (
                text(asked, "subresource"),
                text(asked, "namespace"),
                text(asked, "name"),
            );
            let attributes = Attributes {
                verb: &verb,
                group: &group,
                resource: &resource,
                subresource: &subresource,
                namespace: (!namespace.is_empty()).then_some(namespace.as_str()),
                name: &name,
                path: None,
                field_selector: None,
            };
            caller.api.authorizer.decide(identity, &attributes)
        }
        (None, Some(asked)) => {
            let (verb, path) = (text(asked, "verb"), text(asked, "path"));
            let attributes = Attributes {
                verb: &verb,
                path: Some(&path),
                ..Attributes::default()
            };
            caller.api.authorizer.decide(identity, &attributes)
        }
        _ => {
            let error = FieldError::invalid(
                "spec.resourceAttributes",
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
            return Err(Status::invalid(kind, "", vec![error]));
        }
    };
    let mut status = json!({ "allowed": decision.allowed });
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    Ok(status)
}

fn rules(caller: &Caller<'_>, namespace: &str) -> Value {
    let mut resource_rules = Vec::new();
    let mut path_rules = Vec::new();
    if caller.identity.is_master() {
        resource_rules.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
        path_rules.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
    }
    for rule in caller
        .api
        .authorizer
        .policy()
        .rules_of(caller.identity, Some(namespace))
    {
        if !rule.resources.is_empty() {
            let mut shown = json!({
                "verbs": rule.verbs,
                "apiGroups": rule.api_groups,
                "resources": rule.resources,
            });
            if !rule.resource_names.is_empty() {
                shown["resourceNames"] = json!(rule.resource_names);
            }
            resource_rules.push(shown);
        }
        if !rule.non_resource_urls.is_empty() {
            path_rules
                .push(json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }));
        }
    }
    json!({ "resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false })
}
