//! Stock Envoy's opinion: what every golden file's workloads get must be configuration that it accepts. Runs where the
//! variable `ENVOY` names the program.

mod support;

use std::path::Path;
use std::process::Command;

use prost::Message;
use support::{everything, mesh, workload};
use trireme_mesh::{Kind, Mesh, Role, Workload};
use trireme_xds::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use trireme_xds::pb::envoy::config::cluster::v3::{Cluster, cluster};
use trireme_xds::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use trireme_xds::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
use trireme_xds::pb::envoy::config::route::v3::RouteConfiguration;
use trireme_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use trireme_xds::{pack, unpack};

/// Everything in one file: routes in their listeners, endpoints in their clusters.
fn bootstrap_of(mesh: &Mesh, who: &Workload) -> Bootstrap {
    let (mut listeners, mut clusters, mut routes, mut loads) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (kind, resource) in everything(mesh, who) {
        match kind {
            Kind::Listener => {
                listeners.push(unpack::<Listener>(&resource.body).expect("a listener"))
            }
            Kind::Cluster => clusters.push(unpack::<Cluster>(&resource.body).expect("a cluster")),
            Kind::Route => {
                routes.push(unpack::<RouteConfiguration>(&resource.body).expect("routes"))
            }
            Kind::Endpoint => {
                loads.push(unpack::<ClusterLoadAssignment>(&resource.body).expect("endpoints"))
            }
            Kind::Secret => {}
        }
    }
    // Certificates would be fetched; that they are well named is the gateway's own tests' business.
    listeners.retain(|it| {
        it.filter_chains
            .iter()
            .all(|chain| chain.transport_socket.is_none())
    });
    for listener in &mut listeners {
        let chains = listener
            .filter_chains
            .iter_mut()
            .chain(&mut listener.default_filter_chain);
        for filter in chains.flat_map(|it| &mut it.filters) {
            let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else {
                continue;
            };
            let Ok(mut manager) = unpack::<hcm::HttpConnectionManager>(any) else {
                continue;
            };
            if let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) =
                &manager.route_specifier
            {
                let found = routes
                    .iter()
                    .find(|it| it.name == rds.route_config_name)
                    .expect("its routes");
                manager.route_specifier = Some(
                    hcm::http_connection_manager::RouteSpecifier::RouteConfig(found.clone()),
                );
            }
            *any = pack(&manager);
        }
    }
    for one in &mut clusters {
        if let Some(eds) = one.eds_cluster_config.take() {
            one.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(
                cluster::DiscoveryType::Static as i32,
            ));
            one.load_assignment = loads
                .iter()
                .find(|it| it.cluster_name == eds.service_name)
                .cloned();
        }
    }
    Bootstrap {
        static_resources: Some(bootstrap::StaticResources {
            listeners,
            clusters,
            ..bootstrap::StaticResources::default()
        }),
        ..Bootstrap::default()
    }
}

#[test]
fn envoy_accepts_what_golden_files_become() {
    let Ok(envoy) = std::env::var("ENVOY") else {
        println!("ENVOY is not set: Envoy is not asked");
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let base = std::fs::read_to_string(folder.join("base.yaml")).expect("base.yaml");
    let scratch = std::env::temp_dir().join(format!("trireme-mesh-envoy-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).expect("a folder");
    let mut refusals = Vec::new();
    let mut asked = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|it| it != "yaml") || path.ends_with("base.yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("YAML");
        let mesh = mesh(&format!("{base}\n---\n{text}"));
        for line in text.lines().filter_map(|line| line.strip_prefix("# for: ")) {
            let who = workload(line);
            if who.role == Role::Grpc {
                continue;
            }
            let file = scratch.join("bootstrap.pb");
            std::fs::write(&file, bootstrap_of(&mesh, &who).encode_to_vec()).expect("written");
            let output = Command::new(&envoy)
                .args([
                    "--mode",
                    "validate",
                    "--log-level",
                    "error",
                    "--service-node",
                    "n",
                    "--service-cluster",
                    "c",
                    "-c",
                ])
                .arg(&file)
                .output()
                .expect("Envoy runs");
            asked += 1;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                refusals.push(format!(
                    "{} for {line}: {}{why}",
                    path.display(),
                    String::from_utf8_lossy(&output.stdout)
                ));
            }
        }
    }
    std::fs::remove_dir_all(&scratch).expect("removed");
    println!("Envoy was asked {asked} times");
    assert!(asked > 20);
    assert!(refusals.is_empty(), "{}", refusals.join("\n"));
}
