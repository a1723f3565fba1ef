//! A client's frames by hand: what RFC 9113 has refused and with which code, windows both ways, floods, draining.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use trireme_proxy::h2::hpack::Decoder;
use trireme_proxy::h2::server::Ended;
use trireme_proxy::h2::{Broken, Reason};

use super::*;

#[test]
fn what_breaks_a_connection_is_told_by_its_code() {
    let interrupted = || {
        let block = head("GET", "/", &[]);
        frame(HEADERS, END_STREAM, 1, &block)
    };
    let cases: Vec<(&str, Vec<Vec<u8>>, Reason)> = vec![
        (
            "DATA of the connection",
            vec![frame(DATA, 0, 0, b"x")],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "DATA of an idle stream",
            vec![frame(DATA, 0, 1, b"x")],
            Reason::PROTOCOL_ERROR,
        ),
        ("an even stream", vec![get(2, "/")], Reason::PROTOCOL_ERROR),
        (
            "HEADERS of the connection",
            vec![get(0, "/")],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a frame too long",
            vec![frame(DATA, 0, 1, &[0; 16_385])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "a short PING",
            vec![frame(PING, 0, 0, &[0; 7])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "PING of a stream",
            vec![frame(PING, 0, 1, &[0; 8])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "SETTINGS of a stream",
            vec![frame(SETTINGS, 0, 1, &[])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "half a setting",
            vec![frame(SETTINGS, 0, 0, &[0; 5])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "an acknowledgement with settings",
            vec![frame(SETTINGS, 1, 0, &[0; 6])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "a window of 2^31",
            vec![setting(4, 1 << 31)],
            Reason::FLOW_CONTROL_ERROR,
        ),
        (
            "frames of one octet",
            vec![setting(5, 1)],
            Reason::PROTOCOL_ERROR,
        ),
        ("push of 2", vec![setting(2, 2)], Reason::PROTOCOL_ERROR),
        (
            "a short WINDOW_UPDATE",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "a window by nothing",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a window beyond 2^31-1",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            Reason::FLOW_CONTROL_ERROR,
        ),
        (
            "WINDOW_UPDATE of an idle stream",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a short RST_STREAM",
            vec![get(1, "/hang"), frame(RST_STREAM, 0, 1, &[0; 3])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "RST_STREAM of an idle stream",
            vec![frame(RST_STREAM, 0, 1, &[0; 4])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a short PRIORITY",
            vec![frame(PRIORITY, 0, 1, &[0; 4])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "PRIORITY of the connection",
            vec![frame(PRIORITY, 0, 0, &[0; 5])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a push",
            vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a short GOAWAY",
            vec![frame(GOAWAY, 0, 0, &[0; 7])],
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "GOAWAY of a stream",
            vec![frame(GOAWAY, 0, 1, &[0; 8])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "CONTINUATION of nothing",
            vec![frame(CONTINUATION, END_HEADERS, 1, &[])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a frame within headers",
            vec![interrupted(), frame(PING, 0, 0, &[0; 8])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "CONTINUATION of another stream",
            vec![interrupted(), frame(CONTINUATION, END_HEADERS, 3, &[])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "endless CONTINUATION",
            [
                vec![interrupted()],
                vec![frame(CONTINUATION, 0, 1, &[]); 40],
            ]
            .concat(),
            Reason::ENHANCE_YOUR_CALM,
        ),
        (
            "an index that is in no table",
            vec![frame(HEADERS, 5, 1, &[0xff])],
            Reason::COMPRESSION_ERROR,
        ),
        (
            "too much padding",
            vec![frame(HEADERS, 5 | PADDED, 1, &[9, 0x82])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a stream used again",
            vec![get(5, "/"), get(3, "/")],
            Reason::STREAM_CLOSED,
        ),
    ];
    run(async {
        for (name, frames, reason) in cases {
            let mut client = Client::new(serving(options())).await;
            client.send(&frames).await;
            let told = client.until(GOAWAY).await;
            assert_eq!(Reason(told.number(4)), reason, "{name}");
            drop(client.stream);
            let ended = client.task.await.expect("task");
            assert!(
                matches!(ended, Err(Broken::Protocol(with, _)) if with == reason),
                "{name}: {ended:?}"
            );
        }
        for (name, bytes) in [
            (
                "a preface of HTTP/1.1",
                b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            ),
            (
                "no settings",
                [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
            ),
        ] {
            let (stream, task) = served(serving(options()));
            let mut client = Client {
                stream,
                task,
                decoder: Decoder::new(4096),
            };
            client.send(&[bytes]).await;
            let told = client.until(GOAWAY).await;
            assert_eq!(Reason(told.number(4)), Reason::PROTOCOL_ERROR, "{name}");
        }
    });
}

#[test]
fn what_breaks_a_stream_resets_it_and_no_more() {
    let cases: Vec<(&str, Vec<Vec<u8>>, Reason)> = vec![
        (
            "less than announced",
            vec![
                post(1, "/", &[("content-length", "3")]),
                frame(DATA, END_STREAM, 1, b"ab"),
            ],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "more than announced",
            vec![
                post(1, "/", &[("content-length", "1")]),
                frame(DATA, 0, 1, b"ab"),
            ],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a body announced that never comes",
            vec![frame(
                HEADERS,
                5,
                1,
                &head("POST", "/", &[("content-length", "1")]),
            )],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "two lengths",
            vec![post(
                1,
                "/",
                &[("content-length", "1"), ("content-length", "2")],
            )],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a window by nothing",
            vec![get(1, "/hang"), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a window beyond 2^31-1",
            vec![
                get(1, "/hang"),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
            ],
            Reason::FLOW_CONTROL_ERROR,
        ),
        (
            "trailers that end nothing",
            vec![
                post(1, "/", &[]),
                frame(HEADERS, END_HEADERS, 1, &fields(&[("a", "b")])),
            ],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a pseudo-header in trailers",
            vec![
                post(1, "/", &[]),
                frame(HEADERS, 5, 1, &fields(&[(":path", "/")])),
            ],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "DATA after the end",
            vec![get(1, "/hang"), frame(DATA, 0, 1, b"x")],
            Reason::STREAM_CLOSED,
        ),
        (
            "HEADERS after the end",
            vec![
                get(1, "/hang"),
                frame(HEADERS, 5, 1, &fields(&[("a", "b")])),
            ],
            Reason::STREAM_CLOSED,
        ),
        (
            "CONNECT with a path",
            vec![frame(HEADERS, 5, 1, &head("CONNECT", "/", &[]))],
            Reason::PROTOCOL_ERROR,
        ),
        (
            ":protocol that was not offered",
            vec![frame(
                HEADERS,
                5,
                1,
                &fields(&[
                    (":method", "CONNECT"),
                    (":scheme", "http"),
                    (":path", "/"),
                    (":authority", "a"),
                    (":protocol", "websocket"),
                ]),
            )],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "TE other than trailers",
            vec![frame(HEADERS, 5, 1, &head("GET", "/", &[("te", "gzip")]))],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "white space around a value",
            vec![frame(HEADERS, 5, 1, &head("GET", "/", &[("a", " b")]))],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a line end in a value",
            vec![frame(
                HEADERS,
                5,
                1,
                &head("GET", "/", &[("a", "b\r\nc: d")]),
            )],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a user in the authority",
            vec![frame(
                HEADERS,
                5,
                1,
                &fields(&[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/"),
                    (":authority", "me@a"),
                ]),
            )],
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a relative path",
            vec![frame(HEADERS, 5, 1, &head("GET", "x", &[]))],
            Reason::PROTOCOL_ERROR,
        ),
    ];
    run(async {
        for (name, frames, reason) in cases {
            let mut client = Client::new(serving(options())).await;
            client.send(&frames).await;
            let told = client.until(RST_STREAM).await;
            assert_eq!((told.stream, Reason(told.number(0))), (1, reason), "{name}");
            client.send(&[get(3, "/next")]).await;
            let (status, body) = client.answer(3).await;
            assert_eq!(
                (status.as_u16(), &*body),
                (200, &b"GET shop /next 0 0"[..]),
                "{name}"
            );
        }
    });
}

#[test]
fn pings_settings_padding_and_what_is_unknown() {
    run(async {
        let mut client = Client::new(serving(options())).await;
        client
            .send(&[
                frame(PING, 0, 0, b"whatever"),
                frame(0x42, 0xff, 7, b"an extension"),
            ])
            .await;
        let settings = client.until(SETTINGS).await;
        assert_eq!(settings.flags, 0);
        assert_eq!(client.until(SETTINGS).await.flags, 1);
        let answer = client.until(PING).await;
        assert_eq!((answer.flags, &*answer.payload), (1, &b"whatever"[..]));
        let mut padded = vec![3];
        padded.extend_from_slice(b"body\0\0\0");
        client
            .send(&[
                post(1, "/x", &[("cookie", "a=1"), ("cookie", "b=2")]),
                frame(DATA, PADDED, 1, &padded),
                frame(HEADERS, 5, 1, &fields(&[("t", "v")])),
                frame(
                    HEADERS,
                    5,
                    3,
                    &head("GET", "/headers", &[("cookie", "a=1"), ("cookie", "b=2")]),
                ),
            ])
            .await;
        let (status, body) = client.answer(1).await;
        assert_eq!((status.as_u16(), &*body), (200, &b"POST shop /x 4 1"[..]));
        // A block in three frames.
        let block = head("GET", "/in/pieces", &[]);
        client
            .send(&[
                frame(HEADERS, END_STREAM, 5, &block[..5]),
                frame(CONTINUATION, 0, 5, &block[5..9]),
                frame(CONTINUATION, END_HEADERS, 5, &block[9..]),
            ])
            .await;
        assert_eq!(client.answer(5).await.1, b"GET shop /in/pieces 0 0");
        drop(client.stream);
        assert_eq!(client.task.await.expect("task"), Ok(Ended::Closed));
    });
}

#[test]
fn cookies_are_joined_and_large_heads_answered() {
    run(async {
        let (stream, _task) = served(serving(options()));
        let (mut sender, connection) = h2::client::handshake(stream).await.expect("handshake");
        tokio::task::spawn_local(connection);
        let request = http::Request::get("http://shop/headers")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .expect("request");
        let (answer, _) = sender.send_request(request, true).expect("sent");
        assert_eq!(
            answer.await.expect("answer").headers()["cookie"],
            "a=1; b=2"
        );
        let large = http::Request::get("http://shop/")
            .header("x", "y".repeat(61 * 1024))
            .body(())
            .expect("request");
        let (answer, _) = sender.send_request(large, true).expect("sent");
        assert_eq!(answer.await.expect("answer").status(), 431);
        let mut many = http::Request::get("http://shop/")
            .body(())
            .expect("request");
        for number in 0..101 {
            let name = HeaderName::try_from(format!("x-{number}")).expect("name");
            many.headers_mut()
                .insert(name, HeaderValue::from_static("y"));
        }
        let (answer, _) = sender.send_request(many, true).expect("sent");
        assert_eq!(answer.await.expect("answer").status(), 431);
        let request = http::Request::get("http://shop/")
            .body(())
            .expect("request");
        let (answer, _) = sender.send_request(request, true).expect("sent");
        assert_eq!(answer.await.expect("answer").status(), 200);
    });
}

#[test]
fn nothing_is_sent_beyond_the_client_s_windows() {
    run(async {
        let mut client = Client::new(serving(options())).await;
        client.send(&[setting(4, 10)]).await;
        client
            .send(&[
                post(1, "/echo", &[]),
                frame(DATA, END_STREAM, 1, &[7; 1000]),
            ])
            .await;
        let first = client.until(DATA).await;
        assert_eq!((first.payload.len(), first.flags), (10, 0));
        // Less than was sent already: the window is negative now, and 5 more do not change that.
        client
            .send(&[setting(4, 0), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 5])])
            .await;
        client.send(&[frame(PING, 0, 0, b"all done")]).await;
        client.until(PING).await;
        client
            .send(&[frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 7])])
            .await;
        assert_eq!(client.until(DATA).await.payload.len(), 2);
        client.send(&[setting(4, 5000)]).await;
        let rest = client.until(DATA).await;
        assert_eq!((rest.payload.len(), rest.flags), (988, END_STREAM));
        // The connection's window is 65,535 of which 1,000 are used.
        let mut client = Client::new(serving(options())).await;
        client.send(&[setting(4, 1 << 20)]).await;
        client.send(&[post(1, "/echo", &[])]).await;
        for _ in 0..5 {
            client.send(&[frame(DATA, 0, 1, &[7; 16_384])]).await;
        }
        client.send(&[frame(DATA, END_STREAM, 1, &[])]).await;
        let mut received = 0;
        while received < 65_535 {
            received += client.until(DATA).await.payload.len();
        }
        assert_eq!(received, 65_535);
        client.send(&[frame(PING, 0, 0, b"all done")]).await;
        client.until(PING).await;
        client
            .send(&[frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0])])
            .await;
        while received < 5 * 16_384 {
            received += client.until(DATA).await.payload.len();
        }
    });
}

#[test]
fn a_client_beyond_our_windows_is_reset() {
    run(async {
        let mut small = options();
        small.stream_window = 20_000;
        let mut client = Client::new(serving(small)).await;
        // Until the client knows our settings it may send the protocol's default.
        client.send(&[post(1, "/hang", &[])]).await;
        for _ in 0..3 {
            client.send(&[frame(DATA, 0, 1, &[0; 16_384])]).await;
        }
        client.send(&[frame(PING, 0, 0, b"all done")]).await;
        client.until(PING).await;
        client
            .send(&[frame(SETTINGS, 1, 0, &[]), post(3, "/hang", &[])])
            .await;
        client
            .send(&[
                frame(DATA, 0, 3, &[0; 16_384]),
                frame(DATA, 0, 3, &[0; 16_384]),
            ])
            .await;
        let told = client.until(RST_STREAM).await;
        assert_eq!(
            (told.stream, Reason(told.number(0))),
            (3, Reason::FLOW_CONTROL_ERROR)
        );
        // The connection's window: nobody reads.
        let mut wide = options();
        wide.stream_window = 1 << 20;
        let mut client = Client::new(serving(wide)).await;
        client
            .send(&[frame(SETTINGS, 1, 0, &[]), post(1, "/hang", &[])])
            .await;
        for _ in 0..10 {
            client.send(&[frame(DATA, 0, 1, &[0; 16_384])]).await;
        }
        let told = client.until(GOAWAY).await;
        assert_eq!(Reason(told.number(4)), Reason::FLOW_CONTROL_ERROR);
    });
}

#[test]
fn streams_beyond_the_limit_are_refused_and_a_place_comes_free() {
    run(async {
        let mut client = Client::new(serving(options())).await;
        for number in 0..11 {
            client.send(&[get(number * 2 + 1, "/hang")]).await;
        }
        let told = client.until(RST_STREAM).await;
        assert_eq!(
            (told.stream, Reason(told.number(0))),
            (21, Reason::REFUSED_STREAM)
        );
        client
            .send(&[frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), get(23, "/")])
            .await;
        assert_eq!(client.answer(23).await.0.as_u16(), 200);
    });
}

#[test]
fn floods_end_the_connection() {
    run(async {
        let mut client = Client::new(serving(options())).await;
        for number in 0..300 {
            let stream = number * 2 + 1;
            client
                .send(&[
                    get(stream, "/hang"),
                    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                ])
                .await;
        }
        let told = client.until(GOAWAY).await;
        assert_eq!(Reason(told.number(4)), Reason::ENHANCE_YOUR_CALM);
        // Pings whose answers nobody takes: reading stops, memory is bounded, and it goes on afterwards.
        let mut client = Client::new(serving(options())).await;
        let pings = frame(PING, 0, 0, b"a flood.").repeat(10_000);
        let (mut read, mut write) = tokio::io::split(client.stream);
        let writing = tokio::task::spawn_local(async move {
            for _ in 0..20 {
                write.write_all(&pings).await.expect("write");
            }
            write
        });
        let mut left = 20 * 10_000 * 17_usize;
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            left = left.saturating_sub(read.read(&mut buffer).await.expect("read"));
        }
        drop(writing.await.expect("task"));
        drop(read);
        client.stream = tokio::io::duplex(1).0;
        assert_eq!(client.task.await.expect("task"), Ok(Ended::Closed));
    });
}

#[test]
fn a_drain_is_announced_and_streams_finish() {
    run(async {
        let serving = serving(options());
        let drain = serving.drain.clone();
        let mut client = Client::new(serving).await;
        client.send(&[post(1, "/late", &[])]).await;
        client.until(SETTINGS).await;
        drain.ask();
        let first = client.until(GOAWAY).await;
        assert_eq!(
            (first.number(0), Reason(first.number(4))),
            (i32::MAX.unsigned_abs(), Reason::NO_ERROR)
        );
        let ping = client.until(PING).await;
        // Sent before it heard.
        client
            .send(&[get(3, "/crossing"), frame(PING, 1, 0, &ping.payload)])
            .await;
        assert_eq!(client.until(GOAWAY).await.number(0), 3);
        client
            .send(&[get(5, "/too/late"), frame(DATA, END_STREAM, 1, b"x")])
            .await;
        client.answer(1).await;
        drop(client.stream);
        assert_eq!(client.task.await.expect("task"), Ok(Ended::Closed));
    });
}

#[test]
fn idle_and_silent_connections_end() {
    run(async {
        let mut timed = serving(options());
        timed.idle_timeout = Some(Duration::from_millis(20));
        let mut client = Client::new(timed).await;
        assert_eq!(
            Reason(client.until(GOAWAY).await.number(4)),
            Reason::NO_ERROR
        );
        drop(client.stream);
        assert_eq!(client.task.await.expect("task"), Ok(Ended::TimedOut));
        let mut pinged = serving(options());
        pinged.keepalive_interval = Some(Duration::from_millis(10));
        pinged.keepalive_timeout = Duration::from_millis(50);
        let mut client = Client::new(pinged).await;
        for _ in 0..3 {
            let ping = client.until(PING).await;
            client.send(&[frame(PING, 1, 0, &ping.payload)]).await;
        }
        assert_eq!(client.task.await.expect("task"), Err(Broken::Silent));
    });
}
