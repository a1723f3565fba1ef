//! The mesh's options: key `mesh` of ConfigMap istio-system/istio, in Istio's MeshConfig's YAML.

use serde::Deserialize;
use trireme_model::istio::{
    Duration, H2UpgradePolicy, HttpRetry, LocalityLbSetting, OutboundTrafficPolicy, TcpKeepalive,
};

pub const NAMESPACE: &str = "istio-system";
pub const CONFIG_MAP: &str = "istio";
pub const KEY: &str = "mesh";

/// What of MeshConfig has an effect here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MeshConfig {
    /// Whose objects hold for every namespace.
    pub root_namespace: String,
    /// Absent means ALLOW_ANY.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub connect_timeout: Option<Duration>,
    /// How long a listener waits for a first byte before it takes the connection for TCP; zero is for ever.
    pub protocol_detection_timeout: Option<Duration>,
    pub default_http_retry_policy: Option<HttpRetry>,
    pub h2_upgrade_policy: H2UpgradePolicy,
    pub locality_lb_setting: Option<LocalityLbSetting>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Empty turns access logs off.
    pub access_log_file: String,
    /// `TEXT` or `JSON`.
    pub access_log_encoding: String,
    pub access_log_format: String,
    pub default_service_export_to: Vec<String>,
    pub default_virtual_service_export_to: Vec<String>,
    pub default_destination_rule_export_to: Vec<String>,
}

impl Default for MeshConfig {
    fn default() -> MeshConfig {
        MeshConfig {
            root_namespace: NAMESPACE.to_owned(),
            outbound_traffic_policy: None,
            connect_timeout: None,
            protocol_detection_timeout: None,
            default_http_retry_policy: None,
            h2_upgrade_policy: H2UpgradePolicy::Default,
            locality_lb_setting: None,
            tcp_keepalive: None,
            access_log_file: String::new(),
            access_log_encoding: String::new(),
            access_log_format: String::new(),
            default_service_export_to: Vec::new(),
            default_virtual_service_export_to: Vec::new(),
            default_destination_rule_export_to: Vec::new(),
        }
    }
}

impl MeshConfig {
    /// Reads the YAML; fields without an effect are passed over.
    pub fn parse(yaml: &str) -> Result<MeshConfig, serde_yaml_ng::Error> {
        if yaml.trim().is_empty() {
            return Ok(MeshConfig::default());
        }
        serde_yaml_ng::from_str(yaml)
    }

    /// How long a connection may take to come about: Istio's 10 s unless set.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout.unwrap_or(Duration::from_secs(10))
    }
}
