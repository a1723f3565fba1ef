//! What a request of a workload would meet: the question in its wire form to the mesh's words.

use http::{HeaderName, HeaderValue, Method, Uri};
use serde_json::json;
use tonic::Status;
use trireme_decide::ObjectKey;
use trireme_mesh::explain::{Explanation, Request, route};
use trireme_mesh::{Mesh, Workload};
use trireme_proto::v1::{ExplainRouteReply, ExplainRouteRequest};
use trireme_proxy_decide::head::RequestHead;
use trireme_xds_server::MeshSource;

pub fn explain(
    source: &MeshSource,
    asked: &ExplainRouteRequest,
) -> Result<ExplainRouteReply, Status> {
    let request = request(asked)?;
    let answer = source.with(|mesh| {
        let workload = workload(mesh, asked)?;
        let explanation = route(mesh, &workload, &request);
        Ok(reply(asked, &workload, &explanation))
    });
    answer.unwrap_or_else(|| {
        Err(Status::unavailable(
            "this server has not read the cluster's objects yet; try again",
        ))
    })
}

/// The pod whose request it is: the one that is named, or any of a Deployment's that runs.
fn workload(mesh: &Mesh, asked: &ExplainRouteRequest) -> Result<Workload, Status> {
    let (namespace, name) = (&asked.from_namespace, &asked.from_name);
    let pods = &mesh.view().pods;
    let key = match asked.from_kind.to_ascii_lowercase().as_str() {
        "pod" | "pods" | "po" => Some(ObjectKey::new(namespace.clone(), name.clone())),
        "deployment" | "deployments" | "deploy" => {
            let mut of_workload = pods
                .iter()
                .filter(|(key, pod)| key.namespace == *namespace && pod.workload == *name);
            let live = of_workload.clone().find(|(_, pod)| pod.live);
            live.or_else(|| of_workload.next())
                .map(|(key, _)| key.clone())
        }
        other => {
            return Err(Status::invalid_argument(format!(
                "--from {other}/{name}: say deploy/NAME or pod/NAME"
            )));
        }
    };
    key.and_then(|key| mesh.workload_of_pod(&key))
        .ok_or_else(|| {
            Status::not_found(format!(
                "no pod of {} {namespace}/{name} is known",
                asked.from_kind
            ))
        })
}

fn request(asked: &ExplainRouteRequest) -> Result<Request, Status> {
    let wrong = |what: String| Status::invalid_argument(what);
    let uri: Uri = asked.url.parse().map_err(|error| {
        wrong(format!(
            "--to {:?} is not http://HOST/PATH: {error}",
            asked.url
        ))
    })?;
    let https = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => {
            return Err(wrong(format!(
                "--to {:?} is not http://HOST/PATH",
                asked.url
            )));
        }
    };
    let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else {
        return Err(wrong(format!("--to {:?} names no host", asked.url)));
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut head = RequestHead::get(authority.as_str(), path)
        .ok_or_else(|| wrong(format!("--to {:?} is no request", asked.url)))?;
    head.https = https;
    if !asked.method.is_empty() {
        head.method = Method::from_bytes(asked.method.as_bytes())
            .map_err(|_| wrong(format!("{:?} is no method", asked.method)))?;
    }
    for header in &asked.headers {
        let name = header.name.to_ascii_lowercase();
        let value = HeaderValue::from_str(&header.value)
            .map_err(|_| wrong(format!("header {name}: {:?} is no value", header.value)))?;
        if name == "host" {
            head.authority = value;
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| wrong(format!("{:?} is no header name", header.name)))?;
        head.headers.append(name, value);
    }
    Ok(Request {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: uri
            .port_u16()
            .map_or(if https { 443 } else { 80 }, u32::from),
        head,
        draw: 0,
    })
}

fn reply(
    asked: &ExplainRouteRequest,
    workload: &Workload,
    explanation: &Explanation,
) -> ExplainRouteReply {
    let steps = explanation
        .steps
        .iter()
        .map(|step| json!({ "what": step.what, "result": step.result, "object": step.object }));
    let document = json!({
        "from": {
            "namespace": workload.namespace,
            "pod": workload.name,
            "workload": workload.workload_name,
        },
        "to": asked.url,
        "steps": steps.collect::<Vec<_>>(),
        "outcome": explanation.outcome,
    });
    ExplainRouteReply {
        text: format!(
            "from: pod {}/{}\n{explanation}",
            workload.namespace, workload.name
        ),
        json: document.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use trireme_proto::v1::ExplainHeader;

    use super::*;

    fn asked(url: &str) -> ExplainRouteRequest {
        ExplainRouteRequest {
            url: url.to_owned(),
            headers: vec![ExplainHeader {
                name: "End-User".into(),
                value: "jason".into(),
            }],
            ..ExplainRouteRequest::default()
        }
    }

    #[test]
    fn a_url_becomes_a_request() {
        let read = request(&asked("http://reviews:9080/a?b=c")).expect("valid");
        assert_eq!((read.host.as_str(), read.port), ("reviews", 9080));
        assert_eq!(read.head.authority(), "reviews:9080");
        assert_eq!(read.head.path.as_str(), "/a?b=c");
        assert_eq!(read.head.first("end-user"), Some("jason"));
        let read = request(&asked("https://reviews")).expect("valid");
        assert_eq!((read.port, read.head.path.as_str()), (443, "/"));
    }

    #[test]
    fn what_is_no_request_says_why() {
        let refused = |url: &str| {
            request(&asked(url))
                .expect_err("refused")
                .message()
                .to_owned()
        };
        assert!(refused("reviews/a").contains("is not http://HOST/PATH"));
        assert!(refused("ftp://reviews/a").contains("is not http://HOST/PATH"));
        let mut bad = asked("http://a/");
        bad.method = "G T".into();
        assert!(request(&bad).is_err());
    }
}
