//! From a connection and a request to an identity: client certificates, service account tokens, and
//! impersonation by those who may.

use http::{HeaderMap, header};
use trireme_model::status::Status;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::admission::injection::template::TOKEN_AUDIENCE;
use crate::api::Api;
use crate::authorize::Attributes;
use crate::identity::{AUTHENTICATED, Identity};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("the client certificate cannot be parsed: {0}")]
    Parse(String),
    #[error("the client certificate's subject has no common name")]
    NoCommonName,
}

/// User and groups in a certificate that TLS has verified: common name and organizations.
pub(crate) fn from_certificate(der: &[u8]) -> Result<Identity, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| CertificateError::Parse(error.to_string()))?;
    let subject = certificate.subject();
    let user = subject
        .iter_common_name()
        .find_map(|attribute| attribute.as_str().ok())
        .filter(|name| !name.is_empty())
        .ok_or(CertificateError::NoCommonName)?;
    let groups = subject
        .iter_organization()
        .filter_map(|attribute| attribute.as_str().ok());
    Ok(Identity::new(user, groups))
}

/// Services of Envoy's that proxies call with tokens made for the mesh, which are good for nothing else.
const MESH_SERVICES: &str = "/envoy.service.";

/// Who asks for `path`: the certificate's identity, else the bearer token's, else anonymous; then whom he
/// impersonates.
pub(crate) fn identify(
    api: &Api,
    certificate: Option<Identity>,
    path: &str,
    headers: &HeaderMap,
) -> Result<Identity, Status> {
    let identity = match certificate {
        Some(identity) => identity,
        None => match headers.get(header::AUTHORIZATION) {
            Some(value) => {
                let text = value.to_str().map_err(|_| Status::unauthorized())?;
                let token = text
                    .split_once(' ')
                    .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let (_, token) = token.ok_or_else(Status::unauthorized)?;
                let audience = if path.starts_with(MESH_SERVICES) {
                    TOKEN_AUDIENCE
                } else {
                    ""
                };
                api.token_key
                    .verify(&api.store, token.trim(), audience, api.now())
                    .ok_or_else(Status::unauthorized)?
            }
            None => Identity::anonymous(),
        },
    };
    impersonate(api, identity, headers)
}

fn impersonate(api: &Api, identity: Identity, headers: &HeaderMap) -> Result<Identity, Status> {
    let values = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let users = values("impersonate-user");
    let groups = values("impersonate-group");
    let uids = values("impersonate-uid");
    let Some(user) = users.first().filter(|user| !user.is_empty()) else {
        if groups.is_empty() && uids.is_empty() {
            return Ok(identity);
        }
        return Err(Status::bad_request(
            "requested impersonation of groups or uid without a user",
        ));
    };
    let mut attributes = Attributes {
        verb: "impersonate",
        resource: "users",
        name: user,
        ..Attributes::default()
    };
    let service_account = Identity {
        user: user.clone(),
        ..Identity::anonymous()
    };
    if let Some((namespace, name)) = service_account.service_account() {
        attributes.resource = "serviceaccounts";
        attributes.namespace = Some(namespace);
        attributes.name = name;
    }
    api.authorizer.check(&identity, &attributes)?;
    for group in &groups {
        let attributes = Attributes {
            verb: "impersonate",
            resource: "groups",
            name: group,
            ..Attributes::default()
        };
        api.authorizer.check(&identity, &attributes)?;
    }
    for uid in &uids {
        let attributes = Attributes {
            verb: "impersonate",
            group: "authentication.k8s.io",
            resource: "uids",
            name: uid,
            ..Attributes::default()
        };
        api.authorizer.check(&identity, &attributes)?;
    }
    let mut becomes = match service_account.service_account() {
        Some((namespace, name)) if groups.is_empty() => {
            Identity::of_service_account(namespace, name, "")
        }
        _ => Identity::new(user.clone(), groups),
    };
    if user == crate::identity::ANONYMOUS {
        becomes = Identity {
            groups: becomes.groups,
            ..Identity::anonymous()
        };
        becomes.groups.retain(|group| group != AUTHENTICATED);
        becomes
            .groups
            .push(crate::identity::UNAUTHENTICATED.to_owned());
    }
    becomes.uid = uids.first().cloned().unwrap_or(becomes.uid);
    Ok(becomes)
}
