//! How a gateway takes TLS off.

use trireme_model::istio::{ServerTlsMode, ServerTlsSettings, TlsProtocol};

use crate::cluster::transport::{file, san, secret, socket};
use crate::proto::{boolean, core, tls};
use crate::secret::AUTHORITY_SUFFIX;

use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use tls::tls_parameters::TlsProtocol as Version;

/// `None` where there is no certificate to show, so that nothing can be served.
pub fn downstream(settings: &ServerTlsSettings, http: bool) -> Option<core::TransportSocket> {
    let mut common = tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: match settings.min_protocol_version {
                TlsProtocol::Auto => Version::TlSv12,
                version => of(version),
            } as i32,
            tls_maximum_protocol_version: of(settings.max_protocol_version) as i32,
            cipher_suites: settings.cipher_suites.clone(),
            ..tls::TlsParameters::default()
        }),
        alpn_protocols: match http {
            true => vec!["h2".to_owned(), "http/1.1".to_owned()],
            false => Vec::new(),
        },
        ..tls::CommonTlsContext::default()
    };
    let mut names: Vec<&String> = settings.credential_names.iter().collect();
    if !settings.credential_name.is_empty() {
        names.push(&settings.credential_name);
    }
    let mut files: Vec<(&str, &str)> = Vec::new();
    for written in &settings.tls_certificates {
        files.push((&written.server_certificate, &written.private_key));
    }
    if !settings.server_certificate.is_empty() {
        files.push((&settings.server_certificate, &settings.private_key));
    }
    match names.is_empty() {
        false => {
            common.tls_certificate_sds_secret_configs =
                names.iter().map(|name| secret(name)).collect();
        }
        true => {
            common.tls_certificates = files
                .iter()
                .map(|(certificate, key)| tls::TlsCertificate {
                    certificate_chain: Some(file(certificate)),
                    private_key: Some(file(key)),
                    ..tls::TlsCertificate::default()
                })
                .collect();
        }
    }
    if common.tls_certificates.is_empty() && common.tls_certificate_sds_secret_configs.is_empty() {
        return None;
    }
    let asks_client = match settings.mode {
        ServerTlsMode::Mutual => true,
        ServerTlsMode::OptionalMutual => false,
        ServerTlsMode::Simple => return Some(finish(common, false)),
        ServerTlsMode::Passthrough
        | ServerTlsMode::AutoPassthrough
        | ServerTlsMode::IstioMutual => return None,
    };
    let checked = tls::CertificateValidationContext {
        match_typed_subject_alt_names: settings
            .subject_alt_names
            .iter()
            .map(|name| san(name))
            .collect(),
        verify_certificate_spki: settings.verify_certificate_spki.clone(),
        verify_certificate_hash: settings.verify_certificate_hash.clone(),
        ..tls::CertificateValidationContext::default()
    };
    common.validation_context_type = Some(match names.last() {
        Some(name) => {
            let authority = match settings.ca_cert_credential_name.as_str() {
                "" => format!("{name}{AUTHORITY_SUFFIX}"),
                named => named.to_owned(),
            };
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(checked),
                validation_context_sds_secret_config: Some(secret(&authority)),
                ..CombinedCertificateValidationContext::default()
            })
        }
        None => ValidationContextType::ValidationContext(tls::CertificateValidationContext {
            trusted_ca: Some(file(&settings.ca_certificates)),
            crl: (!settings.ca_crl.is_empty()).then(|| file(&settings.ca_crl)),
            ..checked
        }),
    });
    Some(finish(common, asks_client))
}

fn finish(common: tls::CommonTlsContext, asks_client: bool) -> core::TransportSocket {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: boolean(asks_client),
        ..tls::DownstreamTlsContext::default()
    };
    socket("envoy.transport_sockets.tls", &context)
}

fn of(version: TlsProtocol) -> Version {
    match version {
        TlsProtocol::Auto => Version::TlsAuto,
        TlsProtocol::V1_0 => Version::TlSv10,
        TlsProtocol::V1_1 => Version::TlSv11,
        TlsProtocol::V1_2 => Version::TlSv12,
        TlsProtocol::V1_3 => Version::TlSv13,
    }
}
