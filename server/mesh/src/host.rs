//! Names of hosts: short names, wildcards, and which of two is the more specific.

/// The cluster's DNS domain. Istio calls it the trust domain's DNS suffix; this cluster has one.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The full name of a Kubernetes Service.
pub fn service(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

/// What a host written in an object of `namespace` means: a name without a dot is a Service beside the object.
pub fn resolve(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.is_empty() || host.contains('.') || host.contains('*') {
        host
    } else {
        service(&host, namespace)
    }
}

pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether any name can be meant by both: either may be a wildcard.
pub fn matches(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
        (Some(suffix), None) => other.ends_with(suffix),
        (None, Some(suffix)) => one.ends_with(suffix),
        (None, None) => one == other,
    }
}

/// Whether everything that `inner` means, `outer` means too.
pub fn covers(outer: &str, inner: &str) -> bool {
    match (outer.strip_prefix('*'), inner.strip_prefix('*')) {
        (Some(outer), Some(inner)) => inner.ends_with(outer),
        (Some(suffix), None) => inner.ends_with(suffix),
        (None, Some(_)) => false,
        (None, None) => outer == inner,
    }
}

/// Orders the more specific first: exact before wildcard, longer before shorter, then by name.
pub fn by_specificity(one: &str, other: &str) -> std::cmp::Ordering {
    is_wildcard(one)
        .cmp(&is_wildcard(other))
        .then(other.len().cmp(&one.len()))
        .then(one.cmp(other))
}

/// The names besides its own by which clients of a namespace reach a Service: as far as the two names end alike,
/// what is left after cutting labels off (`web`, `web.shop`, `web.shop.svc`; from another namespace not `web`).
pub fn aliases(host: &str, client_namespace: &str) -> Vec<String> {
    let suffix = format!(".svc.{CLUSTER_DOMAIN}");
    let Some(short) = host.strip_suffix(&suffix) else {
        return Vec::new();
    };
    let Some((name, namespace)) = short.rsplit_once('.') else {
        return Vec::new();
    };
    if is_wildcard(host) {
        return Vec::new();
    }
    let mut names = Vec::with_capacity(3);
    if namespace == client_namespace {
        names.push(name.to_owned());
    }
    names.push(format!("{name}.{namespace}"));
    names.push(format!("{name}.{namespace}.svc"));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_meet_and_cover() {
        assert!(matches("*.example.com", "a.example.com"));
        assert!(matches("a.example.com", "*.example.com"));
        assert!(matches("*.com", "*.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(matches("*", "anything"));
        assert!(covers("*.com", "*.example.com"));
        assert!(!covers("*.example.com", "*.com"));
        assert!(!covers("a.com", "*"));
    }

    #[test]
    fn a_short_name_is_a_service_beside_the_object() {
        assert_eq!(resolve("reviews", "shop"), "reviews.shop.svc.cluster.local");
        assert_eq!(resolve("reviews.shop", "x"), "reviews.shop");
        assert_eq!(resolve("*", "shop"), "*");
    }

    #[test]
    fn aliases_depend_on_where_the_client_is() {
        let host = "web.shop.svc.cluster.local";
        assert_eq!(aliases(host, "shop"), ["web", "web.shop", "web.shop.svc"]);
        assert_eq!(aliases(host, "other"), ["web.shop", "web.shop.svc"]);
        assert!(aliases("api.example.com", "shop").is_empty());
    }
}
