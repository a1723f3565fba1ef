use std::sync::Arc;
use trireme_model::status::Status;
use crate::api::Api;
pub(crate) fn routes(api: &Arc<Api>) -> tonic::service::Routes { api.config.extra_grpc.clone().unwrap_or_default() }
pub(crate) fn status(status: &Status) -> tonic::Status { tonic::Status::unknown(status.message.clone()) }
