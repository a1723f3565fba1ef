//! The oracle: real kubectl against an API that knows one pod.
//!
//! `TRIREME_KUBECTL` names more binaries, separated by colons, besides the one
//! on the path; without any the tests say so and pass.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use trireme_stream::{
    BackendError, ExecBackend, PortForwardBackend, PortForwardOptions, Process, Sessions,
    StreamOptions, TerminalSize, serve_exec, serve_port_forward,
};

/// Runs a command of this machine.
struct Shell {
    command: Vec<String>,
    sizes: Arc<Mutex<Vec<TerminalSize>>>,
}

impl ExecBackend for Shell {
    async fn start(self, streams: StreamOptions) -> Result<Process, BackendError> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or(BackendError("no command".into()))?;
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(if streams.stdin {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| BackendError(format!("{program}: {error}")))?;
        let (resize, mut sizes) = mpsc::channel(4);
        let seen = self.sizes.clone();
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                seen.lock().unwrap().push(size);
            }
        });
        Ok(Process {
            stdin: child.stdin.take().map(|stdin| Box::pin(stdin) as _),
            stdout: child.stdout.take().map(|stdout| Box::pin(stdout) as _),
            stderr: child.stderr.take().map(|stderr| Box::pin(stderr) as _),
            resize: Some(resize),
            exit: Box::pin(async move {
                let status = child
                    .wait()
                    .await
                    .map_err(|error| BackendError(error.to_string()))?;
                Ok(status.code().unwrap_or(137))
            }),
        })
    }
}

/// Port 8080 echoes until the client's end closes; the others are shut.
struct Echo;

impl PortForwardBackend for Echo {
    type Stream = tokio::io::DuplexStream;

    async fn connect(&self, port: u16) -> Result<Self::Stream, BackendError> {
        if port != 8080 {
            return Err(BackendError(format!(
                "dial tcp4 127.0.0.1:{port}: connect: connection refused"
            )));
        }
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(theirs);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
        Ok(ours)
    }
}

fn json(value: serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    response
        .headers_mut()
        .insert("content-type", "application/json".parse().unwrap());
    response
}

fn answer(
    request: Request<Incoming>,
    sessions: &Sessions,
    sizes: &Arc<Mutex<Vec<TerminalSize>>>,
) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    match request.uri().path() {
        "/api" => json(serde_json::json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => {
            json(serde_json::json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}))
        }
        "/api/v1" => json(
            serde_json::json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
                {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"], "shortNames": ["po"]},
            ]}),
        ),
        "/api/v1/namespaces/default/pods/p" => json(serde_json::json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i", "stdin": true, "tty": true, "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running"},
        })),
        "/api/v1/namespaces/default/pods/p/exec" => {
            let command = form_urlencoded::parse(query.as_bytes())
                .filter(|(name, _)| name == "command")
                .map(|(_, value)| value.into_owned())
                .collect();
            let options = StreamOptions::from_query(&query).unwrap();
            serve_exec(
                request,
                options,
                Shell {
                    command,
                    sizes: sizes.clone(),
                },
                sessions,
            )
        }
        "/api/v1/namespaces/default/pods/p/portforward" => {
            let options = PortForwardOptions {
                pod: "p_default".into(),
                uid: "u".into(),
            };
            serve_port_forward(request, options, Echo, sessions)
        }
        _ => {
            let mut response = json(
                serde_json::json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}),
            );
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

struct Api {
    address: SocketAddr,
    sessions: Sessions,
    sizes: Arc<Mutex<Vec<TerminalSize>>>,
    runtime: tokio::runtime::Runtime,
    home: tempfile::TempDir,
}

impl Api {
    fn start() -> Api {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let sessions = Sessions::new();
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (owner, seen) = (sessions.clone(), sizes.clone());
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (owner, seen) = (owner.clone(), seen.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let response = answer(request, &owner, &seen);
                        async move { Ok::<_, std::convert::Infallible>(response) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Api {
            address,
            sessions,
            sizes,
            runtime,
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn kubectl(&self, client: &Client, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["60"])
            .arg(&client.binary)
            .arg(format!("--server=http://{}", self.address))
            .args(arguments);
        command
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG");
        command.env(
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS",
            client.websockets.to_string(),
        );
        command.env(
            "KUBECTL_PORT_FORWARD_WEBSOCKETS",
            client.websockets.to_string(),
        );
        command
    }

    fn run(&self, client: &Client, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.kubectl(client, arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap()
        })
    }

    /// Waits until every session has ended by itself.
    fn all_ended(&self) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !self.sessions.is_empty() {
            assert!(
                Instant::now() < patience,
                "{} sessions go on",
                self.sessions.len()
            );
            std::thread::yield_now();
        }
    }
}

#[derive(Debug, Clone)]
struct Client {
    binary: PathBuf,
    /// Newer versions use them, unless told not to; older ones only SPDY.
    websockets: bool,
}

fn clients() -> Vec<Client> {
    let more = std::env::var("TRIREME_KUBECTL").unwrap_or_default();
    let mut clients = Vec::new();
    for binary in more
        .split(':')
        .filter(|path| !path.is_empty())
        .chain(["kubectl"])
    {
        if Command::new(binary)
            .args(["version", "--client"])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            clients.push(Client {
                binary: binary.into(),
                websockets: true,
            });
            clients.push(Client {
                binary: binary.into(),
                websockets: false,
            });
        }
    }
    if clients.is_empty() {
        eprintln!("skipped: no kubectl");
    }
    clients
}

#[test]
fn exec_carries_streams_and_exit_codes() {
    let api = Api::start();
    for client in clients() {
        let script = "echo to-out; echo to-err >&2; exit 7";
        let output = api.run(&client, &["exec", "p", "--", "sh", "-c", script], b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "to-out\n",
            "{client:?}: {stderr}"
        );
        assert!(
            stderr.contains("to-err\n") && stderr.contains("exit code 7"),
            "{client:?}: {stderr}"
        );
        assert_eq!(output.status.code(), Some(7), "{client:?}");
        let output = api.run(&client, &["exec", "p", "--", "true"], b"");
        assert!(
            output.status.success(),
            "{client:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let output = api.run(&client, &["exec", "p", "--", "/no/such/program"], b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains("/no/such/program: No such file"),
            "{client:?}: {stderr}"
        );
    }
    api.all_ended();
}

#[test]
fn exec_carries_much_both_ways() {
    let api = Api::start();
    let input: Vec<u8> = (0..3_000_000u32)
        .map(|number| (number * 7 / 3) as u8)
        .collect();
    for client in clients() {
        let output = api.run(&client, &["exec", "-i", "p", "--", "cat"], &input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{client:?}: {stderr}");
        assert!(
            output.stdout == input,
            "{client:?}: {} of {} bytes",
            output.stdout.len(),
            input.len()
        );
        // A process that does not read to the end of its input.
        let output = api.run(
            &client,
            &["exec", "-i", "p", "--", "head", "-c", "5"],
            &input,
        );
        assert_eq!(output.stdout, input[..5], "{client:?}");
        assert!(output.status.success(), "{client:?}");
    }
    api.all_ended();
}

#[test]
fn terminals_tell_their_size() {
    let api = Api::start();
    for client in clients() {
        let inner = format!(
            "stty rows 33 cols 99; {} --server=http://{} exec -it p -- sh -c 'read line; echo got $line'",
            client.binary.display(),
            api.address
        );
        let mut command = Command::new("script");
        command
            .args(["-qec", &inner, "/dev/null"])
            .env("HOME", api.home.path())
            .env_remove("KUBECONFIG");
        command.env(
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS",
            client.websockets.to_string(),
        );
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            eprintln!("skipped: no script(1)");
            return;
        };
        let mut stdin = child.stdin.take().unwrap();
        // Typed once the terminal has told its size.
        let patience = Instant::now() + Duration::from_secs(20);
        while !api.sizes.lock().unwrap().contains(&TerminalSize {
            width: 99,
            height: 33,
        }) {
            assert!(
                Instant::now() < patience,
                "{client:?}: {:?}",
                api.sizes.lock().unwrap()
            );
            std::thread::yield_now();
        }
        api.sizes.lock().unwrap().clear();
        stdin.write_all(b"typed\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("got typed"),
            "{client:?}: {output:?}"
        );
    }
    api.all_ended();
}

#[test]
fn a_client_that_dies_ends_its_process() {
    let api = Api::start();
    for client in clients() {
        let mut command = api.kubectl(
            &client,
            &["exec", "p", "--", "sh", "-c", "echo $$; exec sleep 1000"],
        );
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = [0; 16];
        let read = child.stdout.as_mut().unwrap().read(&mut pid).unwrap();
        let pid = String::from_utf8_lossy(&pid[..read]).trim().to_owned();
        assert!(std::fs::exists(format!("/proc/{pid}")).unwrap());
        // timeout(1) passes the signal on.
        assert!(
            Command::new("kill")
                .arg(child.id().to_string())
                .status()
                .unwrap()
                .success()
        );
        child.wait().unwrap();
        api.all_ended();
        let patience = Instant::now() + Duration::from_secs(10);
        while std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.starts_with("sleep"))
        {
            assert!(
                Instant::now() < patience,
                "{client:?}: process {pid} goes on"
            );
            std::thread::yield_now();
        }
    }
}

#[test]
fn ports_are_forwarded() {
    let api = Api::start();
    for client in clients() {
        let mut command = api.kubectl(&client, &["port-forward", "pod/p", ":8080", ":9090"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut local = |to: &str| loop {
            let mut line = String::new();
            assert!(
                std::io::BufRead::read_line(&mut stdout, &mut line).unwrap() > 0,
                "{client:?}"
            );
            if let Some(rest) = line.trim().strip_prefix("Forwarding from 127.0.0.1:")
                && let Some(port) = rest.strip_suffix(&format!(" -> {to}"))
            {
                return port.parse::<u16>().unwrap();
            }
        };
        let (open, shut) = (local("8080"), local("9090"));
        // Several connections at once, each with more than any window.
        std::thread::scope(|scope| {
            for turn in 0..3u8 {
                let client = &client;
                scope.spawn(move || {
                    let sent = vec![turn; 600_000];
                    let mut stream = TcpStream::connect(("127.0.0.1", open)).unwrap();
                    stream
                        .set_read_timeout(Some(Duration::from_secs(20)))
                        .unwrap();
                    let mut writing = stream.try_clone().unwrap();
                    let copy = sent.clone();
                    let writer = std::thread::spawn(move || {
                        writing.write_all(&copy).unwrap();
                        writing.shutdown(std::net::Shutdown::Write).unwrap();
                    });
                    let mut echoed = Vec::new();
                    stream.read_to_end(&mut echoed).unwrap();
                    writer.join().unwrap();
                    assert!(
                        echoed == sent,
                        "{client:?}: {} of {} bytes",
                        echoed.len(),
                        sent.len()
                    );
                });
            }
        });
        let mut stream = TcpStream::connect(("127.0.0.1", shut)).unwrap();
        let _ = stream.read(&mut [0; 10]);
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        while !told.contains("error forwarding port 9090 to pod p_default, uid u: dial tcp4 127.0.0.1:9090: connect: connection refused") {
            assert!(std::io::BufRead::read_line(&mut stderr, &mut told).unwrap() > 0, "{client:?}: {told}");
        }
        // Newer versions end at the first error, older ones go on.
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        child.wait().unwrap();
        api.all_ended();
    }
}

#[test]
fn what_is_no_upgrade_is_refused() {
    let api = Api::start();
    let ask = |path: &str, headers: &str| {
        let mut stream = TcpStream::connect(api.address).unwrap();
        write!(
            stream,
            "GET /api/v1/namespaces/default/pods/p/{path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"
        )
        .unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let answer = ask("exec?stdout=1", "");
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("Upgrade request required"),
        "{answer}"
    );
    let answer = ask(
        "exec?stdout=1",
        "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("unable to negotiate protocol"),
        "{answer}"
    );
    let answer = ask(
        "exec?stdout=1",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("Sec-WebSocket-Key"),
        "{answer}"
    );
    let answer = ask(
        "portforward",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: other\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("unable to negotiate protocol"),
        "{answer}"
    );
    assert!(StreamOptions::from_query("tty=1").is_err());
    assert_eq!(
        StreamOptions::from_query("input=1&output=1&error=1&tty=1").unwrap(),
        StreamOptions {
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true
        }
    );
    api.runtime.block_on(api.sessions.shutdown());
}

#[test]
fn shutting_down_ends_the_sessions() {
    let api = Api::start();
    for client in clients().into_iter().take(1) {
        let mut command = api.kubectl(
            &client,
            &["exec", "p", "--", "sh", "-c", "echo up; exec sleep 1000"],
        );
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0; 3])
            .unwrap();
        assert_eq!(api.sessions.len(), 1);
        api.runtime.block_on(api.sessions.shutdown());
        assert!(api.sessions.is_empty());
        child.wait().unwrap();
    }
}

#[tokio::test]
async fn the_oldest_websocket_clients_name_no_protocol() {
    use tokio_tungstenite::tungstenite::Message;
    let api = tokio::task::spawn_blocking(Api::start).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
    let request = "GET /api/v1/namespaces/default/pods/p/exec?stdout=1&command=echo&command=hi HTTP/1.1\r\nHost: x\r\n\
                   Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(stream, role, None).await;
    let mut messages = Vec::new();
    while let Some(Ok(message)) = futures_util::StreamExt::next(&mut socket).await {
        match message {
            Message::Binary(data) => messages.push(data),
            Message::Close(_) => break,
            _ => {}
        }
    }
    assert_eq!(messages, [&b"\x01"[..], b"\x01hi\n"]);
    drop(socket);
    tokio::task::spawn_blocking(move || drop(api))
        .await
        .unwrap();
}
