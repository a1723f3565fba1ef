use std::sync::Arc;
use bytes::Bytes;
use crate::api::Api;
use crate::identity::Identity;
use crate::respond::{self, Body};
pub(crate) async fn answer(_api: &Arc<Api>, _identity: Option<Identity>, _request: http::Request<Bytes>) -> http::Response<Body> {
    respond::failure(&trireme_model::status::Status::unavailable("being built"))
}
