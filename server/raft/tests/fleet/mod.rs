//! Several replicas in one process, over loopback TLS, each with its own directory.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use trireme_raft::{
    Member, Replica, ReplicaConfig, ReplicaStatus, Storage, Timing, TlsDial, serve_listener,
};
use trireme_state::{Command, Compare, Operation, RangeRequest, Reply, Txn, TxnReply};

pub const LIMIT: Duration = Duration::from_secs(20);

pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    Command::Txn(Txn {
        success: vec![Operation::Put {
            key: key.into(),
            value: value.into(),
        }],
        ..Txn::default()
    })
}

pub fn create(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    let key = key.into();
    Command::Txn(Txn {
        compare: vec![Compare::ModRevision {
            key: key.clone(),
            equals: 0,
        }],
        success: vec![Operation::Put {
            key,
            value: value.into(),
        }],
        failure: vec![],
    })
}

pub fn txn(reply: Reply) -> TxnReply {
    match reply {
        Reply::Txn(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// The value of one key as a replica has it now.
pub fn value(replica: &Replica, key: &str) -> Option<Bytes> {
    let start = Bytes::copy_from_slice(key.as_bytes());
    let reply = replica
        .range(&RangeRequest {
            start,
            ..RangeRequest::default()
        })
        .unwrap();
    reply.kvs.into_iter().next().map(|kv| kv.value)
}

pub fn prefix(prefix: &str) -> RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    RangeRequest {
        start: Bytes::copy_from_slice(prefix.as_bytes()),
        end: end.into(),
        ..RangeRequest::default()
    }
}

/// Waits until a replica's status is as wanted.
pub async fn until(replica: &Replica, what: &str, wanted: impl Fn(&ReplicaStatus) -> bool) {
    let looking = async {
        while !wanted(&replica.status()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(LIMIT, looking).await.is_err() {
        panic!("{what}: {:?}", replica.status());
    }
}

pub struct Running {
    pub replica: Arc<Replica>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

pub struct Fleet {
    pub directory: TempDir,
    pub timing: Timing,
    pub members: BTreeMap<u64, Member>,
    pub running: BTreeMap<u64, Running>,
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
}

impl Fleet {
    pub fn new(timing: Timing) -> Fleet {
        let (client, server) = certificates();
        Fleet {
            directory: TempDir::new().unwrap(),
            timing,
            members: BTreeMap::new(),
            running: BTreeMap::new(),
            client,
            server,
        }
    }

    /// Three voters, with server 1 the first leader.
    pub async fn of_three(timing: Timing) -> Fleet {
        let mut fleet = Fleet::new(timing);
        fleet.form_three().await;
        fleet
    }

    pub async fn form_three(&mut self) {
        self.start(1).await;
        self.at(1)
            .initialize(BTreeMap::from([(1, self.members[&1].clone())]))
            .await
            .unwrap();
        until(self.at(1), "server 1 leads", |status| {
            status.leader == Some(1)
        })
        .await;
        for id in [2, 3] {
            self.start(id).await;
            self.at(1)
                .add_learner(id, self.members[&id].clone())
                .await
                .unwrap();
            self.at(1).promote(id).await.unwrap();
        }
    }

    pub fn path(&self, id: u64) -> PathBuf {
        self.directory.path().join(id.to_string())
    }

    pub fn at(&self, id: u64) -> &Arc<Replica> {
        &self.running[&id].replica
    }

    /// Starts a server; again under its old address.
    pub async fn start(&mut self, id: u64) {
        let address = self
            .members
            .get(&id)
            .map(|member| member.peer_address.clone());
        let listener = tokio::net::TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0"))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        self.members.entry(id).or_insert_with(|| Member {
            name: format!("s{id}"),
            peer_address: address.to_string(),
            api_address: String::new(),
        });
        let config = ReplicaConfig {
            id,
            storage: Storage::Directory(self.path(id)),
            dial: Arc::new(TlsDial::new(self.client.clone(), None)),
            timing: self.timing.clone(),
            free_space: None,
        };
        self.run(config, listener).await;
    }

    pub async fn run(&mut self, config: ReplicaConfig, listener: tokio::net::TcpListener) {
        let id = config.id;
        let replica = Replica::open(config).await.unwrap();
        let stop = CancellationToken::new();
        let tls = Some(self.server.clone());
        let serving = tokio::spawn(serve_listener(
            replica.service(),
            listener,
            tls,
            stop.clone(),
        ));
        self.running.insert(
            id,
            Running {
                replica,
                stop,
                serving,
            },
        );
    }

    /// Ends a server and everything that holds its store.
    pub async fn kill(&mut self, id: u64) {
        let running = self.running.remove(&id).unwrap();
        running.stop.cancel();
        running.replica.shutdown().await;
        running.serving.await.unwrap();
        let lock = self.path(id).join("db");
        drop(running.replica);
        // The store's lock is free once the last task of the replica is gone.
        let freed = async {
            while rocksdb_is_locked(&lock) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, freed)
            .await
            .expect("the store is closed");
    }

    pub async fn kill_all(&mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.kill(id).await;
        }
    }

    /// The leader that the given servers agree on.
    pub async fn leader(&self) -> u64 {
        let agreed = async {
            loop {
                let leaders: Vec<_> = self
                    .running
                    .values()
                    .map(|r| r.replica.status().leader)
                    .collect();
                if let Some(Some(leader)) = leaders.first()
                    && leaders.iter().all(|other| *other == Some(*leader))
                    && self.running.contains_key(leader)
                {
                    return *leader;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, agreed).await.expect("a leader")
    }

    /// All running servers have applied the same index and hold the same state.
    pub async fn converged(&self) {
        let converged = async {
            loop {
                let digests: Vec<_> = self
                    .running
                    .values()
                    .map(|r| r.replica.digest().unwrap())
                    .collect();
                if digests.windows(2).all(|pair| pair[0].0 == pair[1].0) {
                    assert!(
                        digests.windows(2).all(|pair| pair[0].1 == pair[1].1),
                        "{digests:?}"
                    );
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, converged)
            .await
            .expect("equal applied indexes");
    }
}

/// RocksDB takes a POSIX lock, which the same process cannot see; it also keeps its own list. So
/// ask it.
fn rocksdb_is_locked(path: &std::path::Path) -> bool {
    let options = rocksdb::Options::default();
    let Ok(names) = rocksdb::DB::list_cf(&options, path) else {
        return false;
    };
    match rocksdb::DB::open_cf(&options, path, names) {
        Ok(_) => false,
        Err(error) => error.as_ref().contains("lock"),
    }
}

fn certificates() -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let chain = vec![leaf.der().clone()];
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}
