//! Explanations of routes.

use tonic::Status;
use trireme_proto::v1::{ExplainRouteReply, ExplainRouteRequest};
use trireme_xds_server::MeshSource;

pub fn explain(_: &MeshSource, _: &ExplainRouteRequest) -> Result<ExplainRouteReply, Status> {
    Err(Status::unimplemented("routes are not explained yet"))
}
