//! Carrying out probes and lifecycle hooks.

use crate::services::target_port;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{
    Container, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use nix::sys::socket::{setsockopt, sockopt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use trireme_container::{ContainerError, Runtime};
use trireme_network::PROBE_MARK;
use trireme_node_decide::ProbeOutcome;

/// Bytes of an answer or of a command's output that are kept: the kubelet's number.
const OUTPUT_MAX_BYTES: usize = 10 * 1024;
/// A hook without a limit of its own is given up after this.
const HOOK_MAX: Duration = Duration::from_secs(3600);

/// Where to knock: the container's pod.
pub(crate) struct Target<'a> {
    pub runtime: &'a Runtime,
    pub id: &'a str,
    pub ip: &'a str,
    pub container: &'a Container,
    /// A proxy takes over what enters the pod: the knock has to show that it is the node's.
    pub intercepted: bool,
}

impl Target<'_> {
    /// Connects to one of the pod's ports, past its proxy; or to wherever else a probe says.
    async fn connect(&self, address: &str) -> std::io::Result<TcpStream> {
        let own = address
            .parse()
            .ok()
            .filter(|to: &SocketAddr| to.ip().to_string() == self.ip);
        match own {
            Some(to) if self.intercepted && to.is_ipv4() => {
                let socket = TcpSocket::new_v4()?;
                // The node's rules give such connections a source that the pod's rules let through.
                setsockopt(&socket, sockopt::Mark, &PROBE_MARK)?;
                socket.connect(to).await
            }
            _ => TcpStream::connect(address).await,
        }
    }
}

enum Failure {
    /// Counts as a failed probe.
    Failed(String),
    /// Could not be carried out.
    Errored(String),
}

fn dial_error(address: &str, error: &std::io::Error) -> String {
    let cause = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: connect: {cause}")
}

/// Probes once.
pub(crate) async fn probe(target: &Target<'_>, probe: &Probe) -> ProbeOutcome {
    let seconds = probe
        .timeout_seconds
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(1)
        .max(1);
    let timeout = Duration::from_secs(seconds);
    let result = if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        run(target, &command, timeout).await
    } else if let Some(get) = &probe.http_get {
        http_get(target, get, "kube-probe/1.36", timeout).await
    } else if let Some(tcp) = &probe.tcp_socket {
        tcp_socket(target, tcp, timeout).await
    } else if let Some(grpc) = &probe.grpc {
        grpc_health(target, grpc, timeout).await
    } else {
        Err(Failure::Errored(format!(
            "missing probe handler for {}",
            target.container.name
        )))
    };
    match result {
        Ok(()) => ProbeOutcome::Success,
        Err(Failure::Failed(output)) => ProbeOutcome::Failure(output),
        Err(Failure::Errored(output)) => ProbeOutcome::Unknown(output),
    }
}

/// Runs a hook; an error says why it failed.
pub(crate) async fn hook(
    target: &Target<'_>,
    handler: &LifecycleHandler,
    timeout: Option<Duration>,
) -> Result<(), String> {
    let timeout = timeout.unwrap_or(HOOK_MAX);
    let result = if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        run(target, &command, timeout).await
    } else if let Some(get) = &handler.http_get {
        http_get(target, get, "kube-lifecycle/1.36", timeout).await
    } else if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds).min(timeout)).await;
        Ok(())
    } else {
        Err(Failure::Errored(
            "cannot run handler: unknown type".to_owned(),
        ))
    };
    result.map_err(|failure| match failure {
        Failure::Failed(text) | Failure::Errored(text) => text,
    })
}

async fn run(target: &Target<'_>, command: &[String], timeout: Duration) -> Result<(), Failure> {
    let ran = target
        .runtime
        .exec_collect(target.id, command, timeout, OUTPUT_MAX_BYTES)
        .await;
    match ran {
        Ok(output) if output.status.exit_code == 0 => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.output)
                .trim_end()
                .to_owned();
            if text.is_empty() {
                let code = output.status.exit_code;
                return Err(Failure::Failed(format!(
                    "command {command:?} exited with {code}"
                )));
            }
            Err(Failure::Failed(text))
        }
        Err(ContainerError::Timeout { .. }) => Err(Failure::Failed(format!(
            "command timed out: {:?} timed out after {}s",
            command.join(" "),
            timeout.as_secs()
        ))),
        // The program is not there: the probe failed, it did not go missing.
        Err(error @ ContainerError::Start { .. }) => Err(Failure::Failed(error.to_string())),
        Err(error) => Err(Failure::Errored(error.to_string())),
    }
}

async fn tcp_socket(
    target: &Target<'_>,
    action: &TCPSocketAction,
    timeout: Duration,
) -> Result<(), Failure> {
    let port = target_port(&action.port, target.container).map_err(Failure::Errored)?;
    let host = action
        .host
        .as_deref()
        .filter(|host| !host.is_empty())
        .unwrap_or(target.ip);
    let address = format!("{host}:{port}");
    match tokio::time::timeout(timeout, target.connect(&address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Failure::Failed(dial_error(&address, &error))),
        Err(_) => Err(Failure::Failed(format!("dial tcp {address}: i/o timeout"))),
    }
}

async fn http_get(
    target: &Target<'_>,
    action: &HTTPGetAction,
    agent: &str,
    timeout: Duration,
) -> Result<(), Failure> {
    let port = target_port(&action.port, target.container).map_err(Failure::Errored)?;
    let host = action
        .host
        .as_deref()
        .filter(|host| !host.is_empty())
        .unwrap_or(target.ip);
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let path = match action.path.as_deref().unwrap_or("/") {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let address = format!("{host}:{port}");
    let scheme = if secure { "https" } else { "http" };
    let url = format!("{scheme}://{address}{path}");
    let answered = async {
        let stream = target
            .connect(&address)
            .await
            .map_err(|error| format!("Get \"{url}\": {}", dial_error(&address, &error)))?;
        let mut request = http::Request::builder().method("GET").uri(&path);
        let mut host_header = address.clone();
        let mut user_agent = agent.to_owned();
        for header in action.http_headers.iter().flatten() {
            match header.name.to_ascii_lowercase().as_str() {
                "host" => host_header = header.value.clone(),
                "user-agent" => user_agent = header.value.clone(),
                _ => request = request.header(&header.name, &header.value),
            }
        }
        let request = request
            .header("host", host_header)
            .header("user-agent", user_agent)
            .header("accept", "*/*")
            .header("connection", "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("Get \"{url}\": {error}"))?;
        if secure {
            let name = rustls_pki_types::ServerName::try_from(host.to_owned())
                .map_err(|error| format!("Get \"{url}\": {error}"))?;
            let stream = tokio_rustls::TlsConnector::from(unverified())
                .connect(name, stream)
                .await
                .map_err(|error| format!("Get \"{url}\": {error}"))?;
            exchange(stream, request).await
        } else {
            exchange(stream, request).await
        }
        .map_err(|error| format!("Get \"{url}\": {error}"))
    };
    match tokio::time::timeout(timeout, answered).await {
        // Redirects count as success; following them is the client's business, not a probe's.
        Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
        Ok(Ok(status)) => Err(Failure::Failed(format!(
            "HTTP probe failed with statuscode: {status}"
        ))),
        Ok(Err(error)) => Err(Failure::Failed(error)),
        Err(_) => Err(Failure::Failed(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        ))),
    }
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<u16, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let carry = tokio::spawn(connection);
    let result = async {
        let response = sender.send_request(request).await.map_err(|error| {
            if error.is_incomplete_message() {
                "EOF".to_owned()
            } else {
                error.to_string()
            }
        })?;
        let status = response.status().as_u16();
        // Read, so that the server sees a client that behaves; what it says is not needed.
        let _ = Limited::new(response.into_body(), OUTPUT_MAX_BYTES)
            .collect()
            .await;
        Ok(status)
    }
    .await;
    carry.abort();
    result
}

/// `grpc.health.v1.Health/Check`, written by hand: one string in, one number out.
async fn grpc_health(
    target: &Target<'_>,
    action: &GRPCAction,
    timeout: Duration,
) -> Result<(), Failure> {
    let address = format!("{}:{}", target.ip, action.port);
    let service = action.service.clone().unwrap_or_default();
    let checked = async {
        let stream = target
            .connect(&address)
            .await
            .map_err(|error| format!("failed to connect: {}", dial_error(&address, &error)))?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        let carry = tokio::spawn(connection);
        let length =
            u8::try_from(service.len()).map_err(|_| "service name is too long".to_owned())?;
        let mut message = Vec::new();
        if length > 0 {
            if length > 127 {
                return Err("service name is too long".to_owned());
            }
            message.extend_from_slice(&[0x0a, length]);
            message.extend_from_slice(service.as_bytes());
        }
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
        frame.extend_from_slice(&message);
        let request = http::Request::builder()
            .method("POST")
            .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(frame)))
            .map_err(|error| error.to_string())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, OUTPUT_MAX_BYTES)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        carry.abort();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = trailers
            .get("grpc-status")
            .or_else(|| head.headers.get("grpc-status"));
        let code = status
            .and_then(|value| value.to_str().ok())
            .unwrap_or("2")
            .to_owned();
        if code != "0" {
            return Err(format!("rpc error: code = {code}"));
        }
        match body.to_bytes().as_ref() {
            // flag, length 2, field 1 varint 1 (SERVING)
            [0, 0, 0, 0, 2, 8, 1] => Ok(()),
            _ => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        }
    };
    match tokio::time::timeout(timeout, checked).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Failed(error)),
        Err(_) => Err(Failure::Failed(format!(
            "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
            timeout.as_secs()
        ))),
    }
}

/// TLS to a container whose certificate nobody vouches for: a probe asks whether it answers.
fn unverified() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| {
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth()
        });
    match config {
        Ok(config) => Arc::new(config),
        // ring supports the default versions: anything else is our own bug.
        Err(error) => unreachable!("default TLS versions: {error}"),
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
