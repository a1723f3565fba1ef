//! Tests against a client that speaks frame by frame.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::frame::{FrameHeader, GOAWAY, PING, RST_STREAM, SYN_REPLY, WINDOW_UPDATE, read_header};
use super::header::{Decoder, Encoder};
use super::{Connection, Stream};

struct Client {
    io: DuplexStream,
    headers: Encoder,
    replies: Decoder,
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Reply(u32),
    Data(u32, Bytes, bool),
    Reset(u32),
    Ping(u32),
    GoAway,
    End,
}

impl Client {
    fn connect() -> (Client, Connection, JoinHandle<()>) {
        let (io, server) = tokio::io::duplex(1024 * 1024);
        let (connection, driver) = Connection::serve(server);
        (
            Client {
                io,
                headers: Encoder::new().unwrap(),
                replies: Decoder::new(),
            },
            connection,
            tokio::spawn(driver),
        )
    }

    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u16(0x8003);
        frame.put_u16(kind);
        frame.put_u32(u32::from(flags) << 24 | body.len() as u32);
        frame.put_slice(body);
        self.io.write_all(&frame).await.unwrap();
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let block = self
            .headers
            .encode(&[("Streamtype".into(), kind.into())])
            .unwrap();
        let mut body = BytesMut::new();
        body.put_u32(stream);
        body.put_u32(0);
        body.put_u16(0);
        body.put_slice(&block);
        self.control(1, 0, &body).await;
    }

    async fn data(&mut self, stream: u32, bytes: &[u8], last: bool) {
        let mut frame = BytesMut::new();
        frame.put_u32(stream);
        frame.put_u32(u32::from(last) << 24 | bytes.len() as u32);
        frame.put_slice(bytes);
        self.io.write_all(&frame).await.unwrap();
    }

    async fn numbers(&mut self, kind: u16, numbers: &[u32]) {
        let body: Vec<u8> = numbers
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect();
        self.control(kind, 0, &body).await;
    }

    /// The next frame, leaving out window updates.
    async fn hear(&mut self) -> Heard {
        loop {
            let mut header = [0; 8];
            if self.io.read_exact(&mut header).await.is_err() {
                return Heard::End;
            }
            let (length, heard) = match read_header(header) {
                FrameHeader::Data {
                    stream,
                    flags,
                    length,
                } => {
                    let mut body = vec![0; length];
                    self.io.read_exact(&mut body).await.unwrap();
                    return Heard::Data(stream, body.into(), flags == 1);
                }
                FrameHeader::Control { kind, length, .. } => (length, kind),
            };
            let mut body = vec![0; length];
            self.io.read_exact(&mut body).await.unwrap();
            let first = u32::from_be_bytes(body[..4].try_into().unwrap());
            return match heard {
                SYN_REPLY => {
                    assert_eq!(self.replies.decode(&body[4..]).unwrap(), []);
                    Heard::Reply(first)
                }
                RST_STREAM => Heard::Reset(first),
                PING => Heard::Ping(first),
                GOAWAY => Heard::GoAway,
                WINDOW_UPDATE => continue,
                other => panic!("unexpected frame of type {other}"),
            };
        }
    }
}

async fn accept(connection: &mut Connection) -> Stream {
    let stream = connection.accept().await.unwrap();
    stream.sender.reply().await;
    stream
}

#[tokio::test]
async fn streams_carry_data_and_half_close() {
    let (mut client, mut connection, driver) = Client::connect();
    client.open(1, "stdin").await;
    client.open(3, "stdout").await;
    let mut stdin = accept(&mut connection).await;
    let stdout = accept(&mut connection).await;
    assert_eq!((stdin.header("streamType"), stdin.id()), (Some("stdin"), 1));
    assert_eq!(
        (client.hear().await, client.hear().await),
        (Heard::Reply(1), Heard::Reply(3))
    );
    client.numbers(PING, &[7]).await;
    assert_eq!(client.hear().await, Heard::Ping(7));
    client.data(1, b"some", false).await;
    client.data(1, b"thing", true).await;
    assert_eq!(stdin.data.recv().await.unwrap(), "some");
    assert_eq!(stdin.data.recv().await.unwrap(), "thing");
    assert_eq!(stdin.data.recv().await, None);
    stdout
        .sender
        .send(Bytes::from_static(b"answer"))
        .await
        .unwrap();
    stdout.sender.finish().await;
    assert_eq!(client.hear().await, Heard::Data(3, "answer".into(), false));
    assert_eq!(client.hear().await, Heard::Data(3, "".into(), true));
    connection.close().await;
    assert_eq!(client.hear().await, Heard::GoAway);
    assert_eq!(client.hear().await, Heard::End);
    drop(client);
    driver.await.unwrap();
}

#[tokio::test]
async fn a_reset_stream_takes_no_more() {
    let (mut client, mut connection, _driver) = Client::connect();
    client.open(1, "stdout").await;
    let stream = accept(&mut connection).await;
    client.numbers(RST_STREAM, &[1, 5]).await;
    stream.sender.reset.cancelled().await;
    assert!(stream.sender.send(Bytes::from_static(b"x")).await.is_err());
    // Ours, refused by us.
    client.open(3, "other").await;
    accept(&mut connection).await.sender.reset().await;
    assert_eq!(
        (
            client.hear().await,
            client.hear().await,
            client.hear().await
        ),
        (Heard::Reply(1), Heard::Reply(3), Heard::Reset(3))
    );
}

#[tokio::test]
async fn a_window_is_heeded_once_the_peer_keeps_one() {
    let (mut client, mut connection, _driver) = Client::connect();
    client.open(1, "stdout").await;
    let stream = accept(&mut connection).await;
    assert_eq!(client.hear().await, Heard::Reply(1));
    // Far beyond the initial window: nobody has said that it counts.
    for _ in 0..4 {
        stream
            .sender
            .send(Bytes::from(vec![1; 32 * 1024]))
            .await
            .unwrap();
        assert!(matches!(client.hear().await, Heard::Data(1, ..)));
    }
    // The first update counts what has been sent: 64 KiB too much, less one.
    client.numbers(WINDOW_UPDATE, &[1, 1]).await;
    client.numbers(PING, &[1]).await;
    assert_eq!(client.hear().await, Heard::Ping(1));
    let sender = stream.sender.clone();
    let sending = tokio::spawn(async move { sender.send(Bytes::from_static(b"later")).await });
    client.numbers(WINDOW_UPDATE, &[1, 64 * 1024]).await;
    client.numbers(PING, &[3]).await;
    assert_eq!(client.hear().await, Heard::Ping(3));
    // The connection has a window too.
    client.numbers(WINDOW_UPDATE, &[0, 128 * 1024]).await;
    assert_eq!(client.hear().await, Heard::Data(1, "later".into(), false));
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_vanished_client_is_noticed() {
    let (mut client, mut connection, driver) = Client::connect();
    client.open(1, "stdin").await;
    let mut stream = accept(&mut connection).await;
    drop(client);
    connection.gone().cancelled().await;
    assert_eq!(stream.data.recv().await, None);
    assert!(stream.sender.send(Bytes::from_static(b"x")).await.is_err());
    assert!(connection.accept().await.is_none());
    driver.await.unwrap();
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    for bytes in [
        &b"\x80\x02\x00\x01\x00\x00\x00\x00"[..],
        b"\x80\x03\x00\x01\x00\x00\x00\x02ab",
        b"\x80\x03\x00\x01\x00\xff\xff\xff",
    ] {
        let (mut client, mut connection, _driver) = Client::connect();
        client.io.write_all(bytes).await.unwrap();
        assert!(connection.accept().await.is_none());
    }
    let (mut client, mut connection, _driver) = Client::connect();
    // Numbers have to grow, and be odd.
    client.open(3, "stdin").await;
    accept(&mut connection).await;
    client.open(1, "stdout").await;
    assert!(connection.accept().await.is_none());
}
