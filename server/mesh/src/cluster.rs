//! Clusters: where requests and connections can be sent, and how each destination is to be treated.

mod inbound;
mod outbound;
mod policy;
pub mod transport;

use trireme_xds::metadata;

use crate::mesh_config::MeshConfig;
use crate::proto::{cluster as pb, core, duration, upstream};
use crate::service::{Origin, Service};
use crate::{ObjectKey, reference};

pub use inbound::inbound;
pub use outbound::{depends_on_place, outbound, targets};

/// Traffic to what nobody knows goes to the address that the client chose.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Has no endpoints: what is sent there is refused.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// The application, on whatever port the client chose.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// From where a sidecar connects to its own application.
const INBOUND_SOURCE: &str = "127.0.0.6";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// `outbound|PORT|SUBSET|HOST`
pub fn name(port: u32, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `inbound|PORT||`
pub fn inbound_name(port: u32) -> String {
    format!("inbound|{port}||")
}

/// Port, subset and host in a name.
pub fn parse_name(name: &str) -> Option<(u32, &str, &str)> {
    let mut parts = name.split('|');
    if parts.next()? != "outbound" {
        return None;
    }
    let parsed = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(parsed)
}

/// A cluster under construction, with the HTTP options that become an extension of it at the end.
pub(crate) struct Draft {
    pub cluster: pb::Cluster,
    pub http: Option<upstream::HttpProtocolOptions>,
}

impl Draft {
    fn new(name: String, discovery: pb::cluster::DiscoveryType, mesh: &MeshConfig) -> Draft {
        let lb_policy = match discovery {
            pb::cluster::DiscoveryType::OriginalDst => pb::cluster::LbPolicy::ClusterProvided,
            _ => pb::cluster::LbPolicy::RoundRobin,
        };
        Draft {
            cluster: pb::Cluster {
                name,
                cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(
                    discovery as i32,
                )),
                lb_policy: lb_policy as i32,
                connect_timeout: duration(mesh.connect_timeout()),
                common_lb_config: Some(pb::cluster::CommonLbConfig::default()),
                ..pb::Cluster::default()
            },
            http: None,
        }
    }

    fn finish(mut self) -> pb::Cluster {
        if let Some(mut http) = self.http {
            use upstream::http_protocol_options as options;
            // Envoy wants one to be chosen; HTTP/1.1 is what a cluster without options speaks.
            http.upstream_protocol_options.get_or_insert_with(|| {
                options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
                    protocol_config: Some(
                        options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                            core::Http1ProtocolOptions::default(),
                        ),
                    ),
                })
            });
            self.cluster
                .typed_extension_protocol_options
                .insert(HTTP_OPTIONS.to_owned(), trireme_xds::pack(&http));
        }
        self.cluster
    }

    /// Speaks HTTP/2 from the first byte.
    fn speak_http2(&mut self) {
        use upstream::http_protocol_options as options;
        let http = self.http.get_or_insert_default();
        http.upstream_protocol_options = Some(
            options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
                protocol_config: Some(
                    options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                        core::Http2ProtocolOptions::default(),
                    ),
                ),
            }),
        );
    }

    /// Speaks what the client speaks.
    fn speak_as_client(&mut self) {
        use upstream::http_protocol_options as options;
        let http = self.http.get_or_insert_default();
        http.upstream_protocol_options = Some(
            options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
                options::UseDownstreamHttpConfig {
                    http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                    http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
                    ..options::UseDownstreamHttpConfig::default()
                },
            ),
        );
    }

    fn http2(&mut self) -> Option<&mut core::Http2ProtocolOptions> {
        use upstream::http_protocol_options as options;
        match self.http.as_mut()?.upstream_protocol_options.as_mut()? {
            options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit) => {
                match explicit.protocol_config.as_mut()? {
                    options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2) => {
                        Some(http2)
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn stands_for(&mut self, services: &[&Service]) {
        let services: Vec<metadata::Service> = services
            .iter()
            .map(|service| metadata::Service {
                host: service.host.clone(),
                name: service.name.clone(),
                namespace: service.namespace.clone(),
            })
            .collect();
        metadata::set_services(&mut self.cluster.metadata, &services);
    }
}

/// How metadata names the object that a service comes from; Kubernetes' Services are not named, as in Istio.
pub(crate) fn service_reference(service: &Service) -> Option<String> {
    (service.origin == Origin::ServiceEntry).then(|| {
        reference(
            "ServiceEntry",
            &ObjectKey::new(service.namespace.clone(), service.name.clone()),
        )
    })
}
