//! Log, exec, attach and port-forward: authorized here, spoken by the node. The upgraded connection is
//! spliced through unchanged.

use std::time::Duration;

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use trireme_model::kinds::{NODE, POD};
use trireme_model::status::Status;
use trireme_model::{Value, meta};

use crate::params::Params;
use crate::respond::{Body, BodyError};
use crate::route::Target;
use crate::store::Freshness;
use crate::verb::Caller;

/// A node that does not answer within this is called unreachable, while the client still waits.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a node agent listens unless its Node says otherwise.
const DEFAULT_NODE_PORT: u16 = 10250;
/// Bytes of a refusal by the node that are passed on.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

pub(crate) fn is_stream(target: &Target) -> bool {
    *target.kind == *POD && matches!(target.part(), "log" | "exec" | "attach" | "portforward")
}

pub(crate) async fn connect(
    caller: &Caller<'_>,
    target: &Target,
    params: &Params,
    request: Request<Bytes>,
) -> Result<Response<Body>, Status> {
    let part = target.part();
    match (part, request.method()) {
        ("log", &Method::GET) => caller.authorize("get", target, None).await?,
        // Whoever reaches into a container needs `create`, also where WebSocket makes it a GET.
        ("exec" | "attach" | "portforward", &(Method::GET | Method::POST)) => {
            caller.authorize("create", target, None).await?;
        }
        _ => return Err(Status::method_not_allowed_here()),
    }
    if part != "log" && !request.headers().contains_key(header::UPGRADE) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let api = caller.api;
    api.store.fresh(Freshness::Linearizable).await?;
    let pod = api
        .store
        .read_value(&target.key())?
        .ok_or_else(|| Status::not_found(POD, &target.name))?;
    let node_name = pod
        .get("spec")
        .and_then(|spec| spec.get("nodeName"))
        .and_then(Value::as_str)
        .unwrap_or("");
    if node_name.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            target.name
        )));
    }
    let path = node_path(target, params, &pod)?;
    let node = api
        .store
        .read_value(&NODE.key("", node_name))?
        .ok_or_else(|| Status::not_found(NODE, node_name))?;
    let (address, port) = node_address(&node)?;
    let unreachable = |error: String| {
        Status::internal(format!(
            "error dialing node {node_name} at {address}:{port}: {error}"
        ))
    };

    let dialled =
        tokio::time::timeout(DIAL_TIMEOUT, dial(&api.config.node_tls, &address, port)).await;
    let stream = dialled
        .map_err(|_| unreachable("timed out".to_owned()))?
        .map_err(unreachable)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    // Ends with the connection: when either side closes, or the client drops the response.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a node ended");
        }
    });

    let (parts, _) = request.into_parts();
    let mut onward = Request::new(Empty::<Bytes>::new());
    *onward.method_mut() = parts.method.clone();
    *onward.uri_mut() = path
        .parse()
        .map_err(|_| Status::bad_request("the request cannot be sent to the node"))?;
    for (name, value) in &parts.headers {
        // The caller's own credentials are not the node's business.
        let private = *name == header::AUTHORIZATION
            || *name == header::HOST
            || *name == header::COOKIE
            || name.as_str().starts_with("impersonate-");
        if !private {
            onward.headers_mut().append(name, value.clone());
        }
    }
    let host = HeaderValue::from_str(&format!("{address}:{port}"));
    onward.headers_mut().insert(
        header::HOST,
        host.map_err(|error| unreachable(error.to_string()))?,
    );
    let answered = tokio::time::timeout(DIAL_TIMEOUT, sender.send_request(onward)).await;
    let mut answer = answered
        .map_err(|_| unreachable("no answer in time".to_owned()))?
        .map_err(|error| unreachable(error.to_string()))?;

    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = parts.extensions.get::<OnUpgrade>().cloned() else {
            return Err(Status::bad_request("this connection cannot be upgraded"));
        };
        let node_side = hyper::upgrade::on(&mut answer);
        tokio::spawn(splice(client, node_side));
        return Ok(answer.map(|_| crate::respond::empty()));
    }
    if !answer.status().is_success() {
        return Err(refusal(answer).await);
    }
    // Dropping the body drops the connection to the node. The sender must outlive the body's reading.
    let (parts, body) = answer.into_parts();
    let body = body
        .map_err(|error| Box::new(error) as BodyError)
        .map_frame(move |frame| {
            let _open = &sender;
            frame
        });
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = parts.status;
    if let Some(content_type) = parts.headers.get(header::CONTENT_TYPE) {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type.clone());
    }
    Ok(response)
}

/// Passes bytes both ways until both sides are done.
async fn splice(client: OnUpgrade, node: OnUpgrade) {
    let (client, node) = match (client.await, node.await) {
        (Ok(client), Ok(node)) => (client, node),
        (Err(error), _) | (_, Err(error)) => {
            tracing::debug!(%error, "a stream was not upgraded");
            return;
        }
    };
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
        tracing::debug!(%error, "a stream was cut");
    }
}

async fn dial(
    tls: &std::sync::Arc<rustls::ClientConfig>,
    address: &str,
    port: u16,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let stream = TcpStream::connect((address, port))
        .await
        .map_err(|error| error.to_string())?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let name = ServerName::try_from(address.to_owned()).map_err(|error| error.to_string())?;
    TlsConnector::from(tls.clone())
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())
}

/// The node's own words, as a Status.
async fn refusal(answer: Response<hyper::body::Incoming>) -> Status {
    let code = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), MAX_REFUSAL_BYTES)
        .collect()
        .await;
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    if let Some(status) = serde_json::from_slice(&bytes)
        .ok()
        .and_then(|value| Status::from_value(&value))
    {
        return status;
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let text = if text.is_empty() {
        code.to_string()
    } else {
        text
    };
    match code {
        StatusCode::NOT_FOUND => Status::new(404, "NotFound", text, None),
        code if code.is_client_error() => Status::new(code.as_u16(), "BadRequest", text, None),
        _ => Status::internal(text),
    }
}

fn node_address(node: &Value) -> Result<(String, u16), Status> {
    let status = node.get("status");
    let addresses = status
        .and_then(|status| status.get("addresses"))
        .and_then(Value::as_array);
    let address = addresses
        .into_iter()
        .flatten()
        .find(|address| address.get("type").and_then(Value::as_str) == Some("InternalIP"))
        .and_then(|address| address.get("address")?.as_str())
        .ok_or_else(|| {
            Status::internal(format!("node {} has no internal address", meta::name(node)))
        })?;
    let port = status
        .and_then(|status| {
            status
                .get("daemonEndpoints")?
                .get("kubeletEndpoint")?
                .get("Port")?
                .as_u64()
        })
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(DEFAULT_NODE_PORT);
    Ok((address.to_owned(), port))
}

/// The path and query under which the node agent serves what was asked for.
fn node_path(target: &Target, params: &Params, pod: &Value) -> Result<String, Status> {
    let part = target.part();
    let mut query = Serializer::new(String::new());
    let place = format!("{}/{}", target.namespace(), target.name);
    if part == "portforward" {
        for ports in params.all("ports") {
            for port in ports.split(',') {
                query.append_pair("port", port);
            }
        }
        return Ok(with_query(format!("/portForward/{place}"), query));
    }
    let container = container(params.text("container"), pod)?;
    if part == "log" {
        log_query(params, &mut query)?;
        return Ok(with_query(
            format!("/containerLogs/{place}/{container}"),
            query,
        ));
    }
    // kubectl asks for exec in words, the node is asked as a kubelet is.
    for (asked, onward) in [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ] {
        // Attach shows output where nothing is said.
        let default = part == "attach" && matches!(asked, "stdout" | "stderr");
        if params.optional_flag(asked).unwrap_or(default) {
            query.append_pair(onward, "1");
        }
    }
    if part == "exec" {
        if params.all("command").is_empty() {
            return Err(Status::bad_request(
                "you must specify at least one command for the container",
            ));
        }
        for command in params.all("command") {
            query.append_pair("command", command);
        }
    }
    Ok(with_query(format!("/{part}/{place}/{container}"), query))
}

fn with_query(path: String, mut query: Serializer<'_, String>) -> String {
    let query = query.finish();
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

fn log_query(params: &Params, query: &mut Serializer<'_, String>) -> Result<(), Status> {
    for flag in ["follow", "previous", "timestamps"] {
        if params.flag(flag) {
            query.append_pair(flag, "true");
        }
    }
    for number in ["tailLines", "sinceSeconds", "limitBytes"] {
        let text = params.text(number);
        if text.is_empty() {
            continue;
        }
        let smallest = if number == "tailLines" { 0 } else { 1 };
        match text.parse::<i64>() {
            Ok(value) if value >= smallest => {
                query.append_pair(number, text);
            }
            Ok(value) => {
                let why = format!("must be greater than or equal to {smallest}");
                let error = trireme_model::status::FieldError::invalid(number, value, why);
                return Err(Status::invalid_kind("", "PodLogOptions", "", vec![error]));
            }
            Err(_) => {
                return Err(Status::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                )));
            }
        }
    }
    let since = params.text("sinceTime");
    if !since.is_empty() {
        if since.parse::<jiff::Timestamp>().is_err() {
            return Err(Status::bad_request(format!(
                "sinceTime: {since:?} is not an RFC 3339 time"
            )));
        }
        query.append_pair("sinceTime", since);
    }
    Ok(())
}

/// The container that is meant: the one asked for, the annotated default, or the only one.
fn container(asked: &str, pod: &Value) -> Result<String, Status> {
    let name = meta::name(pod);
    let names = |field: &str| -> Vec<String> {
        let list = pod
            .get("spec")
            .and_then(|spec| spec.get(field))
            .and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|one| one.get("name")?.as_str().map(str::to_owned))
            .collect()
    };
    let (containers, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    if !asked.is_empty() {
        let known = containers
            .iter()
            .chain(&init)
            .chain(&ephemeral)
            .any(|one| one == asked);
        if known {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        )));
    }
    let default = meta::annotation(pod, "kubectl.kubernetes.io/default-container");
    if let Some(default) = default.filter(|default| containers.iter().any(|one| one == default)) {
        return Ok(default.to_owned());
    }
    match containers.as_slice() {
        [one] => Ok(one.clone()),
        many => {
            let init = if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            };
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]{init}",
                many.join(" ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use trireme_model::kinds;

    fn target(part: &str) -> Target {
        Target {
            subresource: kinds::POD.subresource(part),
            ..Target::object(kinds::POD, "ns", "web")
        }
    }

    fn path(part: &str, query: &str, pod: &Value) -> Result<String, String> {
        node_path(&target(part), &Params::parse(Some(query)), pod).map_err(|status| status.message)
    }

    #[test]
    fn paths_are_those_of_a_kubelet() {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}]}});
        assert_eq!(
            path(
                "exec",
                "command=sh&command=-c&command=a%20b&stdin=true&stdout=true&tty=true",
                &pod
            )
            .unwrap(),
            "/exec/ns/web/app?input=1&output=1&tty=1&command=sh&command=-c&command=a+b"
        );
        assert_eq!(
            path("attach", "", &pod).unwrap(),
            "/attach/ns/web/app?output=1&error=1"
        );
        assert_eq!(
            path("portforward", "ports=80,81", &pod).unwrap(),
            "/portForward/ns/web?port=80&port=81"
        );
        assert_eq!(
            path("portforward", "", &pod).unwrap(),
            "/portForward/ns/web"
        );
        assert_eq!(
            path("log", "follow=true&tailLines=5&container=app", &pod).unwrap(),
            "/containerLogs/ns/web/app?follow=true&tailLines=5"
        );
        assert!(
            path("log", "tailLines=-1", &pod)
                .unwrap_err()
                .contains("greater than or equal to 0")
        );
        assert_eq!(
            path("log", "container=x", &pod).unwrap_err(),
            "container x is not valid for pod web"
        );
    }

    #[test]
    fn several_containers_need_a_choice() {
        let mut pod = json!({"metadata": {"name": "web"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(
            path("log", "", &pod).unwrap_err(),
            "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i]"
        );
        pod["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(path("log", "", &pod).unwrap(), "/containerLogs/ns/web/b");
    }

    #[test]
    fn a_node_says_where_it_listens() {
        let node = json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.7"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}}}});
        assert_eq!(node_address(&node).unwrap(), ("10.0.0.7".to_owned(), 10251));
        assert_eq!(
            node_address(&json!({"metadata": {"name": "n"}}))
                .unwrap_err()
                .code,
            500
        );
    }
}
