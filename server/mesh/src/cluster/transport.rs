//! TLS towards a destination, as a DestinationRule asks for it.
//!
//! ISTIO_MUTUAL needs identities, which the mesh does not issue yet: until it does, traffic under it stays plain, and
//! the rule's condition says so.

use trireme_model::istio::{ClientTlsMode, ClientTlsSettings, ProxyProtocolVersion, TrafficPolicy};

use super::Draft;
use crate::proto::{ads, core, exact, extensions, tls};
use crate::scope::Scope;
use crate::secret::AUTHORITY_SUFFIX;
use crate::service::{Origin, Service};
use crate::workload::Role;

/// Where the authorities lie that an operating system trusts, on Debian and in our proxy's image.
pub const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
/// Secrets of the cluster that a proxy may ask for by name.
pub const SECRET_PREFIX: &str = "kubernetes://";

pub fn apply(draft: &mut Draft, service: &Service, policy: &TrafficPolicy, scope: &Scope) {
    let secured = policy.tls.as_ref().and_then(|settings| {
        matches!(settings.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)
            .then(|| upstream(draft, service, settings, scope))
    });
    let socket = secured.flatten();
    draft.cluster.transport_socket = match &policy.proxy_protocol {
        None => socket,
        Some(proxy_protocol) => Some(announced(socket, proxy_protocol.version)),
    };
}

fn upstream(
    draft: &mut Draft,
    service: &Service,
    settings: &ClientTlsSettings,
    scope: &Scope,
) -> Option<core::TransportSocket> {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    // A sidecar may read Secrets only where a rule is for it alone.
    let selected = scope
        .rule(&service.host)
        .is_some_and(|it| !it.selector.is_empty());
    if !settings.credential_name.is_empty() && scope.key.role == Role::Sidecar && !selected {
        return None;
    }
    let skip = settings.insecure_skip_verify == Some(true);
    let mut names = settings.subject_alt_names.clone();
    if names.is_empty() && service.origin == Origin::ServiceEntry {
        names.clone_from(&service.subject_alt_names);
    }
    let auto_sni = settings.sni.is_empty();
    let auto_san = auto_sni && settings.subject_alt_names.is_empty() && !skip;
    if auto_sni || auto_san {
        let options = draft.http.get_or_insert_default();
        let options = options
            .upstream_http_protocol_options
            .get_or_insert_default();
        options.auto_sni = auto_sni;
        options.auto_san_validation = auto_san;
    }
    let mut common = tls::CommonTlsContext {
        tls_params: Some(versions()),
        ..tls::CommonTlsContext::default()
    };
    let checked = tls::CertificateValidationContext {
        match_typed_subject_alt_names: names.iter().map(|name| san(name)).collect(),
        ..tls::CertificateValidationContext::default()
    };
    if !settings.credential_name.is_empty() {
        if settings.mode == ClientTlsMode::Mutual {
            common.tls_certificate_sds_secret_configs = vec![secret(&settings.credential_name)];
        }
        let authority = format!("{}{AUTHORITY_SUFFIX}", settings.credential_name);
        common.validation_context_type = Some(match skip {
            true => ValidationContextType::ValidationContext(Default::default()),
            false => ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(checked),
                    validation_context_sds_secret_config: Some(secret(&authority)),
                    ..CombinedCertificateValidationContext::default()
                },
            ),
        });
    } else {
        if settings.mode == ClientTlsMode::Mutual {
            common.tls_certificates = vec![tls::TlsCertificate {
                certificate_chain: Some(file(&settings.client_certificate)),
                private_key: Some(file(&settings.private_key)),
                ..tls::TlsCertificate::default()
            }];
        }
        let authorities = match settings.ca_certificates.as_str() {
            "" | "system" => SYSTEM_AUTHORITIES,
            path => path,
        };
        common.validation_context_type =
            Some(ValidationContextType::ValidationContext(match skip {
                true => tls::CertificateValidationContext::default(),
                false => tls::CertificateValidationContext {
                    trusted_ca: Some(file(authorities)),
                    crl: (!settings.ca_crl.is_empty()).then(|| file(&settings.ca_crl)),
                    ..checked
                },
            }));
    }
    if draft.http2().is_some() {
        common.alpn_protocols = vec!["h2".to_owned()];
    }
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: settings.sni.clone(),
        ..tls::UpstreamTlsContext::default()
    };
    Some(socket(TLS_SOCKET, &context))
}

pub fn socket<M: prost::Message + prost::Name>(name: &str, config: &M) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(
            trireme_xds::pack(config),
        )),
    }
}

fn announced(
    inner: Option<core::TransportSocket>,
    version: ProxyProtocolVersion,
) -> core::TransportSocket {
    use extensions::transport_sockets::{proxy_protocol, raw_buffer};
    let inner = inner.unwrap_or_else(|| {
        socket(
            "envoy.transport_sockets.raw_buffer",
            &raw_buffer::v3::RawBuffer::default(),
        )
    });
    let version = match version {
        ProxyProtocolVersion::V1 => core::proxy_protocol_config::Version::V1,
        ProxyProtocolVersion::V2 => core::proxy_protocol_config::Version::V2,
    };
    let config = proxy_protocol::v3::ProxyProtocolUpstreamTransport {
        config: Some(core::ProxyProtocolConfig {
            version: version as i32,
            ..core::ProxyProtocolConfig::default()
        }),
        transport_socket: Some(inner),
        ..proxy_protocol::v3::ProxyProtocolUpstreamTransport::default()
    };
    socket("envoy.transport_sockets.upstream_proxy_protocol", &config)
}

pub fn versions() -> tls::TlsParameters {
    use tls::tls_parameters::TlsProtocol;
    tls::TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..tls::TlsParameters::default()
    }
}

pub fn san(name: &str) -> tls::SubjectAltNameMatcher {
    use tls::subject_alt_name_matcher::SanType;
    let kind = match (name.contains("://"), name.parse::<std::net::IpAddr>()) {
        (true, _) => SanType::Uri,
        (false, Ok(_)) => SanType::IpAddress,
        (false, Err(_)) => SanType::Dns,
    };
    tls::SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(exact(name)),
        ..tls::SubjectAltNameMatcher::default()
    }
}

pub fn secret(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig {
        name: match name.starts_with(SECRET_PREFIX) {
            true => name.to_owned(),
            false => format!("{SECRET_PREFIX}{name}"),
        },
        sds_config: Some(ads()),
    }
}

pub fn file(path: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.to_owned())),
        ..core::DataSource::default()
    }
}
