//! The `h2` crate as a peer, and properties of what is read and written.

use super::*;

/// A large body through the windows of both sides, several at a time.
#[test]
fn large_bodies_pass_both_ways() {
    run(async {
        let (stream, _task) = served(serving(options()));
        let (sender, connection) = h2::client::handshake(stream).await.expect("handshake");
        tokio::task::spawn_local(connection);
        let mut asked = Vec::new();
        for number in 0..5_u8 {
            let mut sender = sender.clone();
            asked.push(tokio::task::spawn_local(async move {
                let request = http::Request::post("http://shop/echo")
                    .body(())
                    .expect("request");
                let (answer, mut sending) = sender.send_request(request, false).expect("sent");
                let body = Bytes::from(vec![number; 1 << 20]);
                sending.send_data(body, true).expect("body");
                let mut body = answer.await.expect("answer").into_body();
                let mut received = 0;
                while let Some(data) = body.data().await {
                    let data = data.expect("data");
                    assert!(data.iter().all(|byte| *byte == number));
                    received += data.len();
                    body.flow_control()
                        .release_capacity(data.len())
                        .expect("room");
                }
                assert_eq!(received, 1 << 20);
            }));
        }
        for one in asked {
            one.await.expect("task");
        }
    });
}

type Peer = h2::server::Connection<DuplexStream, Bytes>;

/// Our client with the `h2` crate as its server.
async fn upstream() -> (trireme_proxy::h2::Sender, Peer) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (sender, driver) = trireme_proxy::h2::connect(Box::new(ours), &Http2Options::default());
    tokio::task::spawn_local(driver);
    (
        sender,
        h2::server::handshake(theirs).await.expect("handshake"),
    )
}

fn asking(path: &str) -> RequestHead {
    RequestHead::get("shop", path).expect("head")
}

#[test]
fn the_client_sends_reads_and_is_told_what_went_wrong() {
    use trireme_proxy::h2::Lost;
    use trireme_proxy::h2::client::SendError;
    run(async {
        let (sender, mut peer) = upstream().await;
        let serving = tokio::task::spawn_local(async move {
            while let Some(Ok((request, mut respond))) = peer.accept().await {
                match request.uri().path() {
                    "/reset" => respond.send_reset(h2::Reason::CANCEL),
                    "/refuse" => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    "/go" => {
                        peer.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                    }
                    _ => {
                        tokio::task::spawn_local(async move {
                            let mut response = http::Response::new(());
                            *response.headers_mut() = request.headers().clone();
                            let mut sending = respond.send_response(response, false).expect("head");
                            let mut body = request.into_body();
                            while let Some(data) = body.data().await {
                                let data = data.expect("data");
                                body.flow_control()
                                    .release_capacity(data.len())
                                    .expect("room");
                                sending.send_data(data, false).expect("data");
                            }
                            let mut trailers = HeaderMap::new();
                            trailers.insert("grpc-status", HeaderValue::from_static("0"));
                            sending.send_trailers(trailers).expect("trailers");
                        });
                    }
                }
            }
        });
        let send = |path: &str, body: Body| {
            let mut head = asking(path);
            head.headers
                .insert("x-name", HeaderValue::from_static("value"));
            if !matches!(body, Body::Empty) {
                head.method = Method::POST;
            }
            sender
                .send(&head, false, None, body)
                .map_err(drop)
                .expect("open")
        };
        for _ in 0..3 {
            let received = send("/echo", Body::text(vec![5; 3 << 20]))
                .await
                .expect("answer");
            assert_eq!(received.headers["x-name"], "value");
            let body = received.body.collect().await.expect("body");
            assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
            assert_eq!(body.to_bytes().len(), 3 << 20);
        }
        let lost = |result: Result<_, SendError>| match result {
            Ok(_) => panic!("an answer"),
            Err(error) => error,
        };
        let error = lost(send("/refuse", Body::Empty).await);
        assert_eq!(error, SendError::Lost(Lost::Refused));
        let error = lost(send("/reset", Body::Empty).await);
        assert_eq!(error, SendError::Lost(Lost::Reset(Reason::CANCEL)));
        // Given up while it waits: the connection goes on.
        drop(send("/echo", Body::Boxed(Box::pin(Never))));
        assert!(send("/echo", Body::Empty).await.is_ok());
        lost(send("/go", Body::Empty).await);
        while sender.is_open() {
            tokio::task::yield_now().await;
        }
        assert!(sender.send(&asking("/"), false, None, Body::Empty).is_err());
        serving.await.expect("task");
    });
}

struct Never;

impl http_body::Body for Never {
    type Data = Bytes;
    type Error = trireme_proxy::h1::BodyError;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

fn some_headers() -> impl Strategy<Value = Vec<Vec<(String, Vec<u8>)>>> {
    let name = prop_oneof![
        "[a-z][a-z0-9-]{0,20}",
        Just("x-often".to_owned()),
        Just("user-agent".to_owned())
    ]
    .prop_filter("concerns the connection", |name| {
        ![
            "connection",
            "te",
            "upgrade",
            "host",
            "cookie",
            "keep-alive",
            "content-length",
        ]
        .contains(&name.as_str())
    });
    let inner = prop::collection::vec(prop_oneof![33_u8..127, Just(b' '), 128_u8..=255], 0..60);
    let value = prop_oneof![
        inner.prop_map(|bytes| bytes.trim_ascii().to_vec()),
        Just(b"the same again".to_vec())
    ];
    prop::collection::vec(prop::collection::vec((name, value), 0..12), 1..8)
}

fn map(list: &[(String, Vec<u8>)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(
            HeaderName::try_from(name.as_str()).expect("name"),
            HeaderValue::from_bytes(value).expect("value"),
        );
    }
    headers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// HPACK both ways: the `h2` crate's encoder to our decoder, ours to its decoder, with both tables in use.
    #[test]
    fn headers_go_to_the_h2_crate_and_come_back(lists in some_headers()) {
        run(async {
            let (stream, _task) = served(serving(options()));
            let (mut sender, connection) = h2::client::handshake(stream).await.expect("handshake");
            tokio::task::spawn_local(connection);
            let (ours, mut peer) = upstream().await;
            tokio::task::spawn_local(async move {
                while let Some(Ok((request, mut respond))) = peer.accept().await {
                    let mut response = http::Response::new(());
                    *response.headers_mut() = request.headers().clone();
                    respond.send_response(response, true).expect("sent");
                }
            });
            for list in &lists {
                let headers = map(list);
                let mut request = http::Request::get("http://shop/headers").body(()).expect("request");
                *request.headers_mut() = headers.clone();
                let (answer, _) = sender.send_request(request, true).expect("sent");
                let mut answer = answer.await.expect("answer");
                answer.headers_mut().remove("content-length");
                assert_eq!(answer.headers(), &headers);
                let mut head = asking("/");
                head.headers = headers.clone();
                let sending = ours.send(&head, false, None, Body::Empty).map_err(drop).expect("open");
                let answer = sending.await.expect("answer");
                assert_eq!(answer.headers, headers);
            }
        });
    }

    /// Our encoder to our decoder, whatever table the peer allows.
    #[test]
    fn blocks_come_back(lists in some_headers(), sizes in prop::collection::vec(0_usize..5000, 8)) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        for (list, size) in lists.iter().zip(sizes) {
            encoder.allow(size);
            let headers = map(list);
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (name, value) in &headers {
                encoder.header(&mut block, name, value);
            }
            let mut back = HeaderMap::new();
            decoder.decode(&block, |field, _| {
                if let Field::Header(name, value) = field {
                    back.append(name, value);
                }
            }).expect("block");
            prop_assert_eq!(back, headers);
        }
    }

    /// A valid conversation with some octets changed, in pieces of any size: never a panic, and every frame is taken
    /// or refused.
    #[test]
    fn changed_octets_are_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in 1_usize..200,
    ) {
        let block = head("GET", "/in/pieces", &[("a", "b")]);
        let mut bytes = [
            PREFACE.to_vec(),
            setting(4, 1000),
            post(1, "/", &[("content-length", "4")]),
            frame(DATA, END_STREAM, 1, b"body"),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
            frame(HEADERS, END_STREAM | PADDED, 3, &[&[2], &block[..9], &[0, 0]].concat()),
            frame(CONTINUATION, END_HEADERS, 3, &block[9..]),
            frame(HEADERS, 5, 5, &[0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]),
            frame(HEADERS, 5, 7, &[0x82, 0x86, 0x84, 0xbe]),
            frame(PING, 0, 0, b"whatever"),
            frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]),
            frame(GOAWAY, 0, 0, &[0; 8]),
        ]
        .concat();
        for (at, octet) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *octet;
        }
        let seen = understood::by_server(bytes.chunks(cut), options());
        if changes.is_empty() {
            prop_assert_eq!((seen.requests.len(), seen.broken), (4, None));
        }
        prop_assert_eq!(seen, understood::by_server([&bytes[..]], options()));
    }
}
