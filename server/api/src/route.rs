//! What a path means.

use percent_encoding::percent_decode_str;
use trireme_model::kinds::{self, Kind, Subresource};
use trireme_model::status::Status;

/// One object, or a collection, of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub kind: &'static Kind,
    /// `None` for cluster-scoped kinds and for collections across all namespaces.
    pub namespace: Option<String>,
    /// Empty for a collection.
    pub name: String,
    pub subresource: Option<&'static Subresource>,
}

impl Target {
    pub fn object(kind: &'static Kind, namespace: &str, name: &str) -> Target {
        Target {
            kind,
            namespace: kind.namespaced.then(|| namespace.to_owned()),
            name: name.to_owned(),
            subresource: None,
        }
    }

    /// Checks names that did not come by a path.
    pub fn build(
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
    ) -> Result<Target, Status> {
        let kind = kinds::find(group, version, plural).ok_or_else(Status::path_not_found)?;
        let subresource = match subresource {
            "" => None,
            part => Some(kind.subresource(part).ok_or_else(Status::path_not_found)?),
        };
        for segment in [namespace, name] {
            check_segment(segment)?;
        }
        let namespace = (kind.namespaced && !namespace.is_empty()).then(|| namespace.to_owned());
        Ok(Target {
            kind,
            namespace,
            name: name.to_owned(),
            subresource,
        })
    }

    /// Empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }

    pub fn part(&self) -> &'static str {
        self.subresource.map_or("", |part| part.name)
    }

    pub fn key(&self) -> String {
        self.kind.key(self.namespace(), &self.name)
    }
}

#[derive(Debug)]
pub(crate) enum Route {
    /// `/healthz`, `/livez`, `/readyz` and their parts.
    Health {
        ready: bool,
    },
    Version,
    Metrics,
    /// `/`: every path there is.
    Index,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1` and `/apis/GROUP/VERSION`
    Resources {
        group: String,
        version: String,
    },
    OpenApiV2,
    OpenApiV3Index,
    OpenApiV3(String),
    Resource {
        target: Target,
        watch: bool,
    },
}

/// `/` cannot be part of a name, nor can `.` and `..` be one.
fn check_segment(segment: &str) -> Result<(), Status> {
    if segment.contains('/') || segment == "." || segment == ".." {
        return Err(Status::bad_request(format!(
            "invalid name or namespace {segment:?}"
        )));
    }
    Ok(())
}

pub(crate) fn parse(path: &str) -> Result<Route, Status> {
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| {
            percent_decode_str(segment)
                .decode_utf8()
                .map(|text| text.into_owned())
        })
        .collect::<Result<_, _>>()
        .map_err(|_| Status::path_not_found())?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [] => Ok(Route::Index),
        ["healthz" | "livez", ..] => Ok(Route::Health { ready: false }),
        ["readyz", ..] => Ok(Route::Health { ready: true }),
        ["version"] => Ok(Route::Version),
        ["metrics"] => Ok(Route::Metrics),
        ["openapi", "v2"] => Ok(Route::OpenApiV2),
        ["openapi", "v3"] => Ok(Route::OpenApiV3Index),
        ["openapi", "v3", rest @ ..] => Ok(Route::OpenApiV3(rest.join("/"))),
        ["api"] => Ok(Route::CoreVersions),
        ["apis"] => Ok(Route::Groups),
        ["apis", group] => Ok(Route::Group((*group).to_owned())),
        ["api", version] => Ok(Route::Resources {
            group: String::new(),
            version: (*version).to_owned(),
        }),
        ["apis", group, version] => Ok(Route::Resources {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
        }),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Err(Status::path_not_found()),
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Result<Route, Status> {
    // The older form of a watch: a path prefix instead of a parameter.
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let (namespace, plural, name, subresource) = match rest {
        // Parts of a namespace itself come before resources of that name.
        ["namespaces", name, part @ ("status" | "finalize")] => ("", "namespaces", *name, *part),
        ["namespaces", namespace, plural] => (*namespace, *plural, "", ""),
        ["namespaces", namespace, plural, name] => (*namespace, *plural, *name, ""),
        ["namespaces", namespace, plural, name, part] => (*namespace, *plural, *name, *part),
        [plural] => ("", *plural, "", ""),
        [plural, name] => ("", *plural, *name, ""),
        [plural, name, part] => ("", *plural, *name, *part),
        _ => return Err(Status::path_not_found()),
    };
    let target = Target::build(group, version, plural, namespace, name, subresource)?;
    // A namespaced object needs its namespace, and a cluster-scoped one has none.
    let misplaced = if target.kind.namespaced {
        namespace.is_empty() && !name.is_empty()
    } else {
        !namespace.is_empty()
    };
    if misplaced {
        return Err(Status::path_not_found());
    }
    Ok(Route::Resource { target, watch })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        match parse(path) {
            Ok(Route::Resource { target, watch }) => format!(
                "{} {:?} {:?} {:?}{}",
                target.kind.group_resource(),
                target.namespace,
                target.name,
                target.part(),
                if watch { " watch" } else { "" }
            ),
            Ok(other) => format!("{other:?}"),
            Err(status) => status.code.to_string(),
        }
    }

    #[test]
    fn paths_name_targets() {
        assert_eq!(shown("/api/v1/pods"), r#"pods None "" """#);
        assert_eq!(
            shown("/api/v1/namespaces/a/pods"),
            r#"pods Some("a") "" """#
        );
        assert_eq!(
            shown("/api/v1/namespaces/a/pods/b/log"),
            r#"pods Some("a") "b" "log""#
        );
        assert_eq!(shown("/api/v1/namespaces/a"), r#"namespaces None "a" """#);
        assert_eq!(
            shown("/api/v1/namespaces/a/finalize"),
            r#"namespaces None "a" "finalize""#
        );
        assert_eq!(
            shown("/api/v1/watch/namespaces/a/pods"),
            r#"pods Some("a") "" "" watch"#
        );
        assert_eq!(
            shown("/apis/apps/v1/namespaces/a/deployments/b/scale"),
            r#"deployments.apps Some("a") "b" "scale""#
        );
        assert_eq!(
            shown("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"),
            r#"clusterroles.rbac.authorization.k8s.io None "system:node" """#
        );
    }

    #[test]
    fn what_names_nothing_is_not_found() {
        for path in [
            "/api/v1/pods/a",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/pods/b/nothing",
            "/api/v2/pods",
            "/apis/apps/v1/pods",
            "/nothing",
            "/api/v1/namespaces/a/pods/b/log/c",
        ] {
            assert_eq!(shown(path), "404", "{path}");
        }
        assert_eq!(shown("/api/v1/namespaces/a/pods/%2e%2e"), "400");
        assert_eq!(shown("/api/v1/namespaces/a/pods/x%2fy"), "400");
    }
}
