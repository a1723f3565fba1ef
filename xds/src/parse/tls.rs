//! TLS of both sides, and secrets.

use std::sync::Arc;

use trireme_proxy_decide::config::{DownstreamTls, SecretSource, UpstreamTls, ValidationContext};

use super::matcher;
use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::{data_source, flag, text, texts};
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use crate::pb::envoy::extensions::transport_sockets::tls::v3 as proto;
use crate::{type_url, unpack};

/// A secret, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Secret {
    pub name: Arc<str>,
    pub content: SecretContent,
}

/// What a secret holds.
#[derive(Clone, Debug, PartialEq)]
pub enum SecretContent {
    /// A certificate chain and its private key, in PEM.
    Certificate {
        chain: SecretSource,
        key: SecretSource,
    },
    /// Authorities, and how certificates are checked.
    Validation(ValidationContext),
}

pub(super) fn secret(message: &proto::Secret) -> Outcome<Secret> {
    use proto::secret::Type;
    let content = match &message.r#type {
        Some(Type::TlsCertificate(certificate)) => {
            let (chain, key) = self::certificate(certificate).at("tls_certificate")?;
            SecretContent::Certificate { chain, key }
        }
        Some(Type::ValidationContext(context)) => {
            SecretContent::Validation(validation(context).at("validation_context")?)
        }
        Some(Type::SessionTicketKeys(_)) => {
            return Err(refused(
                "session_ticket_keys",
                "is not supported by this proxy",
            ));
        }
        Some(Type::GenericSecret(_)) => {
            return Err(refused("generic_secret", "is not supported by this proxy"));
        }
        None => return Err(reason("must hold something")),
    };
    Ok(Secret {
        name: message.name.as_str().into(),
        content,
    })
}

fn certificate(message: &proto::TlsCertificate) -> Outcome<(SecretSource, SecretSource)> {
    unsupported(message.pkcs12.is_some(), "pkcs12")?;
    unsupported(
        message.private_key_provider.is_some(),
        "private_key_provider",
    )?;
    unsupported(message.password.is_some(), "password")?;
    unsupported(message.tls_params.is_some(), "tls_params")?;
    let of = |field: &str, source: Option<&core::DataSource>| match source {
        Some(source) => data_source(source).at(field),
        None => Err(refused(field, "must be given")),
    };
    Ok((
        of("certificate_chain", message.certificate_chain.as_ref())?,
        of("private_key", message.private_key.as_ref())?,
    ))
}

fn validation(message: &proto::CertificateValidationContext) -> Outcome<ValidationContext> {
    use proto::certificate_validation_context::TrustChainVerification;
    use proto::subject_alt_name_matcher::SanType;
    unsupported(
        message.ca_certificate_provider_instance.is_some(),
        "ca_certificate_provider_instance",
    )?;
    unsupported(
        !message.verify_certificate_spki.is_empty(),
        "verify_certificate_spki",
    )?;
    unsupported(message.crl.is_some(), "crl")?;
    unsupported(
        message.allow_expired_certificate,
        "allow_expired_certificate",
    )?;
    unsupported(
        message.custom_validator_config.is_some(),
        "custom_validator_config",
    )?;
    unsupported(
        flag(message.require_signed_certificate_timestamp.as_ref(), false),
        "require_signed_certificate_timestamp",
    )?;
    unsupported(message.max_verify_depth.is_some(), "max_verify_depth")?;
    unsupported(
        message.trust_chain_verification == TrustChainVerification::AcceptUntrusted as i32,
        "trust_chain_verification",
    )?;
    let mut names = each(
        "match_typed_subject_alt_names",
        &message.match_typed_subject_alt_names,
        |one| {
            unsupported(one.san_type == SanType::OtherName as i32, "san_type")?;
            match &one.matcher {
                Some(one) => matcher::string(one).at("matcher"),
                None => Err(refused("matcher", "must be given")),
            }
        },
    )?;
    #[allow(deprecated)]
    let untyped = &message.match_subject_alt_names;
    names.extend(each("match_subject_alt_names", untyped, matcher::string)?);
    let trusted_ca = message.trusted_ca.as_ref().map(data_source).transpose();
    Ok(ValidationContext {
        trusted_ca: trusted_ca.at("trusted_ca")?,
        system_roots: message.system_root_certs.is_some(),
        subject_alt_names: names,
        certificate_hashes: texts(&message.verify_certificate_hash),
    })
}

/// What both sides have in common.
struct Common {
    certificates: Vec<(SecretSource, SecretSource)>,
    validation: Option<ValidationContext>,
    alpn: Vec<Arc<str>>,
    min_version: Option<u8>,
    max_version: Option<u8>,
    cipher_suites: Vec<Arc<str>>,
}

fn common(message: Option<&proto::CommonTlsContext>) -> Outcome<Common> {
    let mut common = Common {
        certificates: Vec::new(),
        validation: None,
        alpn: Vec::new(),
        min_version: None,
        max_version: None,
        cipher_suites: Vec::new(),
    };
    let Some(message) = message else {
        return Ok(common);
    };
    unsupported(
        message.tls_certificate_provider_instance.is_some(),
        "tls_certificate_provider_instance",
    )?;
    unsupported(
        message.custom_tls_certificate_selector.is_some(),
        "custom_tls_certificate_selector",
    )?;
    unsupported(message.custom_handshaker.is_some(), "custom_handshaker")?;
    unsupported(message.key_log.is_some(), "key_log")?;
    common.certificates = each("tls_certificates", &message.tls_certificates, certificate)?;
    for config in &message.tls_certificate_sds_secret_configs {
        let name = named(config).at("tls_certificate_sds_secret_configs")?;
        common.certificates.push((name.clone(), name));
    }
    common.validation = validation_of(message)?;
    common.alpn = texts(&message.alpn_protocols);
    if let Some(parameters) = &message.tls_params {
        let within = "tls_params";
        unsupported(
            !parameters.compliance_policies.is_empty(),
            "compliance_policies",
        )
        .at(within)?;
        let lowest = parameters.tls_minimum_protocol_version;
        common.min_version = version("tls_minimum_protocol_version", lowest).at(within)?;
        let highest = parameters.tls_maximum_protocol_version;
        common.max_version = version("tls_maximum_protocol_version", highest).at(within)?;
        common.cipher_suites = texts(&parameters.cipher_suites);
    }
    Ok(common)
}

fn version(field: &str, version: i32) -> Outcome<Option<u8>> {
    use proto::tls_parameters::TlsProtocol;
    match TlsProtocol::try_from(version) {
        Ok(TlsProtocol::TlsAuto) => Ok(None),
        Ok(TlsProtocol::TlSv12) => Ok(Some(12)),
        Ok(TlsProtocol::TlSv13) => Ok(Some(13)),
        _ => Err(refused(
            field,
            "only TLS 1.2 and 1.3 are supported by this proxy",
        )),
    }
}

fn named(config: &proto::SdsSecretConfig) -> Outcome<SecretSource> {
    if config.name.is_empty() {
        return Err(refused("name", "must not be empty"));
    }
    Ok(SecretSource::Sds(config.name.as_str().into()))
}

fn validation_of(message: &proto::CommonTlsContext) -> Outcome<Option<ValidationContext>> {
    use proto::common_tls_context::ValidationContextType;
    #[allow(deprecated)]
    match &message.validation_context_type {
        None => Ok(None),
        Some(ValidationContextType::ValidationContext(context)) => {
            validation(context).map(Some).at("validation_context")
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            Ok(Some(ValidationContext {
                trusted_ca: Some(named(config).at("validation_context_sds_secret_config")?),
                ..ValidationContext::default()
            }))
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let within = "combined_validation_context";
            let default = combined.default_validation_context.as_ref().map(validation);
            let mut context = default
                .transpose()
                .at("default_validation_context")
                .at(within)?
                .unwrap_or_default();
            if let Some(config) = &combined.validation_context_sds_secret_config {
                context.trusted_ca = Some(
                    named(config)
                        .at("validation_context_sds_secret_config")
                        .at(within)?,
                );
            }
            Ok(Some(context))
        }
        Some(_) => Err(refused(
            "validation_context_certificate_provider",
            "is not supported by this proxy",
        )),
    }
}

/// TLS towards clients; none where the socket is plain.
pub(super) fn downstream(socket: &core::TransportSocket) -> Outcome<Option<DownstreamTls>> {
    use core::transport_socket::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(refused("typed_config", "must be given"));
    };
    if any.type_url == type_url::<RawBuffer>() {
        return Ok(None);
    }
    let context: proto::DownstreamTlsContext = unpack(any).at("typed_config")?;
    unsupported(flag(context.require_sni.as_ref(), false), "require_sni").at("typed_config")?;
    let common = common(context.common_tls_context.as_ref())
        .at("common_tls_context")
        .at("typed_config")?;
    if common.certificates.is_empty() {
        return Err(refused(
            "typed_config.common_tls_context.tls_certificates",
            "must not be empty",
        ));
    }
    Ok(Some(DownstreamTls {
        certificates: common.certificates,
        validation: common.validation,
        require_client_certificate: flag(context.require_client_certificate.as_ref(), false),
        alpn: common.alpn,
        min_version: common.min_version,
        max_version: common.max_version,
        cipher_suites: common.cipher_suites,
    }))
}

/// TLS towards endpoints; none where the socket is plain.
pub(super) fn upstream(socket: &core::TransportSocket) -> Outcome<Option<UpstreamTls>> {
    use core::transport_socket::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(refused("typed_config", "must be given"));
    };
    if any.type_url == type_url::<RawBuffer>() {
        return Ok(None);
    }
    let context: proto::UpstreamTlsContext = unpack(any).at("typed_config")?;
    let mut common = common(context.common_tls_context.as_ref())
        .at("common_tls_context")
        .at("typed_config")?;
    let within = "typed_config.common_tls_context";
    unsupported(!common.cipher_suites.is_empty(), "tls_params.cipher_suites").at(within)?;
    unsupported(common.certificates.len() > 1, "tls_certificates").at(within)?;
    Ok(Some(UpstreamTls {
        sni: text(&context.sni),
        auto_sni: context.auto_host_sni,
        auto_san_validation: context.auto_sni_san_validation,
        certificate: common.certificates.pop(),
        validation: common.validation,
        alpn: common.alpn,
        min_version: common.min_version,
        max_version: common.max_version,
    }))
}
