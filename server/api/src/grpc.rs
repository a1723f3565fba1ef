//! The gRPC form: the same typed requests as REST, from other messages.

mod health;
mod resources;

use std::sync::Arc;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;
use tonic::{Code, Status as GrpcStatus};
use trireme_model::status::Status;
use trireme_proto::v1::resources_server::ResourcesServer;

use crate::api::Api;

/// Where the Kubernetes Status of an error travels, as JSON.
const STATUS_KEY: &str = "trireme-status-bin";

/// Every gRPC service of this server: ours, those passed in, reflection and health.
pub(crate) fn routes(api: &Arc<Api>) -> Routes {
    let limit = api.config.limits.max_object_bytes + MESSAGE_OVERHEAD_BYTES;
    let resources = ResourcesServer::new(resources::Service::new(api.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    let mut routes = api
        .config
        .extra_grpc
        .clone()
        .unwrap_or_default()
        .add_service(resources);
    routes = routes.add_service(health::server(api.clone()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(trireme_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(current), Ok(older)) => routes.add_service(current).add_service(older),
        (Err(error), _) | (_, Err(error)) => {
            // Only our own descriptors can cause it.
            tracing::error!(%error, "gRPC reflection is not served");
            routes
        }
    }
}

/// What a message holds beside its object.
const MESSAGE_OVERHEAD_BYTES: usize = 64 * 1024;

/// The nearest gRPC code, with the Status itself in the metadata.
pub(crate) fn status(status: &Status) -> GrpcStatus {
    let code = match status.code {
        400 | 415 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 406 => Code::Unimplemented,
        409 if status.reason == "AlreadyExists" => Code::AlreadyExists,
        409 => Code::Aborted,
        410 => Code::OutOfRange,
        413 | 429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    let mut metadata = MetadataMap::new();
    let json = status.to_value().to_string();
    metadata.insert_bin(STATUS_KEY, MetadataValue::from_bytes(json.as_bytes()));
    GrpcStatus::with_metadata(code, status.message.clone(), metadata)
}
