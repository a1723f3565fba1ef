use std::sync::Arc;
use trireme_model::{Value, status::Status};
use crate::api::Api;
pub(crate) fn objects() -> Vec<Value> { Vec::new() }
pub(crate) async fn ensure(_api: &Arc<Api>) -> Result<(), Status> { Err(Status::unavailable("being built")) }
pub(crate) async fn publish_servers(_api: &Arc<Api>, _addresses: &[std::net::SocketAddr]) -> Result<(), Status> { Err(Status::unavailable("being built")) }
