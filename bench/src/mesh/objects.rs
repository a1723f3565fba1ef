//! The cluster's objects: services with ten endpoints each, who may see which, and the route that changes.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use trireme_client::{Client, DeleteOptions, Error, PatchType};
use trireme_model::kinds::{self, Kind};

use super::PATIENCE;

/// Of the services, and of the workloads that call five of them.
pub const NAMESPACE: &str = "shop";
/// Of workloads that are told everything.
pub const WIDE_NAMESPACE: &str = "wide";
/// Services that a workload calls.
pub const CALLED: usize = 5;
const ENDPOINTS: usize = 10;
/// The upstream's port, on every address.
pub const UPSTREAM_PORT: u16 = 8080;
/// Where the route that changes says its number.
pub const GENERATION: &str = "x-generation";
/// Objects that are made at a time.
const CREATES: usize = 32;
const ISTIO: &str = "networking.istio.io/v1";

pub struct Objects {
    client: Client,
    count: usize,
    /// The addresses of the services that are called.
    called: Vec<String>,
    generation: u64,
    endpoint: u32,
}

/// A service's slice of endpoints.
#[derive(Clone, Copy)]
pub enum Slice {
    /// That the workloads call.
    Called,
    /// That none calls.
    Uncalled,
}

impl Slice {
    fn service(self) -> usize {
        match self {
            Slice::Called => 1,
            Slice::Uncalled => CALLED,
        }
    }
}

fn kind(api_version: &str, name: &str) -> anyhow::Result<&'static Kind> {
    kinds::find_kind(api_version, name).with_context(|| format!("no kind {name}"))
}

fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{number}"), "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": UPSTREAM_PORT, "protocol": "TCP"}]},
    })
}

/// Of service `number`, in 10.96.0.0/11; the last octet of the first endpoint changes.
fn address(number: usize, host: usize) -> String {
    format!("10.{}.{}.{host}", 96 + number / 250, number % 250)
}

fn slice(number: usize) -> Value {
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|host| {
            json!({
                "addresses": [address(number, host + 1)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("s{number}-1"), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": format!("s{number}")},
        },
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": UPSTREAM_PORT, "protocol": "TCP"}],
    })
}

fn sidecar() -> Value {
    let hosts: Vec<String> = (0..CALLED)
        .map(|number| format!("./s{number}.{NAMESPACE}.svc.cluster.local"))
        .collect();
    json!({
        "apiVersion": ISTIO, "kind": "Sidecar",
        "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {"egress": [{"hosts": hosts}]},
    })
}

/// Answers requests for the first service with the number of the change. No upstream is asked: what a hundred proxies
/// spend on being asked is time that the change does not get.
fn virtual_service(generation: u64) -> Value {
    json!({
        "apiVersion": ISTIO, "kind": "VirtualService",
        "metadata": {"name": "s0", "namespace": NAMESPACE},
        "spec": {
            "hosts": ["s0"],
            "http": [{
                "headers": {"response": {"set": {GENERATION: generation.to_string()}}},
                "directResponse": {"status": 200, "body": {"string": "answered by the proxy"}},
            }],
        },
    })
}

/// Worth another try: this machine's cores are busy with a hundred proxies, and a server may be slow to answer.
fn is_passing(error: &Error) -> bool {
    let late = error.status().is_some_and(|status| status.code == 504);
    error.is_transient() || late || matches!(error, Error::Lost { .. })
}

impl Objects {
    pub fn new(client: Client) -> Objects {
        Objects {
            client,
            count: 0,
            called: Vec::new(),
            generation: 0,
            endpoint: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The addresses of the services that are called; the first one's route changes.
    pub fn called(&self) -> &[String] {
        &self.called
    }

    pub async fn prepare(&self) -> anyhow::Result<()> {
        for name in [NAMESPACE, WIDE_NAMESPACE] {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.client
                .create(kind("v1", "Namespace")?, "", &object)
                .await?;
        }
        self.make_sidecar().await?;
        self.client
            .create(
                kind(ISTIO, "VirtualService")?,
                NAMESPACE,
                &virtual_service(0),
            )
            .await?;
        Ok(())
    }

    /// Makes services until there are `count`.
    pub async fn grow(&mut self, count: usize) -> anyhow::Result<()> {
        let (services, slices) = (
            kind("v1", "Service")?,
            kind("discovery.k8s.io/v1", "EndpointSlice")?,
        );
        let mut creating = JoinSet::new();
        for number in self.count..count {
            while creating.len() >= CREATES
                && let Some(done) = creating.join_next().await
            {
                self.created(done??)?;
            }
            let client = self.client.clone();
            creating.spawn(async move {
                let made = client.create(services, NAMESPACE, &service(number)).await?;
                client.create(slices, NAMESPACE, &slice(number)).await?;
                anyhow::Ok((number, made))
            });
        }
        while let Some(done) = creating.join_next().await {
            self.created(done??)?;
        }
        self.count = self.count.max(count);
        Ok(())
    }

    fn created(&mut self, (number, service): (usize, Value)) -> anyhow::Result<()> {
        if number < CALLED {
            let address = service["spec"]["clusterIP"].as_str();
            let address = address.context("a service without an address")?.to_owned();
            self.called
                .resize(self.called.len().max(number + 1), String::new());
            self.called[number] = address;
        }
        Ok(())
    }

    /// Has workloads told of the services that they call, and no others.
    pub async fn make_sidecar(&self) -> anyhow::Result<()> {
        let kind = kind(ISTIO, "Sidecar")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.client.create(kind, NAMESPACE, &sidecar()).await {
                Err(error) if is_passing(&error) && Instant::now() < deadline => {}
                Err(error) if error.is_already_exists() => return Ok(()),
                done => return done.map(drop).map_err(Into::into),
            }
        }
    }

    /// Has workloads told of everything.
    pub async fn remove_sidecar(&self) -> anyhow::Result<()> {
        let kind = kind(ISTIO, "Sidecar")?;
        let options = DeleteOptions::default();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let deleting = self.client.delete(kind, NAMESPACE, "default", &options);
            match deleting.await {
                Err(error) if is_passing(&error) && Instant::now() < deadline => {}
                Err(error) if error.is_not_found() => return Ok(()),
                done => return done.map(drop).map_err(Into::into),
            }
        }
    }

    /// The number of the next change of the route.
    pub fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Changes the route. Where the answer is lost it is written again: the same change, which counts once.
    pub async fn change_route(&self, generation: u64) -> anyhow::Result<()> {
        let patch = json!({"spec": virtual_service(generation)["spec"]});
        let kind = kind(ISTIO, "VirtualService")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let patching = self
                .client
                .patch(kind, NAMESPACE, "s0", "", PatchType::Merge, &patch);
            match patching.await {
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    eprintln!("bench: {error}; writing it again");
                }
                done => return done.map(drop).map_err(Into::into),
            }
        }
    }

    /// Moves one endpoint of a slice to another address.
    pub async fn change_endpoint(&mut self, of: Slice) -> anyhow::Result<()> {
        self.endpoint += 1;
        let number = of.service();
        // Addresses that no other endpoint has, each time another.
        let host = 20 + usize::try_from(self.endpoint % 200)?;
        let patch = json!([{
            "op": "replace", "path": "/endpoints/0/addresses/0", "value": address(number, host),
        }]);
        let slice = format!("s{number}-1");
        let answer = self
            .client
            .patch(
                kind("discovery.k8s.io/v1", "EndpointSlice")?,
                NAMESPACE,
                &slice,
                "",
                PatchType::Json,
                &patch,
            )
            .await?;
        ensure!(
            answer["endpoints"][0]["addresses"][0] == address(number, host),
            "the endpoint did not change"
        );
        Ok(())
    }
}
