//! What a case is, and how what two proxies did is compared.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{self, Request, Response};
use crate::place::Place;
use crate::proxy::Proxy;
use crate::shape::Resources;
use crate::statistics;
use crate::upstream::{Attempt, Upstreams};

/// What one proxy did in a case.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Compared as it is.
    pub exact: Value,
    /// Each a sample of counts, compared by chi-squared.
    pub samples: BTreeMap<String, BTreeMap<String, u64>>,
    /// Milliseconds, each with how far apart the two may be.
    pub times: BTreeMap<String, (f64, f64)>,
}

pub type Running = Pin<Box<dyn Future<Output = Result<Observation>> + Send>>;
pub type Script = Box<dyn Fn(Stand) -> Running + Send + Sync>;
pub type Configuration = Box<dyn Fn(&Place) -> Resources + Send + Sync>;

/// Requests of which the fastest counts.
const TIMED: usize = 4;
/// Times may differ by this share,
const TIME_SHARE: f64 = 0.05;
/// and by what the machine's scheduling adds.
const TIME_SLACK_MS: f64 = 60.0;
/// Answers in a row that show a change to be in force.
const CHANGED: usize = 6;
/// By then it is, also on a loaded machine.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// A configuration and a script of requests.
pub struct Case {
    pub group: &'static str,
    pub name: String,
    /// Scripted servers that it needs.
    pub hosts: usize,
    pub configuration: Configuration,
    pub script: Script,
    /// What each proxy must have shown by itself, beside being as the other.
    pub expected: Vec<(String, Vec<(&'static str, f64)>)>,
}

impl Case {
    pub fn new<C, S, F>(
        group: &'static str,
        name: impl Into<String>,
        hosts: usize,
        configuration: C,
        script: S,
    ) -> Case
    where
        C: Fn(&Place) -> Resources + Send + Sync + 'static,
        S: Fn(Stand) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Observation>> + Send + 'static,
    {
        Case {
            group,
            name: name.into(),
            hosts,
            configuration: Box::new(configuration),
            script: Box::new(move |stand| Box::pin(script(stand))),
            expected: Vec::new(),
        }
    }

    /// A sample of both must be drawn from these shares.
    pub fn expecting(mut self, sample: &str, shares: &[(&'static str, f64)]) -> Case {
        self.expected.push((sample.to_owned(), shares.to_vec()));
        self
    }

    /// Sends the requests one after the other; answers, what the servers saw and the log are compared.
    pub fn exchanges<C>(
        group: &'static str,
        name: impl Into<String>,
        hosts: usize,
        configuration: C,
        requests: Vec<Request>,
    ) -> Case
    where
        C: Fn(&Place) -> Resources + Send + Sync + 'static,
    {
        Case::new(group, name, hosts, configuration, move |stand| {
            let requests = requests.clone();
            async move { stand.exchanges(&requests).await }
        })
    }
}

/// A proxy with a case's configuration, and the servers behind it.
#[derive(Clone)]
pub struct Stand {
    pub place: Place,
    pub upstreams: Upstreams,
    pub proxy: Arc<Proxy>,
}

impl Stand {
    /// The key of this side's request of a number.
    pub fn key(&self, number: usize) -> String {
        format!("{}/{}/{number:05}/", self.place.side, self.place.name)
    }

    /// Sends a request under its own key.
    pub async fn send(&self, number: usize, request: &Request) -> Result<Response> {
        let request = request.clone().header("x-key", &self.key(number));
        client::send(self.place.listener, &request).await
    }

    /// Tells the proxy of changed routes and endpoints, and asks until `there` says of an answer that the change is in
    /// force. Answers what came on the way; every proxy is asked under keys from `first` on.
    pub async fn change(
        &self,
        resources: &Resources,
        first: usize,
        request: &Request,
        there: impl Fn(&Response) -> bool,
    ) -> Result<Vec<Response>> {
        self.proxy.change(resources)?;
        let begin = Instant::now();
        let mut seen = Vec::new();
        // A change is there once it is there several times: two hosts take turns.
        let mut in_a_row = 0;
        for number in first.. {
            let response = self.send(number, request).await?;
            in_a_row = if there(&response) { in_a_row + 1 } else { 0 };
            seen.push(response);
            if in_a_row >= CHANGED {
                break;
            }
            ensure!(
                begin.elapsed() < CHANGE_LIMIT,
                "the change is not in force after {} s",
                CHANGE_LIMIT.as_secs()
            );
        }
        Ok(seen)
    }

    /// What reached the servers of a request.
    pub fn attempts(&self, number: usize) -> Vec<Attempt> {
        self.upstreams.attempts(&self.key(number))
    }

    /// Hosts that a request was sent to, and what each was sent.
    pub fn seen(&self, number: usize) -> Value {
        self.seen_as(number, true)
    }

    /// The same; whether what came later are tries of the first.
    pub fn seen_as(&self, number: usize, tries: bool) -> Value {
        let mut list = Vec::new();
        for (index, attempt) in self.attempts(number).into_iter().enumerate() {
            let mut request = self.without_chance(attempt.seen);
            // What is left of the time, to the millisecond.
            if tries
                && index > 0
                && let Some(left) = request.pointer_mut("/headers/x-envoy-expected-rq-timeout-ms")
            {
                *left = json!("(less)");
            }
            list.push(json!({ "host": attempt.host, "request": request }));
        }
        list.into()
    }

    /// A request without what differs from run to run and from side to side.
    fn without_chance(&self, mut seen: Value) -> Value {
        if let Some(headers) = seen["headers"].as_object_mut() {
            headers.remove("x-key");
            headers.remove("x-plan");
            if let Some(list) = headers.get_mut("x-forwarded-for") {
                *list = json!(
                    list.as_array()
                        .into_iter()
                        .flatten()
                        .map(by_whom)
                        .collect::<Vec<_>>()
                );
            }
            for name in ["x-request-id", "traceparent"] {
                if let Some(value) = headers.get_mut(name) {
                    *value = json!("(any)");
                }
            }
        }
        let text = seen.to_string();
        let own = self.place.listener.to_string();
        serde_json::from_str(&text.replace(&own, "LISTENER")).unwrap_or(seen)
    }

    pub async fn exchanges(&self, requests: &[Request]) -> Result<Observation> {
        let mut responses = Vec::new();
        for (number, request) in requests.iter().enumerate() {
            responses.push(self.send(number, request).await?);
        }
        let mut list = Vec::new();
        for (number, (request, response)) in requests.iter().zip(&responses).enumerate() {
            let own = self.place.listener.to_string();
            let text = response.json().to_string().replace(&own, "LISTENER");
            list.push(json!({
                "request": format!("{} {}", request.method, request.target),
                "response": serde_json::from_str::<Value>(&text)?,
                "upstream": self.seen(number),
                "log": self.log(number).await?,
            }));
        }
        Ok(Observation {
            exact: list.into(),
            ..Observation::default()
        })
    }

    /// Code, flags and attempts that the access log has of a request.
    pub async fn log(&self, number: usize) -> Result<Value> {
        let line = self.proxy.log_line(&self.key(number)).await?;
        let mut words = line.split(' ').skip(1);
        let mut word = || words.next().unwrap_or("?").to_owned();
        Ok(json!({ "code": word(), "flags": word(), "attempts": word() }))
    }

    /// Counters of one of the case's clusters.
    pub async fn counters(&self, cluster: &str, names: &[&str]) -> Result<Value> {
        let prefix = format!("cluster.{}.", self.place.cluster(cluster));
        let all = self.proxy.statistics(&prefix).await?;
        let picked: BTreeMap<&str, u64> = names
            .iter()
            .map(|name| {
                (
                    *name,
                    all.get(&format!("{prefix}{name}")).copied().unwrap_or(0),
                )
            })
            .collect();
        Ok(json!(picked))
    }

    /// How many of `count` requests each host, or each status where no host answered, got.
    pub async fn sample(&self, count: usize, request: &Request) -> Result<BTreeMap<String, u64>> {
        let mut sample = BTreeMap::new();
        for number in 0..count {
            let response = self.send(number, request).await?;
            let class = match response.get("x-host") {
                Some(host) => host.to_owned(),
                None => response.status.to_string(),
            };
            *sample.entry(class).or_insert(0) += 1;
        }
        Ok(sample)
    }

    /// The least time that a request takes of a few, and how far apart the two sides may be: a busy machine makes an
    /// answer later, never earlier. Numbered from 1.
    pub async fn least_time(&self, request: &Request, first: Duration) -> Result<(f64, f64)> {
        let mut least = first;
        for number in 1..TIMED {
            least = least.min(self.send(number, request).await?.took);
        }
        let time = milliseconds(least);
        Ok((time, time * TIME_SHARE + TIME_SLACK_MS))
    }

    /// Sends `count` requests at once, numbered from `first`; answers in their order.
    pub async fn at_once(
        &self,
        first: usize,
        count: usize,
        request: &Request,
    ) -> Result<Vec<Response>> {
        let sent = (first..first + count).map(|number| self.send(number, request));
        futures_util::future::try_join_all(sent).await
    }
}

/// Forwarding addresses that a client named stay; those that a proxy adds depend on the machine: for a client
/// on loopback Envoy names the machine's own address, we name the client's.
fn by_whom(value: &Value) -> String {
    let named = |address: &str| match address.trim() {
        "192.0.2.7" => "192.0.2.7",
        _ => "(added)",
    };
    let text = value.as_str().unwrap_or_default();
    text.split(',').map(named).collect::<Vec<_>>().join(",")
}

/// Why what the two did is not the same; nothing where it is.
pub fn compare(case: &Case, envoy: &Observation, own: &Observation) -> Result<()> {
    let mut differences = Vec::new();
    differ("", &envoy.exact, &own.exact, &mut differences);
    if !differences.is_empty() {
        let more = differences.len().saturating_sub(6);
        differences.truncate(6);
        let more = if more > 0 {
            format!("\n      and {more} more")
        } else {
            String::new()
        };
        bail!("{}{more}", differences.join("\n      "));
    }
    for (name, sample) in &envoy.samples {
        let other = own.samples.get(name).cloned().unwrap_or_default();
        let (statistic, freedom) = statistics::two_samples(sample, &other);
        let limit = statistics::chi_squared_limit(freedom);
        ensure!(
            statistic <= limit,
            "{name}: envoy {sample:?}, ours {other:?}: chi-squared {statistic:.1} over {limit:.1}"
        );
    }
    for (name, (time, tolerance)) in &envoy.times {
        let Some((other, _)) = own.times.get(name) else {
            bail!("{name}: envoy {time:.0} ms, ours never");
        };
        ensure!(
            (time - other).abs() <= *tolerance,
            "{name}: envoy {time:.0} ms, ours {other:.0} ms, more than {tolerance:.0} ms apart"
        );
    }
    expect(case, own)
}

/// Whether a proxy's samples are drawn from the shares that the configuration asks for.
pub fn expect(case: &Case, observation: &Observation) -> Result<()> {
    for (name, shares) in &case.expected {
        let sample = observation.samples.get(name).cloned().unwrap_or_default();
        let (statistic, freedom) = statistics::one_sample(&sample, shares);
        let limit = statistics::chi_squared_limit(freedom);
        ensure!(
            statistic <= limit,
            "{name}: {sample:?} is not of {shares:?}: chi-squared {statistic:.1} over {limit:.1}"
        );
    }
    Ok(())
}

fn differ(path: &str, envoy: &Value, own: &Value, found: &mut Vec<String>) {
    match (envoy, own) {
        (Value::Object(one), Value::Object(other)) => {
            let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let side = |map: &serde_json::Map<String, Value>| {
                    map.get(name).cloned().unwrap_or(Value::Null)
                };
                differ(&format!("{path}.{name}"), &side(one), &side(other), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differ(&format!("{path}[{index}]"), one, other, found);
            }
        }
        _ if envoy == own => {}
        _ => found.push(format!("{path}: envoy {envoy}, ours {own}")),
    }
}

/// Milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
