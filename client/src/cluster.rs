//! Membership: joining with a token, adding and removing servers, status.

use std::time::Duration;

use tonic::transport::Channel;

use crate::call::{Repeat, Servers};
use crate::client::{Client, timed};
use crate::connect::Dialer;
use crate::error::Error;
use crate::tls::pinned_config;
use crate::token::JoinToken;
use crate::v1;
use crate::v1::cluster_client::ClusterClient;

/// Joining may meet a cluster that is still electing its first leader.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);

/// Certificates, keys and addresses of a cluster: small, but more than the default for none.
const MESSAGE_MAX_BYTES: usize = 4 * 1024 * 1024;

fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES)
}

/// Exchanges a certificate request for a certificate, trusting only a server that proves the CA
/// which the token names. The request's token field is filled in from `token`.
pub async fn join(
    servers: Vec<String>,
    token: &JoinToken,
    request: v1::JoinRequest,
    dialer: Dialer,
) -> Result<v1::JoinReply, Error> {
    let tls = pinned_config(*token.ca_sha256()).map_err(|e| Error::Request(e.to_string()))?;
    let servers = Servers::new(servers, tls.into(), dialer, JOIN_DEADLINE)?;
    let message = v1::JoinRequest {
        token: token.to_string(),
        ..request
    };
    let operation = format!("join as {}", message.name);
    // Asking for another certificate harms nothing, so a lost answer is asked for again.
    servers
        .call(&operation, Repeat::Safe, |channel, allowed| {
            let request = timed(message.clone(), allowed);
            async move { cluster(channel).join(request).await }
        })
        .await
}

impl Client {
    /// The answering server's own status, without the others'.
    pub async fn server_status(&self) -> Result<v1::StatusReply, Error> {
        let message = v1::StatusRequest {
            only_this_server: true,
        };
        self.servers
            .call("server status", Repeat::Safe, |channel, allowed| {
                let request = timed(message, allowed);
                async move { cluster(channel).status(request).await }
            })
            .await
    }

    /// Servers with role, term, applied index and health, as the asked server sees them.
    pub async fn cluster_status(&self) -> Result<v1::StatusReply, Error> {
        self.servers
            .call("cluster status", Repeat::Safe, |channel, allowed| {
                let request = timed(v1::StatusRequest::default(), allowed);
                async move { cluster(channel).status(request).await }
            })
            .await
    }

    /// Makes a joined server a member: a learner first, a voter once it has caught up.
    pub async fn add_server(&self, server: v1::Server) -> Result<Vec<v1::Server>, Error> {
        let message = v1::AddServerRequest {
            server: Some(server),
        };
        // Adding a member that is one already changes nothing.
        let reply = self
            .servers
            .call("add server", Repeat::Safe, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { cluster(channel).add_server(request).await }
            })
            .await?;
        Ok(reply.servers)
    }

    /// Takes a server out of the membership.
    pub async fn remove_server(&self, id: u64) -> Result<Vec<v1::Server>, Error> {
        let message = v1::RemoveServerRequest { id };
        let reply = self
            .servers
            .call("remove server", Repeat::Safe, |channel, allowed| {
                let request = timed(message, allowed);
                async move { cluster(channel).remove_server(request).await }
            })
            .await?;
        Ok(reply.servers)
    }
}
