//! exec, attach and port-forward.

use super::{Body, Server, text, whole};
use crate::instance::container_id;
use crate::pods::PodSeen;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use trireme_container::{AttachHandle, ExecSpec, Runtime, Terminal};
use trireme_node_decide::Instance;
use trireme_stream::{
    BackendError, ExecBackend, PortForwardBackend, PortForwardOptions, Process, StreamOptions,
    TerminalSize,
};

/// Terminal sizes waiting to be set; the last one counts, so few are enough.
const SIZES_MAX: usize = 4;

/// The identifier of a container's live instance.
fn live(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(PodSeen, String), Response<Body>> {
    let Some(seen) = server.agent.pods.find(namespace, pod) else {
        return Err(text(
            StatusCode::NOT_FOUND,
            format!("pod {pod:?} not found in namespace {namespace:?}"),
        ));
    };
    let record = seen.runtime.container(container);
    let uid = seen.pod.metadata.uid.clone().unwrap_or_default();
    match record.instance {
        Instance::Running { attempt, .. } => {
            let id = container_id(&uid, container, attempt);
            Ok((seen, id))
        }
        _ => Err(text(
            StatusCode::NOT_FOUND,
            format!("container not found ({container:?})"),
        )),
    }
}

fn boxed(response: Response<trireme_stream::Body>) -> Response<Body> {
    response.map(|body| body.boxed_unsync())
}

fn bad(message: String) -> Response<Body> {
    let mut response = Response::new(whole(message));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

fn failed(error: impl std::fmt::Display) -> BackendError {
    BackendError(error.to_string())
}

/// Carries sizes to a terminal until either end is gone.
fn resize(terminal: Option<Terminal>) -> Option<mpsc::Sender<TerminalSize>> {
    let terminal = terminal?;
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(SIZES_MAX);
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            let size = trireme_container::TerminalSize {
                columns: size.width,
                rows: size.height,
            };
            terminal.resize(size).await;
        }
    });
    Some(sender)
}

struct Exec {
    runtime: Runtime,
    id: String,
    command: Vec<String>,
}

impl ExecBackend for Exec {
    async fn start(self, streams: StreamOptions) -> Result<Process, BackendError> {
        let order = ExecSpec {
            args: self.command,
            stdin: streams.stdin,
            tty: streams.tty,
            ..ExecSpec::default()
        };
        let mut handle = self.runtime.exec(&self.id, &order).await.map_err(failed)?;
        Ok(Process {
            stdin: handle.stdin.take().map(|stream| Box::into_pin(stream) as _),
            stdout: handle
                .stdout
                .take()
                .map(|stream| Box::into_pin(stream) as _),
            stderr: handle
                .stderr
                .take()
                .map(|stream| Box::into_pin(stream) as _),
            resize: resize(handle.terminal.take()),
            // Dropping the handle with this future kills the process.
            exit: Box::pin(async move {
                let status = handle.wait().await.map_err(failed)?;
                Ok(status.exit_code)
            }),
        })
    }
}

/// Runs a command in a container.
pub(crate) fn exec<B>(
    server: &Server,
    request: Request<B>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let options = match StreamOptions::from_query(query) {
        Ok(options) => options,
        Err(message) => return bad(message),
    };
    let command: Vec<String> = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "command")
        .map(|(_, value)| value.into_owned())
        .collect();
    if command.is_empty() {
        return bad("you must specify at least one command for the container".to_owned());
    }
    let id = match live(server, namespace, pod, container) {
        Ok((_, id)) => id,
        Err(response) => return response,
    };
    let backend = Exec {
        runtime: server.agent.runtime.clone(),
        id,
        command,
    };
    boxed(trireme_stream::serve_exec(
        request,
        options,
        backend,
        &server.sessions,
    ))
}

struct Attach {
    runtime: Runtime,
    id: String,
}

impl ExecBackend for Attach {
    async fn start(self, streams: StreamOptions) -> Result<Process, BackendError> {
        let mut handle: AttachHandle = self.runtime.attach(&self.id).await.map_err(failed)?;
        let stdin = handle.stdin.take().filter(|_| streams.stdin);
        let stdout = handle.stdout.take();
        let stderr = handle.stderr.take();
        let terminal = handle.terminal.take();
        Ok(Process {
            stdin: stdin.map(|stream| Box::into_pin(stream) as _),
            stdout: stdout.map(|stream| Box::into_pin(stream) as _),
            stderr: stderr.map(|stream| Box::into_pin(stream) as _),
            resize: resize(terminal),
            // The container's own exit code is in its status, not in the attachment's.
            exit: Box::pin(async move {
                let ended = self.runtime.wait(&self.id).await;
                drop(handle);
                ended.map(|_| 0).map_err(failed)
            }),
        })
    }
}

/// Joins a container's own streams.
pub(crate) fn attach<B>(
    server: &Server,
    request: Request<B>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let options = match StreamOptions::from_query(request.uri().query().unwrap_or_default()) {
        Ok(options) => options,
        Err(message) => return bad(message),
    };
    let id = match live(server, namespace, pod, container) {
        Ok((_, id)) => id,
        Err(response) => return response,
    };
    let backend = Attach {
        runtime: server.agent.runtime.clone(),
        id,
    };
    boxed(trireme_stream::serve_exec(
        request,
        options,
        backend,
        &server.sessions,
    ))
}

struct Forward {
    /// None: the node's own namespace.
    netns: Option<PathBuf>,
}

impl PortForwardBackend for Forward {
    type Stream = TcpStream;

    async fn connect(&self, port: u16) -> Result<TcpStream, BackendError> {
        let address = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Some(netns) = self.netns.clone() else {
            return TcpStream::connect(address).await.map_err(failed);
        };
        // A socket belongs to the namespace in which it was made, also after its thread has left.
        let connected = tokio::task::spawn_blocking(move || {
            trireme_network::run_in(&netns, || std::net::TcpStream::connect(address))
        })
        .await
        .map_err(failed)?
        .map_err(failed)?;
        let stream = connected.map_err(|error| {
            BackendError(format!(
                "failed to connect to localhost:{port} inside the pod: {error}"
            ))
        })?;
        stream.set_nonblocking(true).map_err(failed)?;
        TcpStream::from_std(stream).map_err(failed)
    }
}

/// Opens connections to the pod's own loopback.
pub(crate) fn port_forward<B>(
    server: &Server,
    request: Request<B>,
    namespace: &str,
    pod: &str,
) -> Response<Body> {
    let Some(seen) = server.agent.pods.find(namespace, pod) else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod {pod:?} not found in namespace {namespace:?}"),
        );
    };
    let uid = seen.pod.metadata.uid.clone().unwrap_or_default();
    let host_network = seen.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    if !seen.runtime.any_alive() {
        return text(
            StatusCode::BAD_REQUEST,
            format!("pod {pod:?} is not running"),
        );
    }
    let backend = Forward {
        netns: (!host_network).then(|| server.agent.network.path(&uid)),
    };
    let options = PortForwardOptions {
        pod: format!("{pod}_{namespace}"),
        uid,
    };
    boxed(trireme_stream::serve_port_forward(
        request,
        options,
        backend,
        &server.sessions,
    ))
}
