use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use trireme_proxy_decide::config::{Filter, ListenerFilters, RouteAction, Snapshot, TcpProxy};

use super::support::{
    Client, answering, chain, cluster, forward, free, listener, manager, ok, proxy, route, run,
    stat, upstream,
};

fn tcp(cluster: &str) -> Filter {
    Filter::Tcp(Arc::new(TcpProxy {
        stat_prefix: Arc::from("tcp"),
        cluster: Arc::from(cluster),
        weighted: Vec::new(),
        metadata_match: Vec::new(),
        idle_timeout: Duration::from_secs(3600),
        max_connection_duration: None,
        max_connect_attempts: 1,
        hash_policy: Vec::new(),
        access_logs: Vec::new(),
    }))
}

#[test]
fn bytes_go_both_ways_and_halves_close() {
    run(async {
        let back = upstream(|mut stream, seen| async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.expect("read");
            seen.borrow_mut().push(all.len().to_string());
            // Answers after the client has ended.
            stream.write_all(&all).await.expect("write");
        })
        .await;
        let address = free();
        let snapshot = Snapshot::default()
            .with_listener(listener("tcp", address, vec![chain(tcp("back"))]))
            .with_cluster(cluster("back", &[back.address]));
        let proxy = proxy(snapshot, address).await;
        let mut client = Client::connect(address).await;
        let sent = vec![7_u8; 1 << 20];
        client.stream.write_all(&sent).await.expect("write");
        client.stream.shutdown().await.expect("shutdown");
        let mut got = Vec::new();
        client.stream.read_to_end(&mut got).await.expect("read");
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        assert_eq!(
            stat(&proxy, "tcp.tcp.downstream_cx_rx_bytes_total"),
            1 << 20
        );
        assert_eq!(stat(&proxy, "cluster.back.upstream_cx_total"), 1);
    });
}

#[test]
fn a_server_that_speaks_first_is_not_kept_waiting() {
    run(async {
        let back = upstream(|mut stream, _| async move {
            stream.write_all(b"220 ready\r\n").await.expect("greeting");
            let _ = stream.read(&mut [0_u8; 1]).await;
        })
        .await;
        let address = free();
        // It inspects, but no chain differs by what would be found: no wait.
        let mut inspecting = listener("tcp", address, vec![chain(tcp("back"))]);
        inspecting.listener_filters = ListenerFilters {
            tls_inspector: true,
            http_inspector: true,
            timeout: Some(Duration::ZERO),
            ..ListenerFilters::default()
        };
        let snapshot = Snapshot::default()
            .with_listener(inspecting)
            .with_cluster(cluster("back", &[back.address]));
        let _proxy = proxy(snapshot, address).await;
        let mut client = Client::connect(address).await;
        let mut greeting = [0_u8; 11];
        client
            .stream
            .read_exact(&mut greeting)
            .await
            .expect("greeting");
        assert_eq!(&greeting, b"220 ready\r\n");
    });
}

#[test]
fn a_detected_protocol_chooses_and_silence_goes_on() {
    run(async {
        let web = answering(|_| ok("web")).await;
        let greeter = upstream(|mut stream, _| async move {
            stream.write_all(b"hello").await.expect("greeting");
            let _ = stream.read(&mut [0_u8; 1]).await;
        })
        .await;
        let address = free();
        let list = vec![route("/", RouteAction::Forward(Box::new(forward("web"))))];
        let mut spoken = chain(Filter::Http(Arc::new(manager(list))));
        spoken.matches.application_protocols = vec![Arc::from("http/1.1"), Arc::from("h2c")];
        let mut both = listener("auto", address, vec![spoken]);
        both.default_filter_chain = Some(chain(tcp("greeter")));
        both.listener_filters = ListenerFilters {
            http_inspector: true,
            timeout: Some(Duration::from_millis(50)),
            continue_on_timeout: true,
            ..ListenerFilters::default()
        };
        let snapshot = Snapshot::default()
            .with_listener(both)
            .with_cluster(cluster("web", &[web.address]))
            .with_cluster(cluster("greeter", &[greeter.address]));
        let _proxy = proxy(snapshot, address).await;
        let mut client = Client::connect(address).await;
        assert_eq!(
            client.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.body,
            "web"
        );
        let mut silent = Client::connect(address).await;
        let mut greeting = [0_u8; 5];
        silent
            .stream
            .read_exact(&mut greeting)
            .await
            .expect("greeting");
        assert_eq!(&greeting, b"hello");
        let mut other = Client::connect(address).await;
        other.send("SSH-2.0-x\r\n").await;
        other
            .stream
            .read_exact(&mut greeting)
            .await
            .expect("greeting");
        assert_eq!(&greeting, b"hello");
    });
}
