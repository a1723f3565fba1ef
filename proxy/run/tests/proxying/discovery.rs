//! Configuration over xDS: subscribed to, taken when it is complete, acknowledged or refused, and kept when the server
//! is gone.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use trireme_proxy::net::{Net, System};
use trireme_proxy::telemetry::istio::Peer;
use trireme_proxy::{Drain, Shared, Worker, spawn_background, xds};
use trireme_xds::pb::envoy::config::cluster::v3 as cluster;
use trireme_xds::pb::envoy::config::core::v3 as core;
use trireme_xds::pb::envoy::config::endpoint::v3 as endpoint;
use trireme_xds::pb::envoy::config::listener::v3 as listener;
use trireme_xds::pb::envoy::config::route::v3 as route;
use trireme_xds::pb::envoy::extensions::filters::http::router::v3::Router;
use trireme_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use trireme_xds::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use trireme_xds::pb::google::protobuf::Any;
use trireme_xds::{Kind, pack};

use super::support::{Here, answering, free, get, ok, run};

/// A control plane in one test's hands.
#[derive(Clone, Default)]
struct ControlPlane {
    requests: Rc<RefCell<VecDeque<DeltaDiscoveryRequest>>>,
    responses: Rc<RefCell<Option<mpsc::UnboundedSender<Bytes>>>>,
    tokens: Rc<RefCell<Vec<String>>>,
}

impl ControlPlane {
    async fn listen(&self) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let this = self.clone();
        let task = tokio::task::spawn_local(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                let service =
                    hyper::service::service_fn(move |request| this.clone().serve(request));
                let mut http2 = hyper::server::conn::http2::Builder::new(Here);
                http2.timer(hyper_util::rt::TokioTimer::new());
                connections.spawn_local(async move {
                    let _ = http2.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        (address, task)
    }

    async fn serve(
        self,
        request: Request<hyper::body::Incoming>,
    ) -> Result<
        Response<
            StreamBody<
                impl futures_util::Stream<
                    Item = Result<http_body::Frame<Bytes>, std::convert::Infallible>,
                >,
            >,
        >,
        std::convert::Infallible,
    > {
        let token = request
            .headers()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        self.tokens.borrow_mut().push(token.to_owned());
        let (give, take) = mpsc::unbounded_channel::<Bytes>();
        *self.responses.borrow_mut() = Some(give);
        let mut body = request.into_body();
        tokio::task::spawn_local(async move {
            let mut buffer = BytesMut::new();
            while let Some(Ok(frame)) = body.frame().await {
                buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
                while buffer.len() >= 5 {
                    let length =
                        u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
                    if buffer.len() < 5 + length {
                        break;
                    }
                    buffer.advance(5);
                    let message =
                        DeltaDiscoveryRequest::decode(buffer.split_to(length)).expect("request");
                    self.requests.borrow_mut().push_back(message);
                }
            }
        });
        let frames = futures_util::stream::unfold(take, |mut take| async {
            let bytes = take.recv().await?;
            Some((Ok(http_body::Frame::data(bytes)), take))
        });
        let mut response = Response::new(StreamBody::new(frames));
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/grpc".parse().expect("value"));
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn send(&self, kind: Kind, nonce: &str, resources: Vec<(&str, Any)>, removed: &[&str]) {
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            nonce: nonce.into(),
            system_version_info: nonce.into(),
            resources: resources
                .into_iter()
                .map(|(name, any)| Resource {
                    name: name.into(),
                    version: nonce.into(),
                    resource: Some(any),
                    ..Resource::default()
                })
                .collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(response.encoded_len()).expect("short"));
        response.encode(&mut bytes).expect("room");
        let responses = self.responses.borrow();
        responses
            .as_ref()
            .expect("a stream")
            .send(bytes.freeze())
            .expect("an open stream");
    }

    /// The next request of that kind.
    async fn request(&self, kind: Kind) -> DeltaDiscoveryRequest {
        loop {
            let next = self.requests.borrow_mut().pop_front();
            match next {
                Some(request) if request.type_url == kind.type_url() => return request,
                Some(_) => {}
                None => tokio::task::yield_now().await,
            }
        }
    }

    async fn acknowledged(&self, kind: Kind, nonce: &str) -> Option<String> {
        loop {
            let request = self.request(kind).await;
            if request.response_nonce == nonce {
                return request.error_detail.map(|status| status.message);
            }
        }
    }
}

fn address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
                address.port(),
            ))),
            ..core::SocketAddress::default()
        })),
    }
}

fn eds_cluster(name: &str) -> Any {
    pack(&cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                    core::AggregatedConfigSource::default(),
                )),
                ..core::ConfigSource::default()
            }),
            ..cluster::cluster::EdsClusterConfig::default()
        }),
        ..cluster::Cluster::default()
    })
}

fn assignment(name: &str, host: SocketAddr) -> Any {
    pack(&endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                    endpoint::Endpoint {
                        address: Some(address(host)),
                        ..endpoint::Endpoint::default()
                    },
                )),
                ..endpoint::LbEndpoint::default()
            }],
            ..endpoint::LocalityLbEndpoints::default()
        }],
        ..endpoint::ClusterLoadAssignment::default()
    })
}

fn rds_listener(name: &str, at: SocketAddr) -> Any {
    let manager = manager::HttpConnectionManager {
        stat_prefix: "test".into(),
        route_specifier: Some(manager::http_connection_manager::RouteSpecifier::Rds(
            manager::Rds {
                route_config_name: "routes".into(),
                config_source: Some(core::ConfigSource {
                    config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                        core::AggregatedConfigSource::default(),
                    )),
                    ..core::ConfigSource::default()
                }),
            },
        )),
        http_filters: vec![manager::HttpFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(manager::http_filter::ConfigType::TypedConfig(pack(
                &Router::default(),
            ))),
            ..manager::HttpFilter::default()
        }],
        ..manager::HttpConnectionManager::default()
    };
    pack(&listener::Listener {
        name: name.into(),
        address: Some(address(at)),
        filter_chains: vec![listener::FilterChain {
            filters: vec![listener::Filter {
                name: "envoy.filters.network.http_connection_manager".into(),
                config_type: Some(listener::filter::ConfigType::TypedConfig(pack(&manager))),
            }],
            ..listener::FilterChain::default()
        }],
        ..listener::Listener::default()
    })
}

fn routes(domains: &[&str], name: &str) -> Any {
    let host = |number: usize, domain: &str| route::VirtualHost {
        name: format!("host-{number}"),
        domains: vec![domain.into()],
        routes: vec![route::Route {
            r#match: Some(route::RouteMatch {
                path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
                ..route::RouteMatch::default()
            }),
            action: Some(route::route::Action::Route(route::RouteAction {
                cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
                    name.into(),
                )),
                ..route::RouteAction::default()
            })),
            ..route::Route::default()
        }],
        ..route::VirtualHost::default()
    };
    pack(&route::RouteConfiguration {
        name: "routes".into(),
        virtual_hosts: domains
            .iter()
            .enumerate()
            .map(|(number, domain)| host(number, domain))
            .collect(),
        ..route::RouteConfiguration::default()
    })
}

fn follow(servers: Vec<String>, token: Option<std::path::PathBuf>) -> std::sync::Arc<Shared> {
    let shared = Shared::new(Peer::default(), 7, 0);
    let net: Rc<dyn Net> = Rc::new(System);
    let worker = Worker::new(shared.clone(), net.clone(), Drain::new());
    spawn_background(&shared, &net);
    tokio::task::spawn_local(async move { worker.run(std::future::pending()).await });
    let options = xds::Options {
        servers,
        authorities: None,
        server_name: None,
        token,
        node: core::Node::default(),
    };
    tokio::task::spawn_local(xds::run(shared.clone(), net, options));
    shared
}

#[test]
fn takes_configuration_in_order_and_refuses_what_is_wrong() {
    run(async {
        let back = answering(|_| ok("well")).await;
        let plane = ControlPlane::default();
        let (server, task) = plane.listen().await;
        let token = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(token.path(), "secret\n").expect("token");
        let dead = free().to_string();
        let shared = follow(
            vec![dead, server.to_string()],
            Some(token.path().to_path_buf()),
        );
        let at = free();

        let first = plane.request(Kind::Cluster).await;
        assert!(first.node.is_some() && first.resource_names_subscribe.is_empty());
        assert_eq!(plane.tokens.borrow()[0], "Bearer secret");
        plane.send(
            Kind::Cluster,
            "c1",
            vec![("back", eds_cluster("back"))],
            &[],
        );
        // Asked for before the clusters are acknowledged: a server sends routes after what was asked for by then.
        assert_eq!(
            plane.request(Kind::Endpoint).await.resource_names_subscribe,
            ["back"]
        );
        assert_eq!(plane.acknowledged(Kind::Cluster, "c1").await, None);
        // Without its endpoints it is not in force.
        assert!(shared.live().snapshot().clusters.is_empty());
        plane.send(
            Kind::Endpoint,
            "e1",
            vec![("back", assignment("back", back.address))],
            &[],
        );
        assert_eq!(plane.acknowledged(Kind::Endpoint, "e1").await, None);
        plane.send(
            Kind::Listener,
            "l1",
            vec![("web", rds_listener("web", at))],
            &[],
        );
        assert_eq!(
            plane.request(Kind::Route).await.resource_names_subscribe,
            ["routes"]
        );
        assert_eq!(plane.acknowledged(Kind::Listener, "l1").await, None);
        assert!(!shared.is_ready());
        plane.send(
            Kind::Route,
            "r1",
            vec![("routes", routes(&["*"], "back"))],
            &[],
        );
        assert_eq!(plane.acknowledged(Kind::Route, "r1").await, None);
        while !shared.is_ready() {
            tokio::task::yield_now().await;
        }
        assert_eq!(get(at, "/").await.body, "well");

        // Refused by name; the last good one stays.
        plane.send(
            Kind::Route,
            "r2",
            vec![("routes", routes(&["a", "a"], "back"))],
            &[],
        );
        let refusal = plane
            .acknowledged(Kind::Route, "r2")
            .await
            .expect("a refusal");
        assert!(
            refusal.contains("routes") && refusal.contains("host-1"),
            "{refusal}"
        );
        assert_eq!(get(at, "/").await.body, "well");
        assert_eq!(shared.control_plane().rejected, 1);

        // The control plane goes; what is in force stays.
        task.abort();
        *plane.responses.borrow_mut() = None;
        while shared.control_plane().server.is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(get(at, "/").await.body, "well");
    });
}

#[test]
fn a_server_that_comes_back_sends_only_what_changed() {
    run(async {
        let back = answering(|_| ok("well")).await;
        let plane = ControlPlane::default();
        let (one, task) = plane.listen().await;
        let other = ControlPlane::default();
        let (two, _other_task) = other.listen().await;
        let shared = follow(vec![one.to_string(), two.to_string()], None);
        plane.request(Kind::Cluster).await;
        plane.send(
            Kind::Cluster,
            "c1",
            vec![("back", eds_cluster("back"))],
            &[],
        );
        plane.acknowledged(Kind::Cluster, "c1").await;
        plane.send(
            Kind::Endpoint,
            "e1",
            vec![("back", assignment("back", back.address))],
            &[],
        );
        plane.acknowledged(Kind::Endpoint, "e1").await;
        task.abort();
        *plane.responses.borrow_mut() = None;
        let again = other.request(Kind::Cluster).await;
        assert_eq!(
            again
                .initial_resource_versions
                .get("back")
                .map(String::as_str),
            Some("c1")
        );
        let endpoints = other.request(Kind::Endpoint).await;
        assert_eq!(
            endpoints
                .initial_resource_versions
                .get("back")
                .map(String::as_str),
            Some("e1")
        );
        other.send(Kind::Cluster, "c2", vec![], &["back"]);
        other.acknowledged(Kind::Cluster, "c2").await;
        assert!(shared.live().snapshot().clusters.is_empty());
    });
}
