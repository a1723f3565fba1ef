//! The first server: makes the authorities, the token and its own credentials.

use crate::authority::{Authority, AuthorityError, Credential, Subject, signing_key_pem};
use crate::cluster::serving_addresses;
use crate::directory::{Directory, DirectoryError, Identity};
use crate::token;

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Tls(#[from] trireme_client::TlsError),
}

/// Writes everything a first server needs into its directory. Identity last: a run that was killed
/// before that begins again.
pub fn bootstrap(directory: &Directory, identity: &Identity) -> Result<(), BootstrapError> {
    let cluster = Authority::generate("trireme-cluster-ca")?;
    let peer = Authority::generate("trireme-peer-ca")?;
    write_authority(directory, "ca", &cluster)?;
    write_authority(directory, "peer-ca", &peer)?;
    directory.write("tls/service-account-key.pem", &signing_key_pem()?)?;
    let fingerprint = trireme_client::certificate_sha256(cluster.certificate_pem())?;
    directory.write("token", &token::generate(fingerprint).to_string())?;
    issue_own(directory, identity, &cluster, &peer)?;
    directory.write_identity(identity)?;
    Ok(())
}

/// Serving and peer certificates of a server that holds the authorities. Called again at a start
/// when they have passed half of their life.
pub fn issue_own(
    directory: &Directory,
    identity: &Identity,
    cluster: &Authority,
    peer: &Authority,
) -> Result<(), BootstrapError> {
    let own = own_addresses(identity);
    directory.write_credential(
        "server",
        &cluster.issue(&Subject {
            common_name: format!("system:server:{}", identity.name),
            organization: Some("system:masters".to_owned()),
            addresses: serving_addresses(identity, &own),
        })?,
    )?;
    directory.write_credential(
        "peer",
        &peer.issue(&Subject {
            common_name: identity.name.clone(),
            organization: None,
            addresses: own,
        })?,
    )?;
    Ok(())
}

/// The host names and addresses in a server's own addresses.
pub fn own_addresses(identity: &Identity) -> Vec<String> {
    let mut own = vec![identity.name.clone()];
    for address in [&identity.api_address, &identity.peer_address] {
        let host = address
            .rsplit_once(':')
            .map_or(&**address, |(host, _)| host);
        own.push(host.trim_matches(['[', ']']).to_owned());
    }
    own.dedup();
    own
}

fn write_authority(
    directory: &Directory,
    name: &str,
    authority: &Authority,
) -> Result<(), DirectoryError> {
    directory.write_credential(
        name,
        &Credential {
            certificate_pem: authority.certificate_pem().to_owned(),
            key_pem: authority.key_pem().to_owned(),
        },
    )
}
