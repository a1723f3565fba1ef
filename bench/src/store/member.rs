//! One member of ours: a replica behind as much of etcd's API as the load needs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use trireme_raft::{Member, Replica, ReplicaConfig, Storage, TcpDial, Timing, serve_listener};
use trireme_state::{Command, Operation, Reply, Txn};

use super::wire::kv_server::{Kv, KvServer};
use super::wire::maintenance_server::{Maintenance, MaintenanceServer};
use super::wire::{PutRequest, PutResponse, ResponseHeader, StatusRequest, StatusResponse};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    id: u64,
    /// Peer addresses of members 1, 2 and 3.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<SocketAddr>,
    #[arg(long)]
    client_address: SocketAddr,
    #[arg(long)]
    directory: PathBuf,
    /// Threads that run tasks.
    #[arg(long, default_value_t = default_threads())]
    pub threads: usize,
}

/// As many as `trireme server` has.
pub fn default_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(1, 4)
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let member = |address: &SocketAddr| Member {
        peer_address: address.to_string(),
        ..Member::default()
    };
    let members = (1..).zip(options.peers.iter().map(member)).collect();
    let index = usize::try_from(options.id)?
        .checked_sub(1)
        .context("ids start at 1")?;
    let peer_address = options.peers.get(index).context("more ids than peers")?;
    // Plain TCP between members, as etcd has it in this comparison.
    let replica = Replica::open(ReplicaConfig {
        id: options.id,
        storage: Storage::Directory(options.directory),
        dial: Arc::new(TcpDial),
        // etcd's own defaults: on a machine that is busy with both systems, and with the clients of
        // both, ours would elect new leaders in the middle of a measurement.
        timing: Timing {
            heartbeat_ms: 100,
            election_min_ms: 1000,
            election_max_ms: 2000,
            ..Timing::default()
        },
        free_space: None,
    })
    .await?;
    let listener = tokio::net::TcpListener::bind(peer_address).await?;
    let stop = CancellationToken::new();
    let peers = tokio::spawn(serve_listener(replica.service(), listener, None, stop));
    if options.id == 1 {
        replica.initialize(members).await?;
    }
    let api = Api { replica };
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(KvServer::new(api.clone()))
        .add_service(MaintenanceServer::new(api))
        .serve(options.client_address)
        .await?;
    peers.await?;
    Ok(())
}

#[derive(Clone)]
struct Api {
    replica: Arc<Replica>,
}

impl Api {
    fn header(&self, revision: u64) -> ResponseHeader {
        ResponseHeader {
            member_id: self.replica.id(),
            revision: revision as i64,
            ..ResponseHeader::default()
        }
    }
}

#[tonic::async_trait]
impl Kv for Api {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let PutRequest { key, value } = request.into_inner();
        let success = vec![Operation::Put { key, value }];
        let command = Command::Txn(Txn {
            success,
            ..Txn::default()
        });
        match self.replica.propose(command).await {
            Ok(Reply::Txn(reply)) => {
                let header = Some(self.header(reply.revision));
                Ok(Response::new(PutResponse { header }))
            }
            Ok(other) => Err(Status::internal(format!("{other:?}"))),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

#[tonic::async_trait]
impl Maintenance for Api {
    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let status = self.replica.status();
        Ok(Response::new(StatusResponse {
            header: Some(self.header(status.revision)),
            version: env!("CARGO_PKG_VERSION").into(),
            leader: status.leader.unwrap_or(0),
        }))
    }
}
