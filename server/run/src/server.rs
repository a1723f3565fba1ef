//! A server from start to end.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trireme_api::{Api, ApiConfig, Limits};
use trireme_client::{Client, ClientConfig, JoinToken};
use trireme_proto::v1::Server;
use trireme_proto::v1::cluster_server::ClusterServer;
use trireme_proto::v1::mesh_server::MeshServer;
use trireme_raft::{Member, Replica, Timing};
use trireme_xds_server::{Ads, MeshSource, Registry};

use crate::authority::{Authority, Subject, certificates, private_key};
use crate::bootstrap::{bootstrap, issue_own};
use crate::cluster::ClusterService;
use crate::directory::{Directory, Identity, TOKEN_PUBLISHED};
use crate::join::join;
use crate::kubeconfig::kubeconfig;
use crate::mesh_service::MeshService;
use crate::peers::Peers;
use crate::{compaction, conditions, control, mesh, token};

/// Pause between attempts to join, to be made a member, or to do a leader's first duties.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a leader looks whether the membership has changed.
const MEMBERS_INTERVAL: Duration = Duration::from_secs(1);
/// NodePorts, as Kubernetes' default.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// Half of a certificate's year: older ones are issued anew at the start.
const RENEW_AFTER: Duration = Duration::from_secs(182 * 24 * 3600);
/// How long a stopping server waits to hand its leadership over.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How a server with an empty directory becomes part of a cluster.
#[derive(Clone, Debug)]
pub enum Start {
    /// It is the first.
    Bootstrap,
    /// By one of these servers (host:port), with this token.
    Join {
        servers: Vec<String>,
        token: JoinToken,
    },
    /// It is none yet and may not become one.
    Resume,
}

#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub data: PathBuf,
    pub name: String,
    /// The address that others reach this machine at.
    pub address: IpAddr,
    pub api_port: u16,
    pub peer_port: u16,
    pub start: Start,
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub cluster_domain: String,
    pub cluster_dns: String,
    pub timing: Timing,
    /// How long a revision stays readable: watches that were cut off and lists in pages go on within it.
    pub history: Duration,
}

/// This server's mesh, and whether something has changed that conditions of its objects depend on.
#[derive(Clone)]
struct Noticed {
    source: MeshSource,
    changes: tokio::sync::watch::Receiver<u64>,
}

/// Runs a server until `shutdown`.
pub async fn run(options: ServerOptions, shutdown: CancellationToken) -> Result<()> {
    // Another part of the process may have installed it already; it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = Directory::open(&options.data)?;
    let mut identity = identify(&directory, &options, &shutdown).await?;
    let authority = Arc::new(read_authority(&directory, "ca")?);
    let peer_authority = Arc::new(read_authority(&directory, "peer-ca")?);
    renew(&directory, &identity, &authority, &peer_authority)?;
    let serving = directory
        .credential("server")?
        .context("tls/server.pem is missing from the data directory")?;
    let client_tls = trireme_client::client_config(
        authority.certificate_pem(),
        Some((&serving.certificate_pem, &serving.key_pem)),
    )?;
    let listen_all = |port| SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let api_listener = bind(listen_all(port_of(&identity.api_address)?)).await?;
    let peer_listener = bind(listen_all(port_of(&identity.peer_address)?)).await?;

    // Peers and clients are served while leadership is handed over, and no longer.
    let ended = CancellationToken::new();
    let (replica, peer_server) = crate::replica::open(
        &directory,
        &identity,
        options.timing.clone(),
        peer_listener,
        ended.clone(),
    )
    .await?;
    let service_account_key_pem = directory
        .read("tls/service-account-key.pem")?
        .context("tls/service-account-key.pem is missing from the data directory")?;
    let cluster = ClusterService {
        directory: directory.clone(),
        identity: identity.clone(),
        replica: replica.clone(),
        authority: authority.clone(),
        peer_authority: peer_authority.clone(),
        service_account_key_pem: service_account_key_pem.clone(),
        peers: Peers::new(client_tls.clone()),
    };
    let members = MeshSource::new();
    let registry = Registry::new();
    let mesh_service = MeshService {
        name: identity.name.clone(),
        replica: replica.clone(),
        registry: registry.clone(),
        source: members.clone(),
        peers: Peers::new(client_tls.clone()),
    };
    let ads = Ads::new(
        &identity.name,
        Arc::new(members.clone()),
        mesh::admit(members.clone()),
        registry,
        ended.clone(),
    );
    let services = tonic::service::Routes::new(ClusterServer::new(cluster))
        .add_service(MeshServer::new(mesh_service))
        .add_service(ads.into_service());
    let api = Api::new(ApiConfig {
        replica: replica.clone(),
        service_cidr: identity.service_cidr.clone(),
        node_port_range: NODE_PORTS,
        cluster_domain: identity.cluster_domain.clone(),
        node_tls: Arc::new(node_tls(client_tls.clone())),
        service_account_key_pem,
        server_addresses: vec![],
        mesh_gateways: true,
        extra_grpc: Some(services),
        open_grpc_methods: vec!["/trireme.v1.Cluster/Join".to_owned()],
        limits: Limits::default(),
    })?;
    let tls = serving_tls(&serving, authority.certificate_pem())?;
    let api_server = tokio::spawn(trireme_api::serve(
        api_listener,
        Arc::new(tls),
        api.clone(),
        ended.clone(),
    ));
    let (changed, changes) = tokio::sync::watch::channel(0);
    let noticed = Noticed {
        source: members.clone(),
        changes,
    };
    let following = tokio::spawn(mesh::follow(
        replica.clone(),
        members,
        changed,
        ended.clone(),
    ));
    let compacting = tokio::spawn(compaction::run(
        replica.clone(),
        options.history,
        ended.clone(),
    ));
    tracing::info!(
        name = identity.name,
        id = identity.id,
        api = identity.api_address,
        "serving"
    );

    become_member(&directory, &mut identity, &replica, &client_tls, &shutdown).await?;
    if identity.bootstrap {
        write_kubeconfig(&directory, &identity, &authority)?;
    }
    let failure = tokio::select! {
        () = lead_when_leader(
            &directory, &identity, &replica, &api, &authority, &client_tls, &noticed, &shutdown,
        ) => None,
        failure = replica.failed() => Some(failure),
    };
    if let Some(failure) = failure {
        // A replica whose store has failed must not go on; whoever supervises starts it again.
        bail!("the store has failed: {failure}");
    }
    hand_over(&replica).await;
    ended.cancel();
    // A panic in a server task has been reported by the panic hook; here everything ends anyway.
    let _ = api_server.await;
    let _ = compacting.await;
    let _ = following.await;
    replica.shutdown().await;
    let _ = peer_server.await;
    tracing::info!("stopped");
    Ok(())
}

/// The identity in the directory, or a new one by bootstrap or joining.
async fn identify(
    directory: &Directory,
    options: &ServerOptions,
    shutdown: &CancellationToken,
) -> Result<Identity> {
    if let Some(identity) = directory.identity()? {
        if identity.name != options.name && !options.name.is_empty() {
            bail!(
                "{} belongs to server {:?}; it cannot become {:?} (use another --data)",
                options.data.display(),
                identity.name,
                options.name
            );
        }
        return Ok(identity);
    }
    let fresh = Identity {
        id: 1,
        name: options.name.clone(),
        api_address: SocketAddr::new(options.address, options.api_port).to_string(),
        peer_address: SocketAddr::new(options.address, options.peer_port).to_string(),
        cluster_cidr: options.cluster_cidr.clone(),
        service_cidr: options.service_cidr.clone(),
        cluster_domain: options.cluster_domain.clone(),
        cluster_dns: options.cluster_dns.clone(),
        bootstrap: matches!(options.start, Start::Bootstrap),
        member: false,
        others: Vec::new(),
    };
    match &options.start {
        Start::Bootstrap => {
            bootstrap(directory, &fresh)?;
            Ok(fresh)
        }
        Start::Join { servers, token } => {
            let mut pause = RETRY_PAUSE;
            loop {
                match join(directory, fresh.clone(), servers, token).await {
                    Ok(identity) => return Ok(identity),
                    Err(error) if error.is_transient() => {
                        tracing::warn!(%error, "not joined yet");
                    }
                    Err(error) => return Err(error.into()),
                }
                wait(&mut pause, shutdown).await?;
            }
        }
        Start::Resume => bail!(
            "{} holds no server yet: begin a cluster with --bootstrap, or enter one with --join HOST:PORT --token TOKEN",
            options.data.display()
        ),
    }
}

/// Until the Raft group counts this server: the first makes the group, others ask to be added.
async fn become_member(
    directory: &Directory,
    identity: &mut Identity,
    replica: &Arc<Replica>,
    tls: &rustls::ClientConfig,
    shutdown: &CancellationToken,
) -> Result<()> {
    if identity.member {
        return Ok(());
    }
    let member = Member {
        name: identity.name.clone(),
        peer_address: identity.peer_address.clone(),
        api_address: identity.api_address.clone(),
    };
    if identity.bootstrap {
        if replica.status().members.is_empty() {
            replica
                .initialize(BTreeMap::from([(identity.id, member)]))
                .await?;
        }
    } else {
        let client = Client::new(ClientConfig::new(
            identity.others.clone(),
            tls.clone(),
            "trireme-server",
        ))?;
        let mut pause = RETRY_PAUSE;
        loop {
            let server = Server {
                id: identity.id,
                name: identity.name.clone(),
                api_address: identity.api_address.clone(),
                peer_address: identity.peer_address.clone(),
            };
            match client.add_server(server).await {
                Ok(_) => break,
                Err(error) => tracing::warn!(%error, "not a member yet"),
            }
            wait(&mut pause, shutdown).await?;
        }
    }
    identity.member = true;
    directory.write_identity(identity)?;
    Ok(())
}

/// Starts a leader's duties when this server becomes the leader and ends them when it no longer is.
async fn lead_when_leader(
    directory: &Directory,
    identity: &Identity,
    replica: &Arc<Replica>,
    api: &Arc<Api>,
    authority: &Authority,
    tls: &rustls::ClientConfig,
    noticed: &Noticed,
    shutdown: &CancellationToken,
) {
    let mut leadership = replica.leadership();
    let mut leading: Option<(u64, CancellationToken, JoinHandle<()>)> = None;
    loop {
        let now = *leadership.borrow_and_update();
        let same_term = leading
            .as_ref()
            .is_some_and(|(term, ..)| now.is_leader && *term == now.term);
        if !same_term && let Some((_, ended, duties)) = leading.take() {
            ended.cancel();
            // Its panics were reported by the panic hook.
            let _ = duties.await;
        }
        if now.is_leader && leading.is_none() {
            tracing::info!(term = now.term, "leading");
            let ended = shutdown.child_token();
            let duties = tokio::spawn(lead(
                replica.clone(),
                api.clone(),
                identity.clone(),
                directory.clone(),
                authority.certificate_pem().to_owned(),
                tls.clone(),
                noticed.clone(),
                ended.clone(),
            ));
            leading = Some((now.term, ended, duties));
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { break },
            () = shutdown.cancelled() => break,
        }
    }
    if let Some((_, ended, duties)) = leading {
        ended.cancel();
        let _ = duties.await;
    }
}

/// A leader's duties: what every cluster has, then controllers, published addresses.
async fn lead(
    replica: Arc<Replica>,
    api: Arc<Api>,
    identity: Identity,
    directory: Directory,
    ca_pem: String,
    tls: rustls::ClientConfig,
    noticed: Noticed,
    ended: CancellationToken,
) {
    let own = format!(
        "127.0.0.1:{}",
        port_of(&identity.api_address).unwrap_or(6443)
    );
    // Through this server's own API, like any client (I1).
    let client = match Client::new(ClientConfig::new(vec![own], tls, "trireme")) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "the leader's own client");
            return;
        }
    };
    let mut pause = RETRY_PAUSE;
    loop {
        match api.ensure_bootstrap().await {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, "the first objects are not written yet"),
        }
        if wait(&mut pause, &ended).await.is_err() {
            return;
        }
    }
    let (recorder, writer) = trireme_client::events(client.clone(), &identity.name);
    let configuration = trireme_decide::Configuration {
        ca_pem,
        cluster_cidr: identity.cluster_cidr.clone(),
        ..trireme_decide::Configuration::default()
    };
    let writing = ended.clone();
    tokio::join!(
        writing.run_until_cancelled(writer.run()),
        conditions::run(
            client.clone(),
            recorder.clone(),
            noticed.source,
            noticed.changes,
            ended.clone(),
        ),
        control::run(client.clone(), recorder, configuration, ended.clone()),
        publish(replica, api, ended.clone()),
        keep_first_token(client, directory, ended),
    );
}

/// The endpoints of Service `kubernetes` follow the membership.
async fn publish(replica: Arc<Replica>, api: Arc<Api>, ended: CancellationToken) {
    let mut published = Vec::new();
    loop {
        let status = replica.status();
        let addresses: Vec<SocketAddr> = status
            .voters
            .iter()
            .filter_map(|id| status.members.get(id)?.api_address.parse().ok())
            .collect();
        if addresses != published {
            match api.publish_servers(&addresses).await {
                Ok(()) => published = addresses,
                Err(error) => tracing::warn!(%error, "publishing the servers' addresses"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(MEMBERS_INTERVAL) => {}
            () = ended.cancelled() => return,
        }
    }
}

/// Makes the first token known to all servers, once: after that, deleting its Secret revokes it.
async fn keep_first_token(client: Client, directory: Directory, ended: CancellationToken) {
    let token = match (directory.read(TOKEN_PUBLISHED), directory.read("token")) {
        (Ok(None), Ok(Some(text))) => text.parse::<JoinToken>(),
        _ => return,
    };
    let Ok(token) = token else {
        tracing::error!("DIR/token is damaged; nobody can join with it");
        return;
    };
    let object = token::object(token::FIRST_NAME, &token, "made when the cluster began");
    let mut pause = RETRY_PAUSE;
    loop {
        let made = client
            .create(trireme_model::kinds::SECRET, token::NAMESPACE, &object)
            .await;
        match made {
            Ok(_) => break,
            Err(error) if error.is_already_exists() => break,
            Err(error) => tracing::warn!(%error, "publishing the join token"),
        }
        if wait(&mut pause, &ended).await.is_err() {
            return;
        }
    }
    if let Err(error) = directory.write(TOKEN_PUBLISHED, "") {
        tracing::warn!(%error, "noting that the token was published");
    }
}

/// A stopping leader hands over, so that the cluster need not notice its absence first.
async fn hand_over(replica: &Replica) {
    let status = replica.status();
    if status.leader != Some(status.id) {
        return;
    }
    let best = status
        .voters
        .iter()
        .filter(|id| **id != status.id)
        .max_by_key(|id| status.matched.get(id).copied().unwrap_or(0));
    let Some(to) = best.copied() else { return };
    match tokio::time::timeout(HANDOVER_TIMEOUT, replica.transfer_leader(to)).await {
        Ok(Ok(())) => tracing::info!(to, "leadership handed over"),
        Ok(Err(error)) => tracing::warn!(%error, "leadership was not handed over"),
        Err(_) => tracing::warn!("leadership was not handed over in time"),
    }
}

fn write_kubeconfig(
    directory: &Directory,
    identity: &Identity,
    authority: &Authority,
) -> Result<()> {
    let admin = match directory.credential("admin")? {
        Some(admin) => admin,
        None => {
            let admin = authority.issue(&Subject {
                common_name: "kubernetes-admin".to_owned(),
                organization: Some("system:masters".to_owned()),
                addresses: vec![],
            })?;
            directory.write_credential("admin", &admin)?;
            admin
        }
    };
    let text = kubeconfig(&identity.api_address, authority.certificate_pem(), &admin);
    directory.write("kubeconfig", &text)?;
    Ok(())
}

fn read_authority(directory: &Directory, name: &str) -> Result<Authority> {
    let credential = directory
        .credential(name)?
        .with_context(|| format!("tls/{name}.pem is missing from the data directory"))?;
    Ok(Authority::from_pem(
        &credential.certificate_pem,
        &credential.key_pem,
    )?)
}

/// Issues this server's certificates anew when half of their life has passed.
fn renew(
    directory: &Directory,
    identity: &Identity,
    authority: &Authority,
    peer_authority: &Authority,
) -> Result<()> {
    let modified = std::fs::metadata(directory.path("tls/server.pem"))
        .and_then(|metadata| metadata.modified())
        .context("reading the age of tls/server.pem")?;
    let age = modified.elapsed().unwrap_or_default();
    if age > RENEW_AFTER {
        tracing::info!(age_days = age.as_secs() / 86400, "renewing certificates");
        issue_own(directory, identity, authority, peer_authority)?;
    }
    Ok(())
}

fn serving_tls(
    credential: &crate::authority::Credential,
    client_ca_pem: &str,
) -> Result<rustls::ServerConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(client_ca_pem)? {
        roots.add(certificate)?;
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()?;
    let mut tls = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&credential.certificate_pem)?,
            private_key(&credential.key_pem)?,
        )?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Streams to nodes are upgraded HTTP/1.1 connections.
fn node_tls(mut tls: rustls::ClientConfig) -> rustls::ClientConfig {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening at port {} (is it in use?)", address.port()))
}

fn port_of(address: &str) -> Result<u16> {
    address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .with_context(|| format!("{address:?} is not host:port"))
}

async fn wait(pause: &mut Duration, shutdown: &CancellationToken) -> Result<()> {
    let now = *pause;
    *pause = (now * 2).min(RETRY_PAUSE_MAX);
    tokio::select! {
        () = tokio::time::sleep(now) => Ok(()),
        () = shutdown.cancelled() => bail!("stopped before it was part of a cluster"),
    }
}
