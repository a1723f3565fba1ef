//! `trireme.v1.Mesh`: what workloads have acknowledged, over all servers, and explanations.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tonic::{Request, Response, Status};
use trireme_api::Identity;
use trireme_proto::v1::mesh_server::Mesh;
use trireme_proto::v1::{
    ExplainRouteReply, ExplainRouteRequest, MeshKind, MeshServer, MeshStatusReply,
    MeshStatusRequest, MeshWorkload,
};
use trireme_raft::Replica;
use trireme_xds_server::{MeshSource, Registry, WorkloadStatus};

use crate::peers::Peers;

/// How long one server waits for another's word on its workloads.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1500);

pub struct MeshService {
    /// This server's.
    pub name: String,
    pub replica: Arc<Replica>,
    pub registry: Arc<Registry>,
    pub source: MeshSource,
    pub peers: Peers,
}

#[tonic::async_trait]
impl Mesh for MeshService {
    async fn status(
        &self,
        request: Request<MeshStatusRequest>,
    ) -> Result<Response<MeshStatusReply>, Status> {
        authorize(&request)?;
        let mut reply = self.own();
        if !request.into_inner().only_this_server {
            let status = self.replica.status();
            let others = status.members.iter().filter(|(id, _)| **id != status.id);
            let asked = others.map(|(_, member)| async move {
                let asked = self.peers.mesh_status(&member.api_address);
                let failed = |why: String| MeshStatusReply {
                    servers: vec![MeshServer {
                        name: member.name.clone(),
                        message: why,
                    }],
                    workloads: Vec::new(),
                };
                match tokio::time::timeout(STATUS_TIMEOUT, asked).await {
                    Ok(Ok(reply)) => reply,
                    Ok(Err(error)) => failed(format!("unreachable: {}", error.message())),
                    Err(_) => failed("unreachable: no answer".to_owned()),
                }
            });
            for other in futures_util::future::join_all(asked).await {
                reply.servers.extend(other.servers);
                reply.workloads.extend(other.workloads);
            }
        }
        reply
            .servers
            .sort_by(|one, other| one.name.cmp(&other.name));
        let key = |workload: &MeshWorkload| (workload.node_id.clone(), workload.server.clone());
        reply.workloads.sort_by_key(key);
        Ok(Response::new(reply))
    }

    async fn explain_route(
        &self,
        request: Request<ExplainRouteRequest>,
    ) -> Result<Response<ExplainRouteReply>, Status> {
        authorize(&request)?;
        crate::explain::explain(&self.source, &request.into_inner()).map(Response::new)
    }
}

impl MeshService {
    fn own(&self) -> MeshStatusReply {
        let workloads = self.registry.workloads();
        MeshStatusReply {
            servers: vec![MeshServer {
                name: self.name.clone(),
                message: String::new(),
            }],
            workloads: workloads
                .into_iter()
                .map(|workload| wire(&self.name, workload))
                .collect(),
        }
    }
}

fn wire(server: &str, workload: WorkloadStatus) -> MeshWorkload {
    let connected = workload.connected.duration_since(UNIX_EPOCH);
    let kinds = workload.kinds.into_iter().map(|kind| MeshKind {
        service: kind.kind.service().to_owned(),
        state: kind.state.as_str().to_owned(),
        version: kind.version,
        sent_version: kind.sent_version,
        error: kind.error,
        resources: u32::try_from(kind.resources).unwrap_or(u32::MAX),
    });
    MeshWorkload {
        server: server.to_owned(),
        node_id: workload.node_id,
        protocol: workload.protocol.as_str().to_owned(),
        user_agent: workload.user_agent,
        connected_at: connected.map_or(0, |connected| connected.as_secs()),
        kinds: kinds.collect(),
    }
}

/// All workloads' routes and refusals are for cluster administrators and for the servers.
fn authorize<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<Identity>() {
        Some(identity) if identity.is_master() => Ok(()),
        Some(identity) => Err(Status::permission_denied(format!(
            "user {:?} may not see the whole mesh; members of system:masters may",
            identity.user
        ))),
        None => Err(Status::unauthenticated("a client certificate is needed")),
    }
}
