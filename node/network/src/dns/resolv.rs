//! `resolv.conf`: reading the node's, writing the pods'.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What resolvers read of the file, by glibc and the kubelet alike.
const MAX_NAMESERVERS: usize = 3;
/// Kubernetes' limits of the search list.
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;

/// `spec.dnsPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsPolicy {
    #[default]
    ClusterFirst,
    ClusterFirstWithHostNet,
    Default,
    None,
}

impl DnsPolicy {
    /// `None` for an unknown word.
    pub fn parse(text: &str) -> Option<DnsPolicy> {
        match text {
            "" | "ClusterFirst" => Some(DnsPolicy::ClusterFirst),
            "ClusterFirstWithHostNet" => Some(DnsPolicy::ClusterFirstWithHostNet),
            "Default" => Some(DnsPolicy::Default),
            "None" => Some(DnsPolicy::None),
            _ => None,
        }
    }
}

/// `spec.dnsConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// Name and value, as `("ndots", Some("2"))`.
    pub options: Vec<(String, Option<String>)>,
}

/// Writes pods' `resolv.conf`.
#[derive(Debug, Clone)]
pub struct ResolvConf {
    pub cluster_domain: String,
    /// Where the node's cluster DNS listens.
    pub server: Ipv4Addr,
    /// The node's own `resolv.conf`, as text.
    pub node: String,
}

impl ResolvConf {
    /// The file for a pod. A pod on the node's network has to ask for
    /// `ClusterFirstWithHostNet` to get cluster names, as in Kubernetes.
    pub fn text(
        &self,
        namespace: &str,
        policy: DnsPolicy,
        host_network: bool,
        dns_config: Option<&DnsConfig>,
    ) -> String {
        let node = parse(&self.node);
        let mut made = match policy {
            DnsPolicy::None => DnsConfig::default(),
            DnsPolicy::Default => node,
            DnsPolicy::ClusterFirst if host_network => node,
            DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet => {
                let domain = &self.cluster_domain;
                let mut searches = vec![
                    format!("{namespace}.svc.{domain}"),
                    format!("svc.{domain}"),
                    domain.clone(),
                ];
                searches.extend(node.searches);
                DnsConfig {
                    nameservers: vec![self.server.to_string()],
                    searches,
                    options: vec![("ndots".to_owned(), Some("5".to_owned()))],
                }
            }
        };
        if let Some(extra) = dns_config {
            made.nameservers.extend(extra.nameservers.iter().cloned());
            made.searches.extend(extra.searches.iter().cloned());
            for (name, value) in &extra.options {
                made.options.retain(|(known, _)| known != name);
                made.options.push((name.clone(), value.clone()));
            }
        }
        write(&made)
    }
}

fn write(config: &DnsConfig) -> String {
    let mut text = String::new();
    for server in unique(&config.nameservers)
        .into_iter()
        .take(MAX_NAMESERVERS)
    {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let mut searches = Vec::new();
    let mut bytes = 0;
    for search in unique(&config.searches).into_iter().take(MAX_SEARCHES) {
        bytes += search.len() + 1;
        if bytes > MAX_SEARCH_BYTES {
            break;
        }
        searches.push(search);
    }
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !config.options.is_empty() {
        let options: Vec<String> = config
            .options
            .iter()
            .map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            })
            .collect();
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

fn unique(words: &[String]) -> Vec<&str> {
    let mut kept: Vec<&str> = Vec::new();
    for word in words {
        if !kept.contains(&word.as_str()) {
            kept.push(word);
        }
    }
    kept
}

fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.nameservers.extend(words.next().map(str::to_owned)),
            // The last search or domain line counts.
            Some("search") => {
                config.searches = words
                    .map(|word| word.trim_end_matches('.'))
                    .filter(|word| !word.is_empty())
                    .map(str::to_owned)
                    .collect();
            }
            Some("domain") => {
                config.searches = words.next().map(str::to_owned).into_iter().collect()
            }
            Some("options") => {
                config
                    .options
                    .extend(words.map(|word| match word.split_once(':') {
                        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                        None => (word.to_owned(), None),
                    }))
            }
            _ => {}
        }
    }
    config
}

/// The resolvers a `resolv.conf` names, without `own`: asking ourselves would
/// never end.
pub fn upstreams(resolv_conf: &str, own: Ipv4Addr) -> Vec<SocketAddr> {
    parse(resolv_conf)
        .nameservers
        .iter()
        .filter_map(|server| server.parse::<IpAddr>().ok())
        .filter(|server| *server != IpAddr::V4(own))
        .take(MAX_NAMESERVERS)
        .map(|server| SocketAddr::new(server, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> ResolvConf {
        ResolvConf {
            cluster_domain: "cluster.local".into(),
            server: Ipv4Addr::new(169, 254, 20, 10),
            node: "# the node's\nnameserver 192.0.2.53 ; first\nnameserver ::1\nsearch example.org.\noptions edns0 timeout:1\n".into(),
        }
    }

    #[test]
    fn cluster_first_searches_the_namespace_first() {
        assert_eq!(
            builder().text("shop", DnsPolicy::ClusterFirst, false, None),
            "nameserver 169.254.20.10\n\
             search shop.svc.cluster.local svc.cluster.local cluster.local example.org\n\
             options ndots:5\n"
        );
        assert_eq!(
            builder().text("shop", DnsPolicy::ClusterFirstWithHostNet, true, None),
            builder().text("shop", DnsPolicy::ClusterFirst, false, None)
        );
    }

    #[test]
    fn the_nodes_own_is_copied() {
        let node =
            "nameserver 192.0.2.53\nnameserver ::1\nsearch example.org\noptions edns0 timeout:1\n";
        assert_eq!(
            builder().text("shop", DnsPolicy::Default, false, None),
            node
        );
        assert_eq!(
            builder().text("shop", DnsPolicy::ClusterFirst, true, None),
            node
        );
    }

    #[test]
    fn a_pods_configuration_is_added() {
        let config = DnsConfig {
            nameservers: vec!["203.0.113.1".into(), "169.254.20.10".into()],
            searches: vec!["svc.cluster.local".into(), "corp.example".into()],
            options: vec![("ndots".into(), Some("2".into())), ("rotate".into(), None)],
        };
        assert_eq!(
            builder().text("shop", DnsPolicy::None, false, Some(&config)),
            "nameserver 203.0.113.1\nnameserver 169.254.20.10\nsearch svc.cluster.local corp.example\noptions ndots:2 rotate\n"
        );
        assert_eq!(
            builder().text("shop", DnsPolicy::ClusterFirst, false, Some(&config)),
            "nameserver 169.254.20.10\nnameserver 203.0.113.1\n\
             search shop.svc.cluster.local svc.cluster.local cluster.local example.org corp.example\n\
             options ndots:2 rotate\n"
        );
        assert_eq!(builder().text("shop", DnsPolicy::None, false, None), "");
    }

    #[test]
    fn upstreams_leave_out_ourselves() {
        let own = Ipv4Addr::new(169, 254, 20, 10);
        let text =
            "nameserver 169.254.20.10\nnameserver fd00::1\nnameserver bad\nnameserver 192.0.2.53\n";
        let expected: Vec<SocketAddr> = vec![
            "[fd00::1]:53".parse().unwrap(),
            "192.0.2.53:53".parse().unwrap(),
        ];
        assert_eq!(upstreams(text, own), expected);
        assert_eq!(upstreams("", own), []);
    }
}
