//! gRPC health: serving when this server is ready, as `/readyz` says it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::api::Api;

/// How often a health watch looks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const SERVICES: [&str; 3] = ["", "trireme.v1.Resources", "trireme.v1.Cluster"];

pub(super) struct Service {
    api: Arc<Api>,
}

pub(super) fn server(api: Arc<Api>) -> HealthServer<Service> {
    HealthServer::new(Service { api })
}

async fn serving(api: &Api) -> ServingStatus {
    match api.ready().await {
        Ok(()) => ServingStatus::Serving,
        Err(_) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found(format!("no service {service:?}")));
        }
        let status = serving(&self.api).await.into();
        Ok(Response::new(HealthCheckResponse { status }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let known = SERVICES.contains(&service.as_str());
        let start = (self.api.clone(), None::<ServingStatus>);
        let stream = futures_util::stream::unfold(start, move |(api, told)| async move {
            loop {
                let status = if known {
                    serving(&api).await
                } else {
                    ServingStatus::ServiceUnknown
                };
                if told != Some(status) {
                    let response = HealthCheckResponse {
                        status: status.into(),
                    };
                    return Some((Ok(response), (api, Some(status))));
                }
                tokio::time::sleep(WATCH_INTERVAL).await;
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
