//! The one table of kinds: names, scope, verbs and subresources of everything the API serves.

mod rows;

pub use rows::*;

/// A way into part of an object, such as `pods/status`.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of what is sent and answered there.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// A row of the table. Two rows are equal when group, version and kind are.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// Where objects are kept, without a trailing slash; two kinds with the same storage are two views of it.
    /// Empty for kinds that are answered and never stored.
    pub storage: &'static str,
    /// Go package path of the type in Kubernetes' OpenAPI, such as `io.k8s.api.core.v1`.
    pub package: &'static str,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.identity() == other.identity()
    }
}
impl Eq for Kind {}
impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Kind) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Kind {
    fn cmp(&self, other: &Kind) -> std::cmp::Ordering {
        self.identity().cmp(&other.identity())
    }
}
impl std::hash::Hash for Kind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl Kind {
    fn identity(&self) -> (&'static str, &'static str, &'static str) {
        (self.group, self.version, self.kind)
    }

    /// `v1` for core, `group/version` otherwise.
    pub fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// Storage key of one object. Cluster-scoped kinds ignore `namespace`.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}/{namespace}/{name}", self.storage)
        } else {
            format!("{}/{name}", self.storage)
        }
    }

    /// Prefix of the storage keys of all objects, or of those of one namespace; ends with a slash.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced => format!("{}/{namespace}/", self.storage),
            _ => format!("{}/", self.storage),
        }
    }

    /// Namespace and name in a storage key of this kind; the namespace is empty for cluster-scoped kinds.
    pub fn parse_key<'a>(&self, key: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = key.strip_prefix(self.storage)?.strip_prefix('/')?;
        let (namespace, name) = if self.namespaced {
            rest.split_once('/')?
        } else {
            ("", rest)
        };
        (!name.is_empty() && !name.contains('/')).then_some((namespace, name))
    }

    /// `deployments.apps`, or `pods` for core: how status messages and RBAC name the resource.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Deployment.apps`, or `Pod` for core: how `is invalid` messages name the kind.
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.to_owned()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The kind in whose form objects of this one are stored: itself, but for the further views of a storage.
    pub fn stored(&'static self) -> &'static Kind {
        if self.is_virtual() {
            return self;
        }
        all()
            .iter()
            .find(|kind| kind.storage == self.storage)
            .unwrap_or(self)
    }

    /// Whether this is one of Istio's kinds, which have rules and a schema of their own and no protobuf form.
    pub fn is_istio(&self) -> bool {
        self.group == crate::istio::GROUP
    }

    /// Answered but never stored (access reviews).
    pub fn is_virtual(&self) -> bool {
        self.storage.is_empty()
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources
            .iter()
            .find(|subresource| subresource.name == name)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Name of the type in OpenAPI, such as `io.k8s.api.apps.v1.Deployment`.
    pub fn definition(&self) -> String {
        format!("{}.{}", self.package, self.kind)
    }
}

/// `v1` for core, `group/version` otherwise.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

pub fn all() -> &'static [Kind] {
    &rows::TABLE
}

/// Group and version of every group served, core first, in discovery's order: the versions of a group are neighbours,
/// the preferred one first.
pub fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups = Vec::new();
    for kind in all() {
        if !groups.contains(&(kind.group, kind.version)) {
            groups.push((kind.group, kind.version));
        }
    }
    groups
}

/// The kind behind a resource path; an empty `version` asks for the preferred one.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|kind| {
        kind.plural == plural
            && kind.group == group
            && (version.is_empty() || kind.version == version)
    })
}

/// The kind that an object's `apiVersion` and `kind` name.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    all()
        .iter()
        .find(|row| row.kind == kind && row.group == group && row.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_group_namespace_and_name() {
        assert_eq!(POD.key("default", "a"), "/registry/pods/default/a");
        assert_eq!(
            DEPLOYMENT.key("default", "a"),
            "/registry/apps/deployments/default/a"
        );
        assert_eq!(NODE.key("", "a"), "/registry/nodes/a");
        assert_eq!(NODE.prefix(Some("x")), "/registry/nodes/");
        assert_eq!(POD.prefix(Some("x")), "/registry/pods/x/");
        assert_eq!(
            POD.parse_key("/registry/pods/default/a"),
            Some(("default", "a"))
        );
        assert_eq!(POD.parse_key("/registry/podsx/default/a"), None);
        assert_eq!(NODE.parse_key("/registry/nodes/a"), Some(("", "a")));
    }

    #[test]
    fn each_storage_is_its_own_but_for_views_of_one_kind() {
        for one in all() {
            for other in all() {
                if one != other && one.storage == other.storage && !one.is_virtual() {
                    assert_eq!(one.kind, other.kind);
                    assert!(one.kind == "Event" || one.is_istio());
                    assert_eq!(one.stored(), other.stored());
                }
            }
            let own = if one.group.is_empty() || one.kind == "Event" {
                format!("/registry/{}", one.plural)
            } else {
                format!("/registry/{}/{}", one.group, one.plural)
            };
            assert!(one.is_virtual() || one.storage == own, "{}", one.storage);
        }
    }

    #[test]
    fn lookups_find_what_the_table_holds() {
        for kind in all() {
            assert_eq!(find(kind.group, kind.version, kind.plural), Some(kind));
            let preferred = find(kind.group, "", kind.plural).unwrap();
            assert_eq!(preferred.kind, kind.kind);
            assert_eq!(find_kind(&kind.api_version(), kind.kind), Some(kind));
        }
        assert_eq!(find("apps", "v1beta1", "deployments"), None);
        assert_eq!(find_kind("v1", "Deployment"), None);
        assert_eq!(DEPLOYMENT.group_resource(), "deployments.apps");
        let preferred = find("networking.istio.io", "", "virtualservices");
        assert_eq!(preferred, Some(VIRTUAL_SERVICE));
        assert_eq!(VIRTUAL_SERVICE_V1ALPHA3.stored(), VIRTUAL_SERVICE);
        assert_eq!(ENVOY_FILTER.stored(), ENVOY_FILTER);
        assert_eq!(EVENTS_EVENT.stored(), EVENT);
    }
}
