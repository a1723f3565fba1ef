//! Calls to other servers' `trireme.v1.Cluster`, with this server's own certificate.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tonic::Status;
use trireme_client::{Client, ClientConfig};
use trireme_proto::v1::{AddServerReply, MeshStatusReply, RemoveServerReply, Server, ServerStatus};

/// Servers that connections are kept to; a cluster has fewer.
const PEERS_MAX: usize = 64;

pub struct Peers {
    tls: rustls::ClientConfig,
    clients: Mutex<BTreeMap<String, Client>>,
}

impl Peers {
    pub fn new(tls: rustls::ClientConfig) -> Self {
        Self {
            tls,
            clients: Mutex::new(BTreeMap::new()),
        }
    }

    /// How the server at `address` says it is.
    pub async fn status(&self, address: &str) -> Result<ServerStatus, Status> {
        let reply = self
            .client(address)?
            .server_status()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        reply
            .servers
            .into_iter()
            .next()
            .ok_or_else(|| Status::internal(format!("{address} answered without its status")))
    }

    /// The workloads that are connected to the server at `address`.
    pub async fn mesh_status(&self, address: &str) -> Result<MeshStatusReply, Status> {
        let asked = self.client(address)?.mesh_status(true).await;
        asked.map_err(|error| Status::unavailable(error.to_string()))
    }

    pub async fn add_server(&self, leader: &str, server: Server) -> Result<AddServerReply, Status> {
        let servers = self
            .client(leader)?
            .add_server(server)
            .await
            .map_err(forwarded)?;
        Ok(AddServerReply { servers })
    }

    pub async fn remove_server(&self, leader: &str, id: u64) -> Result<RemoveServerReply, Status> {
        let servers = self
            .client(leader)?
            .remove_server(id)
            .await
            .map_err(forwarded)?;
        Ok(RemoveServerReply { servers })
    }

    fn client(&self, address: &str) -> Result<Client, Status> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let config = ClientConfig::new(vec![address.to_owned()], self.tls.clone(), "trireme");
        let client =
            Client::new(config).map_err(|error| Status::internal(format!("{address}: {error}")))?;
        if clients.len() >= PEERS_MAX {
            clients.clear();
        }
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

/// The leader's answer as ours.
fn forwarded(error: trireme_client::Error) -> Status {
    match error {
        trireme_client::Error::Protocol { code, message, .. } => Status::new(code, message),
        other => Status::unavailable(other.to_string()),
    }
}
