//! What a request would meet, step by step, each with the object that is to thank for it.
//!
//! Configuration is made and read back as the workload's proxy would read it, and the route is found by the proxy's own
//! decision (`trireme_proxy_decide::route`), so that this cannot say anything else than what happens.

mod destination;
mod entry;

use std::fmt;
use std::sync::Arc;

use trireme_proxy_decide::head::RequestHead;
use trireme_proxy_decide::route::{self as decide, Lookup, Place};
use trireme_xds::parse;

use crate::Kind;
use crate::mesh::Mesh;
use crate::proto::{protobuf, route as pb};
use crate::resource::Subscription;
use crate::workload::Workload;

/// A request as somebody asks about it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method, path and headers; the authority is that of `host`, with `:port` where the client would write it.
    pub head: RequestHead,
    /// As the client names it: `reviews`, `reviews.shop`, `api.example.com`, `10.96.0.7`.
    pub host: String,
    pub port: u32,
    /// The share of requests that this one stands for, where several clusters have weights: anything below 2^64.
    pub draw: u64,
}

/// One thing on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub what: String,
    pub result: String,
    /// `VirtualService shop/reviews`, where an object is behind it.
    pub object: Option<String>,
}

/// See the module's page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    pub steps: Vec<Step>,
    /// In one line.
    pub outcome: String,
}

impl Explanation {
    fn add(&mut self, what: impl Into<String>, result: impl Into<String>, object: Option<&str>) {
        self.steps.push(Step {
            what: what.into(),
            result: result.into(),
            object: object.map(object_name),
        });
    }

    fn end(mut self, outcome: impl Into<String>) -> Explanation {
        self.outcome = outcome.into();
        self
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(out, "{}: {}", step.what, step.result)?;
            match &step.object {
                Some(object) => writeln!(out, "  [{object}]")?,
                None => writeln!(out)?,
            }
        }
        writeln!(out, "=> {}", self.outcome)
    }
}

/// `/apis/GROUP/VERSION/namespaces/NS/virtual-service/NAME` as people say it.
fn object_name(reference: &str) -> String {
    let parts: Vec<&str> = reference.trim_start_matches('/').split('/').collect();
    let [_, _, _, _, namespace, kind, name] = parts[..] else {
        return reference.to_owned();
    };
    let mut spelled = String::with_capacity(kind.len());
    for word in kind.split('-') {
        let mut letters = word.chars();
        spelled.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        spelled.extend(letters);
    }
    format!("{spelled} {namespace}/{name}")
}

/// What the request would meet on its way from the workload.
pub fn route(mesh: &Mesh, workload: &Workload, request: &Request) -> Explanation {
    let mut told = Explanation::default();
    let scope = mesh.scope(workload);
    match entry::find(mesh, &scope, workload, request, &mut told) {
        entry::Entry::Routes(name) => through_routes(mesh, workload, request, &name, told),
        entry::Entry::Clusters(clusters) => {
            for (weight, name) in &clusters {
                destination::cluster(mesh, workload, name, Some(*weight), &mut told);
            }
            let names: Vec<&str> = clusters.iter().map(|(_, name)| name.as_str()).collect();
            let outcome = format!("passed on as TCP to {}", names.join(" or "));
            told.end(outcome)
        }
        entry::Entry::Nothing(outcome) => told.end(outcome),
    }
}

fn through_routes(
    mesh: &Mesh,
    workload: &Workload,
    request: &Request,
    name: &str,
    mut told: Explanation,
) -> Explanation {
    let names = Subscription::Names([name.to_owned()].into());
    let made = mesh.generate(workload, Kind::Route, &names);
    let message: Option<pb::RouteConfiguration> = made
        .first()
        .and_then(|it| trireme_xds::unpack(&it.body).ok());
    let Some(message) = message else {
        return told.end(format!("the proxy has no routes {name}: 404"));
    };
    let configuration = match parse::routes(&message) {
        Ok(configuration) => Arc::new(configuration),
        Err(error) => return told.end(format!("the proxy refuses routes {name}: {error}")),
    };
    let (lookup, trace) = decide::explain(&configuration, &request.head, true, request.draw);
    for step in trace.steps {
        let object = step.origin.as_ref().map(|it| it.path().to_owned());
        told.add(step.what, step.result, object.as_deref());
    }
    let place = match lookup {
        Lookup::Found(place) => place,
        Lookup::NeedsTls(_) => return told.end("redirected to https (301)"),
        Lookup::NoRoute(_) => return told.end("404: no route of the virtual host matches"),
        Lookup::NoVirtualHost => return told.end("404: no virtual host has this authority"),
    };
    let Some(written) = written(&message, &place) else {
        return told.end("the route is not in the configuration any more");
    };
    let object = place.origin().map(|it| it.path().to_owned());
    let object = object.as_deref();
    if let Some(fault) = place.fault() {
        destination::fault(fault, object, &mut told);
    }
    match &written.action {
        Some(pb::route::Action::Route(action)) => {
            destination::policies(action, object, &mut told);
            destination::all(mesh, workload, action, &mut told);
            let cluster = place.cluster(&request.head).unwrap_or("").to_owned();
            let outcome = destination::outcome(mesh, workload, &cluster);
            told.end(outcome)
        }
        Some(pb::route::Action::DirectResponse(answer)) => {
            let outcome = format!("answered {} by the proxy itself", answer.status);
            told.end(outcome)
        }
        Some(pb::route::Action::Redirect(_)) => told.end("redirected"),
        _ => told.end("404: the route leads nowhere"),
    }
}

/// The route as it was written, of which the proxy's form has less.
fn written<'a>(message: &'a pb::RouteConfiguration, place: &Place) -> Option<&'a pb::Route> {
    let host = place.virtual_host();
    let index = host
        .routes
        .iter()
        .position(|it| Arc::ptr_eq(it, place.route()))?;
    let mut hosts = message.virtual_hosts.iter();
    hosts.find(|it| *it.name == *host.name)?.routes.get(index)
}

fn length(duration: &protobuf::Duration) -> String {
    let millis = duration.seconds * 1000 + i64::from(duration.nanos / 1_000_000);
    match millis % 1000 {
        0 => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}
