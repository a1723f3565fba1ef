//! The mesh: what its members have, and what their requests would meet.

use tonic::transport::Channel;

use crate::call::Repeat;
use crate::client::{Client, timed};
use crate::error::Error;
use crate::v1;
use crate::v1::mesh_client::MeshClient;

/// Thousands of workloads with the words of their refusals.
const MESSAGE_MAX_BYTES: usize = 64 * 1024 * 1024;

fn mesh(channel: Channel) -> MeshClient<Channel> {
    MeshClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES)
}

impl Client {
    /// Connected workloads of every server, or of the one that answers.
    pub async fn mesh_status(&self, only_this_server: bool) -> Result<v1::MeshStatusReply, Error> {
        let message = v1::MeshStatusRequest { only_this_server };
        self.servers
            .call("mesh status", Repeat::Safe, |channel, allowed| {
                let request = timed(message, allowed);
                async move { mesh(channel).status(request).await }
            })
            .await
    }

    /// What a request would meet.
    pub async fn explain_route(
        &self,
        message: v1::ExplainRouteRequest,
    ) -> Result<v1::ExplainRouteReply, Error> {
        self.servers
            .call("explain route", Repeat::Safe, |channel, allowed| {
                let request = timed(message.clone(), allowed);
                async move { mesh(channel).explain_route(request).await }
            })
            .await
    }
}
