//! The files of `/etc` that the node writes for a pod: hosts, hostname, resolv.conf.

use crate::agent::Agent;
use crate::store::{PodDirectory, write_whole};
use k8s_openapi::api::core::v1::{HostAlias, Pod, PodDNSConfig};
use std::io;
use trireme_network::dns::{DnsConfig, DnsPolicy, ResolvConf};

/// Linux allows 64 bytes; DNS labels 63.
const HOSTNAME_MAX_BYTES: usize = 63;

/// The pod's host name and its DNS name, which is empty without a subdomain.
pub(crate) fn names(pod: &Pod, node: &str, domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.host_network) == Some(true) {
        return (node.to_owned(), String::new());
    }
    let own = spec.and_then(|s| s.hostname_override.clone().or_else(|| s.hostname.clone()));
    let mut name = own
        .filter(|name| !name.is_empty())
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    if name.len() > HOSTNAME_MAX_BYTES {
        name.truncate(HOSTNAME_MAX_BYTES);
        name = name.trim_end_matches(['-', '.']).to_owned();
    }
    let subdomain = spec
        .and_then(|s| s.subdomain.as_deref())
        .unwrap_or_default();
    if subdomain.is_empty() {
        return (name, String::new());
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = format!("{name}.{subdomain}.{namespace}.svc.{domain}");
    if spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true) && full.len() <= HOSTNAME_MAX_BYTES {
        return (full.clone(), full);
    }
    (name, full)
}

/// The text of a pod's /etc/hosts.
pub(crate) fn hosts(
    ip: &str,
    name: &str,
    full: &str,
    aliases: &[HostAlias],
    host_file: Option<&str>,
) -> String {
    let mut text = match host_file {
        Some(host) => format!("# Kubernetes-managed hosts file (host network).\n{host}"),
        None => {
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n\
                 127.0.0.1\tlocalhost\n\
                 ::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\n\
                 fe00::0\tip6-mcastprefix\n\
                 fe00::1\tip6-allnodes\n\
                 fe00::2\tip6-allrouters\n",
            );
            if full.is_empty() || full == name {
                text.push_str(&format!("{ip}\t{name}\n"));
            } else {
                text.push_str(&format!("{ip}\t{full}\t{name}\n"));
            }
            text
        }
    };
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.clone().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

fn dns_config(config: &PodDNSConfig) -> DnsConfig {
    DnsConfig {
        nameservers: config.nameservers.clone().unwrap_or_default(),
        searches: config.searches.clone().unwrap_or_default(),
        options: config
            .options
            .iter()
            .flatten()
            .map(|option| {
                (
                    option.name.clone().unwrap_or_default(),
                    option.value.clone(),
                )
            })
            .collect(),
    }
}

/// Writes the three files.
pub(crate) fn write(
    agent: &Agent,
    pod: &Pod,
    ip: &str,
    directory: &PodDirectory,
) -> io::Result<()> {
    let spec = pod.spec.clone().unwrap_or_default();
    let (name, full) = names(pod, &agent.config.name, &agent.config.cluster_domain);
    let host_network = spec.host_network == Some(true);
    let host_file = host_network.then(|| std::fs::read_to_string("/etc/hosts").unwrap_or_default());
    let aliases = spec.host_aliases.unwrap_or_default();
    let text = hosts(ip, &name, &full, &aliases, host_file.as_deref());
    let etc = directory.etc();
    write_whole(&etc.join("hosts"), text.as_bytes())?;
    write_whole(&etc.join("hostname"), format!("{name}\n").as_bytes())?;
    let resolv = ResolvConf {
        cluster_domain: agent.config.cluster_domain.clone(),
        server: agent.config.cluster_dns,
        node: std::fs::read_to_string(&agent.config.resolv_conf).unwrap_or_default(),
    };
    let policy =
        DnsPolicy::parse(spec.dns_policy.as_deref().unwrap_or_default()).unwrap_or_default();
    let config = spec.dns_config.as_ref().map(dns_config);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let text = resolv.text(namespace, policy, host_network, config.as_ref());
    write_whole(&etc.join("resolv.conf"), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_follow_the_spec() {
        let of = |spec: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "web-0", "namespace": "n"}, "spec": spec
            }))
            .unwrap();
            names(&pod, "node-1", "cluster.local")
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of(json!({"containers": []})), pair("web-0", ""));
        assert_eq!(
            of(json!({"containers": [], "hostname": "h", "subdomain": "s"})),
            pair("h", "h.s.n.svc.cluster.local")
        );
        assert_eq!(
            of(json!({"containers": [], "hostNetwork": true})),
            pair("node-1", "")
        );
    }

    #[test]
    fn hosts_files_name_the_pod() {
        let text = hosts("10.42.0.5", "h", "h.s.n.svc.cluster.local", &[], None);
        assert!(text.ends_with("10.42.0.5\th.s.n.svc.cluster.local\th\n"));
        let alias = HostAlias {
            ip: "1.2.3.4".to_owned(),
            hostnames: Some(vec!["a".to_owned(), "b".to_owned()]),
        };
        let text = hosts("10.42.0.5", "h", "", &[alias], None);
        assert!(text.ends_with("10.42.0.5\th\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }
}
