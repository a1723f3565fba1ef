//! Certificates that a workload may ask for: those which its own configuration names, and no others.

use std::collections::BTreeSet;

use crate::ObjectKey;
use crate::cluster::transport::SECRET_PREFIX;
use crate::gateway;
use crate::proto::{core, tls};
use crate::resource::{Resource, Subscription};
use crate::scope::Scope;
use crate::view::{Credential, View};
use crate::workload::{Role, Workload};

/// What a Secret with authorities alone is called beside the one with the certificate.
pub const AUTHORITY_SUFFIX: &str = "-cacert";

/// The Secrets lie in the workload's own namespace.
pub fn secrets(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    names: &Subscription,
) -> Vec<Resource> {
    let allowed = referenced(view, scope, workload);
    let wanted = allowed.iter().filter(|name| names.contains(name));
    wanted
        .filter_map(|name| {
            let plain = name.strip_prefix(SECRET_PREFIX)?;
            let secret = find(view, &workload.namespace, name, plain)?;
            Some(Resource::new(name.clone(), &secret))
        })
        .collect()
}

/// The names in the workload's configuration.
fn referenced(view: &View, scope: &Scope, workload: &Workload) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut both = |name: &str| {
        let name = name.strip_prefix(SECRET_PREFIX).unwrap_or(name);
        if !name.is_empty() {
            names.insert(format!("{SECRET_PREFIX}{name}"));
            names.insert(format!("{SECRET_PREFIX}{name}{AUTHORITY_SUFFIX}"));
        }
    };
    if workload.role == Role::Router {
        for name in gateway::credentials(view, workload) {
            both(&name);
        }
    }
    for rule in scope.rules.values() {
        if workload.role != Role::Router && rule.selector.is_empty() {
            continue;
        }
        let of_subsets = rule
            .subsets
            .iter()
            .filter_map(|it| it.traffic_policy.as_ref());
        for policy in rule.policy.iter().chain(of_subsets) {
            let of_ports = policy
                .port_level_settings
                .iter()
                .filter_map(|it| it.tls.as_ref());
            for settings in policy.tls.iter().chain(of_ports) {
                both(&settings.credential_name);
            }
        }
    }
    names
}

fn find(view: &View, namespace: &str, name: &str, plain: &str) -> Option<tls::Secret> {
    use tls::secret::Type;
    let of = |name: &str| view.credentials.get(&ObjectKey::new(namespace, name));
    let content = match plain.strip_suffix(AUTHORITY_SUFFIX) {
        Some(base) => {
            let own = of(plain).filter(|it| !it.authorities.is_empty());
            let beside = || of(base).filter(|it| !it.authorities.is_empty());
            Type::ValidationContext(authorities(own.or_else(beside)?))
        }
        None => Type::TlsCertificate(certificate(
            of(plain).filter(|it| !it.certificate.is_empty())?,
        )),
    };
    Some(tls::Secret {
        name: name.to_owned(),
        r#type: Some(content),
    })
}

fn bytes(content: &[u8]) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineBytes(content.to_vec())),
        ..core::DataSource::default()
    }
}

fn certificate(credential: &Credential) -> tls::TlsCertificate {
    tls::TlsCertificate {
        certificate_chain: Some(bytes(&credential.certificate)),
        private_key: Some(bytes(&credential.private_key)),
        ..tls::TlsCertificate::default()
    }
}

fn authorities(credential: &Credential) -> tls::CertificateValidationContext {
    tls::CertificateValidationContext {
        trusted_ca: Some(bytes(&credential.authorities)),
        ..tls::CertificateValidationContext::default()
    }
}
