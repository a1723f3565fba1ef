//! A further server: exchanges the token for credentials, then asks to become a member.

use trireme_client::{JoinToken, tcp_dialer};
use trireme_proto::v1::{JoinRequest, Server, join_request};

use crate::authority::{AuthorityError, Credential, certificate_request};
use crate::bootstrap::own_addresses;
use crate::directory::{Directory, DirectoryError, Identity};

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("joining: {0}")]
    Client(#[from] trireme_client::Error),
}

impl JoinError {
    /// Worth another attempt: the cluster could not be asked, or had no leader.
    pub fn is_transient(&self) -> bool {
        match self {
            JoinError::Client(trireme_client::Error::Protocol { code, .. }) => {
                *code == tonic::Code::Unavailable
            }
            JoinError::Client(trireme_client::Error::Lost { .. }) => true,
            JoinError::Client(error) => error.is_transient(),
            JoinError::Authority(_) | JoinError::Directory(_) => false,
        }
    }
}

/// Gets certificates and the cluster's keys and writes them, identity last.
pub async fn join(
    directory: &Directory,
    mut identity: Identity,
    servers: &[String],
    token: &JoinToken,
) -> Result<Identity, JoinError> {
    let (key_pem, request_pem) = certificate_request()?;
    let (peer_key_pem, peer_request_pem) = certificate_request()?;
    let reply = trireme_client::join(
        servers.to_vec(),
        token,
        JoinRequest {
            token: token.to_string(),
            role: join_request::Role::Server.into(),
            name: identity.name.clone(),
            addresses: own_addresses(&identity),
            certificate_request_pem: request_pem,
            peer_certificate_request_pem: peer_request_pem,
        },
        tcp_dialer(),
    )
    .await?;
    let pairs = [
        ("ca", reply.ca_pem, reply.ca_key_pem),
        ("peer-ca", reply.peer_ca_pem, reply.peer_ca_key_pem),
        ("server", reply.certificate_pem, key_pem),
        ("peer", reply.peer_certificate_pem, peer_key_pem),
    ];
    for (name, certificate_pem, key_pem) in pairs {
        directory.write_credential(
            name,
            &Credential {
                certificate_pem,
                key_pem,
            },
        )?;
    }
    directory.write(
        "tls/service-account-key.pem",
        &reply.service_account_key_pem,
    )?;
    directory.write("token", &token.to_string())?;
    identity.id = reply.server_id;
    identity.service_cidr = reply.service_cidr;
    identity.cluster_cidr = reply.cluster_cidr;
    identity.cluster_domain = reply.cluster_domain;
    identity.cluster_dns = reply.cluster_dns;
    identity.others = addresses(&reply.servers, servers);
    directory.write_identity(&identity)?;
    Ok(identity)
}

/// What the cluster says of itself first, then what we were told.
fn addresses(members: &[Server], told: &[String]) -> Vec<String> {
    let mut all: Vec<String> = members
        .iter()
        .map(|server| server.api_address.clone())
        .collect();
    for address in told {
        if !all.contains(address) {
            all.push(address.clone());
        }
    }
    all
}
