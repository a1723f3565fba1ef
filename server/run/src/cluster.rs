//! `trireme.v1.Cluster`: how machines join, how servers become members, and who is well.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use trireme_api::Identity;
use trireme_client::JoinToken;
use trireme_proto::v1::cluster_server::Cluster;
use trireme_proto::v1::{
    AddServerReply, AddServerRequest, JoinReply, JoinRequest, RemoveServerReply,
    RemoveServerRequest, Server, ServerStatus, StatusReply, StatusRequest, join_request,
};
use trireme_raft::{Member, MembershipError, Replica};

use crate::authority::{Authority, Subject};
use crate::directory::{Directory, Identity as ServerIdentity, TOKEN_PUBLISHED};
use crate::peers::Peers;
use crate::token as tokens;

/// How long one server waits for another's word on its health.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1500);
/// Learners that have not caught up in this time are left as learners, to be asked for again.
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(60);
/// Entries that a healthy follower may lag behind the leader.
const HEALTHY_LAG_ENTRIES: u64 = 1000;

/// What every server of the cluster knows and hands to those that join.
pub struct ClusterService {
    pub directory: Directory,
    pub identity: ServerIdentity,
    pub replica: Arc<Replica>,
    pub authority: Arc<Authority>,
    pub peer_authority: Arc<Authority>,
    pub service_account_key_pem: String,
    pub peers: Peers,
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let token: JoinToken = request
            .token
            .parse()
            .map_err(|error| Status::unauthenticated(format!("{error}")))?;
        self.replica
            .read_barrier()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let valid = tokens::is_valid(&self.replica, &token)
            .map_err(|error| Status::internal(error.to_string()))?;
        if !valid && self.awaits_publication(&token) {
            return Err(Status::unavailable(
                "the cluster has just begun and has not published its token yet; try again",
            ));
        }
        if !valid {
            return Err(Status::unauthenticated(
                "this cluster does not know the token (revoked, or of another cluster); `trireme token` on a server prints a valid one",
            ));
        }
        check_name(&request.name)?;
        let sign = |authority: &Authority, pem: &str, subject: &Subject| {
            authority
                .sign(pem, subject)
                .map_err(|error| Status::invalid_argument(format!("certificate request: {error}")))
        };
        let mut reply = JoinReply {
            ca_pem: self.authority.certificate_pem().to_owned(),
            servers: self.servers(),
            service_cidr: self.identity.service_cidr.clone(),
            cluster_cidr: self.identity.cluster_cidr.clone(),
            cluster_domain: self.identity.cluster_domain.clone(),
            cluster_dns: self.identity.cluster_dns.clone(),
            ..JoinReply::default()
        };
        match request.role() {
            join_request::Role::Node => {
                let subject = Subject {
                    common_name: format!("system:node:{}", request.name),
                    organization: Some("system:nodes".to_owned()),
                    addresses: addresses(&request),
                };
                reply.certificate_pem =
                    sign(&self.authority, &request.certificate_request_pem, &subject)?;
            }
            join_request::Role::Server => {
                let subject = Subject {
                    common_name: format!("system:server:{}", request.name),
                    organization: Some("system:masters".to_owned()),
                    addresses: serving_addresses(&self.identity, &addresses(&request)),
                };
                reply.certificate_pem =
                    sign(&self.authority, &request.certificate_request_pem, &subject)?;
                let peer = Subject {
                    common_name: request.name.clone(),
                    organization: None,
                    addresses: addresses(&request),
                };
                reply.peer_certificate_pem = sign(
                    &self.peer_authority,
                    &request.peer_certificate_request_pem,
                    &peer,
                )?;
                reply.peer_ca_pem = self.peer_authority.certificate_pem().to_owned();
                reply.ca_key_pem = self.authority.key_pem().to_owned();
                reply.peer_ca_key_pem = self.peer_authority.key_pem().to_owned();
                reply.service_account_key_pem = self.service_account_key_pem.clone();
                // A server that was wiped comes back under another id (a wiped voter that keeps
                // its id has forgotten its votes). 48 bits: read well, do not collide.
                reply.server_id = rand::random::<u64>() >> 16 | 1;
            }
            join_request::Role::Unspecified => {
                return Err(Status::invalid_argument("role is neither SERVER nor NODE"));
            }
        }
        tracing::info!(name = request.name, role = ?request.role(), "joined");
        Ok(Response::new(reply))
    }

    async fn add_server(
        &self,
        request: Request<AddServerRequest>,
    ) -> Result<Response<AddServerReply>, Status> {
        authorize(&request)?;
        let Some(server) = request.into_inner().server else {
            return Err(Status::invalid_argument("server is missing"));
        };
        if let Some(leader) = self.other_leader()? {
            let reply = self.peers.add_server(&leader, server).await?;
            return Ok(Response::new(reply));
        }
        self.replace_namesake(&server).await?;
        let member = Member {
            name: server.name.clone(),
            peer_address: server.peer_address.clone(),
            api_address: server.api_address.clone(),
        };
        let status = self.replica.status();
        if !status.members.contains_key(&server.id) {
            self.replica
                .add_learner(server.id, member)
                .await
                .map_err(membership)?;
        }
        if !self.replica.status().voters.contains(&server.id) {
            tokio::time::timeout(PROMOTE_TIMEOUT, self.replica.promote(server.id))
                .await
                .map_err(|_| {
                    Status::deadline_exceeded(format!(
                        "server {} is a learner that has not caught up within {} s; it is not a voter yet",
                        server.name,
                        PROMOTE_TIMEOUT.as_secs()
                    ))
                })?
                .map_err(membership)?;
        }
        Ok(Response::new(AddServerReply {
            servers: self.servers(),
        }))
    }

    async fn remove_server(
        &self,
        request: Request<RemoveServerRequest>,
    ) -> Result<Response<RemoveServerReply>, Status> {
        authorize(&request)?;
        let id = request.into_inner().id;
        if let Some(leader) = self.other_leader()? {
            let reply = self.peers.remove_server(&leader, id).await?;
            return Ok(Response::new(reply));
        }
        if !self.replica.status().members.contains_key(&id) {
            return Err(Status::not_found(format!("no server has the id {id}")));
        }
        self.replica.remove(id).await.map_err(membership)?;
        Ok(Response::new(RemoveServerReply {
            servers: self.servers(),
        }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusReply>, Status> {
        authorize(&request)?;
        let only_this = request.into_inner().only_this_server;
        let status = self.replica.status();
        let own = self.own_status();
        let mut servers = vec![];
        if only_this {
            servers.push(own);
        } else {
            let asked = status
                .members
                .iter()
                .filter(|(id, _)| **id != status.id)
                .map(|(id, member)| async move {
                    let asked = self.peers.status(&member.api_address);
                    match tokio::time::timeout(STATUS_TIMEOUT, asked).await {
                        Ok(Ok(status)) => status,
                        Ok(Err(error)) => unreachable_server(*id, member, error.message()),
                        Err(_) => unreachable_server(*id, member, "no answer"),
                    }
                });
            servers.extend(futures_util::future::join_all(asked).await);
            servers.push(own);
            servers.sort_by(|one, other| name(one).cmp(name(other)));
            let newest = servers.iter().map(|server| server.applied_index).max();
            for server in &mut servers {
                let lag = newest.unwrap_or(0).saturating_sub(server.applied_index);
                if server.healthy && lag > HEALTHY_LAG_ENTRIES {
                    server.healthy = false;
                    server.message = format!("{lag} entries behind");
                }
            }
        }
        Ok(Response::new(StatusReply {
            servers,
            answered_by: status.id,
        }))
    }
}

impl ClusterService {
    /// The token of this server's own directory, which its leader's duties have yet to publish.
    fn awaits_publication(&self, token: &JoinToken) -> bool {
        let own = self.directory.read("token").ok().flatten();
        let published = self.directory.read(TOKEN_PUBLISHED).ok().flatten();
        published.is_none() && own.and_then(|own| own.parse().ok()).as_ref() == Some(token)
    }

    fn servers(&self) -> Vec<Server> {
        let members = self.replica.status().members;
        members
            .iter()
            .map(|(id, member)| wire(*id, member))
            .collect()
    }

    fn own_status(&self) -> ServerStatus {
        let status = self.replica.status();
        let member = status.members.get(&status.id);
        let server = member.map_or_else(
            || Server {
                id: status.id,
                name: self.identity.name.clone(),
                api_address: self.identity.api_address.clone(),
                peer_address: self.identity.peer_address.clone(),
            },
            |member| wire(status.id, member),
        );
        let message = if status.disk_full {
            "the disk is full: writes are refused until space is freed"
        } else if status.leader.is_none() {
            "no leader is known"
        } else {
            ""
        };
        ServerStatus {
            server: Some(server),
            role: status.role.as_str().to_owned(),
            term: status.term,
            applied_index: status.applied_index,
            last_log_index: status.last_log_index,
            revision: status.revision,
            healthy: message.is_empty(),
            message: message.to_owned(),
            pid: std::process::id(),
        }
    }

    /// The leader's API address when it is another server; `None` when it is this one.
    fn other_leader(&self) -> Result<Option<String>, Status> {
        let status = self.replica.status();
        let Some(leader) = status.leader else {
            return Err(Status::unavailable("no leader is known; try again"));
        };
        if leader == status.id {
            return Ok(None);
        }
        let member = status.members.get(&leader).ok_or_else(|| {
            Status::unavailable(format!(
                "the leader {leader} is not a known member; try again"
            ))
        })?;
        Ok(Some(member.api_address.clone()))
    }

    /// A server that comes back with an empty disk keeps its name and address but has a new id:
    /// the old one leaves the membership first. A name at another address is somebody else's.
    async fn replace_namesake(&self, server: &Server) -> Result<(), Status> {
        let status = self.replica.status();
        for (id, member) in &status.members {
            if *id == server.id || member.name != server.name {
                continue;
            }
            if member.peer_address != server.peer_address {
                return Err(Status::already_exists(format!(
                    "a server named {} exists at {}; choose another name, or remove it first with `trireme member remove {}`",
                    server.name, member.peer_address, server.name
                )));
            }
            self.replica.remove(*id).await.map_err(membership)?;
        }
        Ok(())
    }
}

/// The names and addresses that clients know an API server by.
pub fn serving_addresses(identity: &ServerIdentity, own: &[String]) -> Vec<String> {
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{}", identity.cluster_domain),
    ];
    names.extend(first_address(&identity.service_cidr));
    names.extend(own.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// The address of Service `kubernetes`: the first of the range.
fn first_address(cidr: &str) -> Option<String> {
    let base: std::net::Ipv4Addr = cidr.split('/').next()?.parse().ok()?;
    Some(std::net::Ipv4Addr::from(u32::from(base).checked_add(1)?).to_string())
}

fn wire(id: u64, member: &Member) -> Server {
    Server {
        id,
        name: member.name.clone(),
        api_address: member.api_address.clone(),
        peer_address: member.peer_address.clone(),
    }
}

fn unreachable_server(id: u64, member: &Member, why: &str) -> ServerStatus {
    ServerStatus {
        server: Some(wire(id, member)),
        role: "follower".to_owned(),
        healthy: false,
        message: format!("unreachable: {why}"),
        ..ServerStatus::default()
    }
}

fn name(status: &ServerStatus) -> &str {
    status.server.as_ref().map_or("", |server| &server.name)
}

fn addresses(request: &JoinRequest) -> Vec<String> {
    let mut addresses = request.addresses.clone();
    addresses.push(request.name.clone());
    addresses
}

/// Names become certificate subjects and object names: a DNS-1123 subdomain.
fn check_name(name: &str) -> Result<(), Status> {
    let valid = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)
        })
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.ends_with(|last: char| last.is_ascii_alphanumeric());
    if valid {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "name {name:?} must be at most 63 lower case letters, digits, '-' or '.', and begin and end with a letter or digit"
    )))
}

/// Membership is for cluster administrators and for the servers themselves.
fn authorize<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<Identity>() {
        Some(identity) if identity.is_master() => Ok(()),
        Some(identity) => Err(Status::permission_denied(format!(
            "user {:?} may not manage servers; members of system:masters may",
            identity.user
        ))),
        None => Err(Status::unauthenticated("a client certificate is needed")),
    }
}

fn membership(error: MembershipError) -> Status {
    match error {
        MembershipError::NotLeader { .. } | MembershipError::Stopped(_) => {
            Status::unavailable(error.to_string())
        }
        MembershipError::Unfinished(_) => Status::deadline_exceeded(error.to_string()),
        MembershipError::Initialized | MembershipError::Refused(_) => {
            Status::failed_precondition(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_service_address_is_one_past_the_range() {
        assert_eq!(first_address("10.43.0.0/16").as_deref(), Some("10.43.0.1"));
        assert_eq!(first_address("nonsense"), None);
    }

    #[test]
    fn names_are_dns_names() {
        assert!(check_name("node-1.rack").is_ok());
        for wrong in ["", "-a", "a-", "A", "a b", "a/b", &"a".repeat(64)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
