//! What every cluster has from its first moment.

mod gateways;
mod roles;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use trireme_model::kinds::{self, Kind};
use trireme_model::meta;
use trireme_model::status::Status;

use crate::admission::namespace::PERMANENT;
use crate::api::Api;
use crate::identity::Identity;
use crate::params::WriteOptions;
use crate::route::Target;
use crate::verb::Caller;
use crate::verb::create::ensure as ensure_object;
use crate::verb::update::{UpdateRequest, update};

const API_SERVICE: &str = "kubernetes";
const API_NAMESPACE: &str = "default";
const API_PORT: u16 = 443;
/// Tries of an update of the API's endpoints that races with other servers'.
const MAX_ATTEMPTS: u32 = 5;

/// Namespaces first, since all else lies in them.
pub(crate) fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = PERMANENT
        .iter()
        .map(
            |name| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
        )
        .collect();
    objects.extend(roles::objects());
    objects.push(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": API_SERVICE,
            "namespace": API_NAMESPACE,
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "type": "ClusterIP",
            "ports": [{ "name": "https", "protocol": "TCP", "port": API_PORT, "targetPort": 6443 }],
        },
    }));
    objects
}

pub(crate) async fn ensure(api: &Arc<Api>) -> Result<(), Status> {
    let identity = Identity::server();
    let caller = Caller {
        api,
        identity: &identity,
    };
    let mut all = objects();
    if api.config.mesh_gateways {
        all.extend(gateways::objects(
            api.service_network.api_address(),
            &api.config.cluster_domain,
        ));
    }
    for mut object in all {
        let kind =
            kinds::find_kind(meta::api_version(&object), meta::kind(&object)).ok_or_else(|| {
                Status::internal(format!("bootstrap: no kind {}", meta::kind(&object)))
            })?;
        if *kind == *kinds::SERVICE && meta::name(&object) == API_SERVICE {
            object["spec"]["clusterIP"] = api.service_network.api_address().to_string().into();
            let port = api
                .config
                .server_addresses
                .first()
                .map_or(6443, SocketAddr::port);
            object["spec"]["ports"][0]["targetPort"] = port.into();
        }
        ensure_object(&caller, kind, object).await?;
    }
    publish_servers(api, &api.config.server_addresses).await
}

/// Sets Endpoints and EndpointSlice of the API's Service: it has no selector, and no pods behind it.
pub(crate) async fn publish_servers(
    api: &Arc<Api>,
    addresses: &[SocketAddr],
) -> Result<(), Status> {
    // What only this machine reaches is no endpoint for anyone.
    let mut addresses: Vec<SocketAddr> = addresses
        .iter()
        .copied()
        .filter(|address| !address.ip().is_loopback())
        .collect();
    if addresses.is_empty() {
        return Ok(());
    }
    let identity = Identity::server();
    let caller = Caller {
        api,
        identity: &identity,
    };
    addresses.sort();
    addresses.dedup();
    // One port for all: the servers of a cluster share their configuration.
    let port = addresses.first().map_or(6443, SocketAddr::port);
    let ips: Vec<String> = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    let ports = json!([{ "name": "https", "port": port, "protocol": "TCP" }]);
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": API_SERVICE,
            "namespace": API_NAMESPACE,
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": [{ "addresses": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(), "ports": ports }],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": API_SERVICE,
            "namespace": API_NAMESPACE,
            "labels": { "kubernetes.io/service-name": API_SERVICE },
        },
        "addressType": "IPv4",
        "endpoints": ips
            .iter()
            .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } }))
            .collect::<Vec<_>>(),
        "ports": ports,
    });
    put(&caller, kinds::ENDPOINTS, endpoints).await?;
    put(&caller, kinds::ENDPOINT_SLICE, slice).await
}

/// Creates the object, or brings it to this state.
async fn put(caller: &Caller<'_>, kind: &'static Kind, object: Value) -> Result<(), Status> {
    let target = Target::object(kind, meta::namespace(&object), meta::name(&object));
    for _ in 0..MAX_ATTEMPTS {
        if ensure_object(caller, kind, object.clone()).await? {
            return Ok(());
        }
        let request = UpdateRequest {
            target: target.clone(),
            object: object.clone(),
            duplicates: Vec::new(),
            options: WriteOptions {
                field_manager: "trireme".to_owned(),
                ..WriteOptions::default()
            },
        };
        match update(caller, request).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::modified(kind, meta::name(&object)))
}
