//! One of a session's streams towards the client, whatever carries it.

use base64::Engine as _;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::spdy::StreamSender;

/// The client is gone, or does not want the stream any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

pub(crate) enum Outgoing {
    /// Messages that begin with the channel's number.
    Channel {
        number: u8,
        base64: bool,
        messages: mpsc::Sender<Message>,
    },
    Spdy(StreamSender),
}

impl Outgoing {
    pub async fn send(&self, data: Bytes) -> Result<(), Gone> {
        match self {
            Outgoing::Channel {
                number,
                base64: false,
                messages,
            } => {
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.put_u8(*number);
                message.put_slice(&data);
                messages
                    .send(Message::Binary(message.freeze()))
                    .await
                    .map_err(|_| Gone)
            }
            Outgoing::Channel {
                number,
                base64: true,
                messages,
            } => {
                let encoded = base64::engine::general_purpose::STANDARD.encode(&data);
                let text = Utf8Bytes::from(format!("{number}{encoded}"));
                messages.send(Message::Text(text)).await.map_err(|_| Gone)
            }
            Outgoing::Spdy(stream) => stream.send(data).await,
        }
    }

    /// Says that nothing more comes. WebSocket channels have no such word:
    /// they end with the connection.
    pub async fn finish(&self) {
        if let Outgoing::Spdy(stream) = self {
            stream.finish().await;
        }
    }
}
