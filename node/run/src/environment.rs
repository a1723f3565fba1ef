//! A container's environment variables.

use crate::downward::{self, Facts};
use crate::references::{self, Reference, ReferenceKind, References};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use std::collections::BTreeMap;

/// Replaces `$(NAME)` by the variable's value; `$$` stands for one `$`, and what is not known
/// stays as it is written.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after_name)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after_name;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// What environments are made from, beside the pod.
pub(crate) struct Sources<'a> {
    pub references: &'a References,
    pub facts: &'a Facts,
    /// Variables of the namespace's services.
    pub services: BTreeMap<String, String>,
}

/// The container's variables in the order in which they are set; later ones win.
pub(crate) async fn variables(
    pod: &Pod,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Vec<(String, String)>, String> {
    let mut known = sources.services.clone();
    let mut order: Vec<String> = known.keys().cloned().collect();
    let mut set = |known: &mut BTreeMap<String, String>, name: String, value: String| {
        if known.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let wanted = match (&source.config_map_ref, &source.secret_ref) {
            (Some(one), _) => (ReferenceKind::ConfigMap, &one.name, one.optional),
            (None, Some(one)) => (ReferenceKind::Secret, &one.name, one.optional),
            (None, None) => continue,
        };
        let (kind, name, optional) = wanted;
        let content = fetch(pod, kind, name, optional, sources).await?;
        for (key, value) in content.into_iter().flatten() {
            let value = String::from_utf8_lossy(&value).into_owned();
            set(&mut known, format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, &known)),
            (_, Some(source)) => from_source(pod, container, source, sources).await?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            set(&mut known, variable.name.clone(), value);
        }
    }
    Ok(order
        .into_iter()
        .filter_map(|name| known.get(&name).map(|value| (name.clone(), value.clone())))
        .collect())
}

/// An object's content; none if it does not exist and need not.
async fn fetch(
    pod: &Pod,
    kind: ReferenceKind,
    name: &str,
    optional: Option<bool>,
    sources: &Sources<'_>,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
    let reference = Reference {
        kind,
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: name.to_owned(),
    };
    match sources.references.get(&reference).await? {
        Some(object) => Ok(Some(references::content(kind, &object))),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("{} {name:?} not found", kind.title())),
    }
}

async fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources<'_>,
) -> Result<Option<String>, String> {
    if let Some(selector) = &source.field_ref {
        return downward::field(pod, sources.facts, selector).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        let all: Vec<Container> = trireme_node_decide::containers(pod)
            .into_iter()
            .map(|found| found.container)
            .collect();
        return downward::resource(&all, Some(&container.name), sources.facts, selector).map(Some);
    }
    let (kind, title, name, key, optional) =
        match (&source.config_map_key_ref, &source.secret_key_ref) {
            (Some(one), _) => (
                ReferenceKind::ConfigMap,
                "ConfigMap",
                &one.name,
                &one.key,
                one.optional,
            ),
            (None, Some(one)) => (
                ReferenceKind::Secret,
                "Secret",
                &one.name,
                &one.key,
                one.optional,
            ),
            (None, None) => return Err("unsupported source of an environment variable".to_owned()),
        };
    let Some(content) = fetch(pod, kind, name, optional, sources).await? else {
        return Ok(None);
    };
    match content.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional == Some(true) => Ok(None),
        None => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            Err(format!(
                "couldn't find key {key} in {title} {namespace}/{name}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn variables_expand_as_kubernetes_says() {
        let known = [("A", "1"), ("B", "two")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        for (text, expected) in [
            ("$(A)-$(B)", "1-two"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(NOSUCH)", "$(NOSUCH)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("plain", "plain"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }
}
