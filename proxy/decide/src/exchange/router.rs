//! The router: answers itself, or chooses a cluster and a host and tries until there is an
//! answer.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::connection::Context;
use super::effect::{Attempt, Effect, Mirrored};
use super::hop::INTERNAL;
use super::reply::{ATTEMPT_COUNT, LocalReply, OVERLOADED};
use super::{Current, Exchange, Forwarding, Stage};
use crate::balance::Choice;
use crate::config::{HostRewrite, RetryPolicy, RouteAction};
use crate::flags::Flags;
use crate::format::StreamFacts;
use crate::head::RequestHead;
use crate::header_change::change_request;
use crate::outlier::Outcome;
use crate::retry::{Broken, Decision, Limits, Retries};
use crate::route::Place;
use crate::time::Nanos;
use crate::timeouts::Timeouts;
use crate::upstream::{ClusterStats, Lease};
use crate::{hash, rewrite};

const DROP_OVERLOAD: HeaderName = HeaderName::from_static("x-envoy-drop-overload");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Exchange {
    /// What the route wants.
    pub(super) fn route(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        self.see(context.now);
        let envoy_headers = !self.connection.hcm.router().suppress_envoy_headers;
        let Some(place) = self.place.clone() else {
            if self.needs_tls {
                let location = rewrite::https_location(&self.head);
                self.reply(
                    LocalReply::new(301, "", "direct_response").location(location),
                    effects,
                );
            } else {
                self.reply(
                    LocalReply::new(404, "", "route_not_found").flags(Flags::NO_ROUTE_FOUND),
                    effects,
                );
            }
            return;
        };
        match &place.route().action {
            RouteAction::Direct(direct) => self.reply(LocalReply::direct(direct), effects),
            RouteAction::Redirect(redirect) => {
                let location =
                    rewrite::redirect(redirect, place.route(), &mut self.head, envoy_headers);
                self.reply(
                    LocalReply::new(redirect.status.as_u16(), "", "direct_response")
                        .location(location),
                    effects,
                );
            }
            // To Envoy a route to a cluster without a name.
            RouteAction::NonForwarding => self.reply(
                LocalReply::new(503, "", "cluster_not_found").flags(Flags::NO_CLUSTER_FOUND),
                effects,
            ),
            RouteAction::Forward(_) => self.forward(&place, envoy_headers, context, effects),
        }
    }

    fn forward(
        &mut self,
        place: &Place,
        envoy_headers: bool,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(forward) = place.forward() else {
            return;
        };
        let name: Arc<str> = Arc::from(place.cluster(&self.head).unwrap_or(""));
        let Some(cluster) = context.live.cluster(&name, context.now).cloned() else {
            self.reply(
                LocalReply::new(forward.cluster_not_found_status, "", "cluster_not_found")
                    .flags(Flags::NO_CLUSTER_FOUND),
                effects,
            );
            return;
        };
        let mut set_cookies = Vec::new();
        let request_hash = hash::of_place(
            place,
            &self.head,
            self.remote,
            self.connection.local,
            &mut set_cookies,
        );
        self.forwarding = Some(Box::new(Forwarding {
            priority: forward.priority,
            labels: place.labels(),
            hash: request_hash,
            timeouts: Timeouts::default(),
            retries: None,
            attempts: 0,
            current: None,
            last_host: None,
            global: None,
            set_cookies,
            keeps_body: false,
            cluster,
            name,
        }));
        if self.drops_overload(context, effects) {
            return;
        }
        let Some(host) = self.choose(context) else {
            self.no_healthy_upstream(effects);
            return;
        };
        let policy = place.retry_policy();
        self.prepare(place, policy, envoy_headers);
        self.mirror(place, context, effects);
        self.attempt(place, host, context, effects);
    }

    /// A share of requests that the control plane asked to drop.
    fn drops_overload(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) -> bool {
        let Some(cluster) = self.cluster().cloned() else {
            return false;
        };
        let drops = cluster.endpoints().is_some_and(|endpoints| {
            endpoints
                .drop_overloads
                .iter()
                .any(|(_, share)| share.covers(context.rng.next_u64()))
        });
        if drops {
            ClusterStats::inc(&cluster.stats.upstream_rq_drop_overload);
            self.reply(
                LocalReply::new(503, "drop overload", "drop_overload")
                    .flags(Flags::DROP_OVERLOAD)
                    .header(DROP_OVERLOAD, "true")
                    .attempt(),
                effects,
            );
        }
        drops
    }

    fn no_healthy_upstream(&mut self, effects: &mut Vec<Effect>) {
        if let Some(forwarding) = &mut self.forwarding {
            forwarding.attempts = forwarding.attempts.max(1);
            forwarding.cluster.stats.answered(503);
        }
        self.reply(
            LocalReply::new(503, "no healthy upstream", "no_healthy_upstream")
                .flags(Flags::NO_HEALTHY_UPSTREAM)
                .attempt(),
            effects,
        );
    }

    /// Headers, timeouts and retries of the request as it goes upstream.
    fn prepare(&mut self, place: &Place, policy: Option<&Arc<RetryPolicy>>, envoy_headers: bool) {
        let Some(forward) = place.forward() else {
            return;
        };
        let Some(mut forwarding) = self.forwarding.take() else {
            return;
        };
        let respect = self.connection.hcm.router().respect_expected_rq_timeout;
        forwarding.timeouts = Timeouts::of(
            forward,
            policy.map(|policy| &**policy),
            forwarding.cluster.config.http.max_stream_duration,
            respect,
            &mut self.head,
            self.grpc,
            self.envoy,
        );
        forwarding.timeouts.announce(
            forward,
            std::time::Duration::ZERO,
            envoy_headers,
            self.grpc,
            &mut self.head.headers,
        );
        if place.virtual_host().include_request_attempt_count {
            self.head
                .headers
                .insert(ATTEMPT_COUNT, HeaderValue::from(1));
        }
        let connection = self.connection.clone();
        let mut envoy = self.envoy;
        for changes in place.header_changes() {
            // What is added may ask for retries too.
            envoy = true;
            let facts = StreamFacts {
                upstream_cluster: Some(&forwarding.name),
                downstream_remote_address: Some(self.remote),
                downstream_direct_remote_address: Some(connection.remote),
                downstream_local_address: Some(connection.local),
                protocol: Some(connection.protocol.text()),
                requested_server_name: connection.server_name.as_deref(),
                route_name: Some(&place.route().name),
                start_unix_nanos: self.began_unix_nanos,
                connection_id: Some(connection.id),
                filter_chain_name: Some(&connection.filter_chain),
                flags: self.flags,
                ..StreamFacts::default()
            };
            change_request(changes, &mut self.head, &facts);
        }
        rewrite::rewrite_authority(place, &mut self.head, envoy_headers);
        rewrite::rewrite_path(forward, place.route(), &mut self.head, envoy_headers);
        forwarding.retries = Retries::of(policy, &mut self.head, envoy);
        forwarding.keeps_body = forwarding
            .retries
            .as_ref()
            .is_some_and(|retries| retries.is_open())
            && self.upgrade.is_none();
        self.forwarding = Some(forwarding);
    }

    /// Copies for mirrors, each to a host of its own.
    fn mirror(&mut self, place: &Place, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        if self.head.method == http::Method::CONNECT || self.upgrade.is_some() {
            return;
        }
        for mirror in place.mirrors() {
            if !mirror.share.covers(self.draw) {
                continue;
            }
            let name = match &mirror.cluster_header {
                Some(header) if mirror.cluster.is_empty() => {
                    match self
                        .head
                        .headers
                        .get(header)
                        .and_then(|value| value.to_str().ok())
                    {
                        Some(name) if !name.is_empty() => name,
                        _ => continue,
                    }
                }
                _ => &mirror.cluster,
            };
            let Some(cluster) = context.live.cluster(name, context.now).cloned() else {
                continue;
            };
            let Some(host) = cluster.choose(&Choice::default(), context.now, context.rng) else {
                continue;
            };
            let mut head = self.head.clone();
            if !mirror.disable_shadow_host_suffix {
                shadow_authority(&mut head);
            }
            head.headers
                .insert(INTERNAL, HeaderValue::from_static("true"));
            if let Ok(own) = HeaderValue::from_str(&self.connection.own_address().to_string()) {
                head.headers.append(FORWARDED_FOR, own);
            }
            let timeout = self
                .forwarding
                .as_ref()
                .and_then(|forwarding| forwarding.timeouts.global);
            if let Some(forwarding) = &mut self.forwarding {
                // A mirror needs the body too, but no longer than it comes.
                forwarding.keeps_body |= self.request_ended.is_none();
            }
            effects.push(Effect::Mirror(Mirrored {
                cluster,
                host,
                head,
                timeout,
            }));
        }
    }

    fn choose(&self, context: &mut Context<'_>) -> Option<Arc<crate::upstream::Host>> {
        let forwarding = self.forwarding.as_ref()?;
        let choice = Choice {
            hash: forwarding.hash,
            labels: &forwarding.labels,
            destination: self.connection.original_destination,
            ..Choice::default()
        };
        let Some(retries) = forwarding
            .retries
            .as_ref()
            .filter(|_| forwarding.attempts > 0)
        else {
            return forwarding.cluster.choose(&choice, context.now, context.rng);
        };
        let policy = retries.policy();
        let choice = Choice {
            tried: retries.tried(),
            avoid_tried: policy.avoid_previous_hosts,
            omit_canary: policy.omit_canary_hosts,
            more_attempts: policy.host_selection_max_attempts,
            avoid_priorities_every: policy.previous_priorities_update_frequency,
            ..choice
        };
        forwarding.cluster.choose(&choice, context.now, context.rng)
    }

    fn attempt(
        &mut self,
        place: &Place,
        host: Arc<crate::upstream::Host>,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let envoy_headers = !self.connection.hcm.router().suppress_envoy_headers;
        if let Some(forward) = place.forward()
            && matches!(forward.host_rewrite, Some(HostRewrite::Auto))
            && let Some(name) = host.hostname.clone().filter(|name| !name.is_empty())
        {
            rewrite::replace_authority(
                &mut self.head,
                &name,
                forward.append_x_forwarded_host,
                envoy_headers,
            );
        }
        let Some(forwarding) = &mut self.forwarding else {
            return;
        };
        forwarding.attempts += 1;
        forwarding.last_host = None;
        forwarding.current = Some(Current {
            host: host.clone(),
            lease: None,
            attached_at: None,
            per_try: None,
            stream: None,
            last_activity: context.now,
        });
        self.stage = Stage::Waiting;
        effects.push(Effect::Attempt(Attempt {
            number: forwarding.attempts,
            cluster: forwarding.cluster.clone(),
            host,
            priority: forwarding.priority,
        }));
        self.start_timeouts(context.now);
    }

    /// The attempt has a stream.
    pub(super) fn attached(
        &mut self,
        lease: Lease,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let ended = self.request_ended.is_some();
        let Some(forwarding) = &mut self.forwarding else {
            return;
        };
        let timeouts = forwarding.timeouts;
        let Some(current) = &mut forwarding.current else {
            return;
        };
        current.lease = Some(lease);
        current.attached_at = Some(context.now);
        current.stream = timeouts
            .upstream_stream
            .map(|longest| context.now.after(longest));
        if ended {
            current.per_try = timeouts.per_try.map(|longest| context.now.after(longest));
        }
        let host = current.host.clone();
        forwarding.last_host = Some(host.clone());
        if let Some(retries) = &mut forwarding.retries {
            retries.remember(&host);
        }
        let change = forwarding
            .cluster
            .report(&host, Outcome::Connected, context.now, context.rng);
        effects.extend(change.map(Effect::Ejected));
    }

    /// The request's end, or an attempt's beginning after it, starts the timeouts.
    pub(super) fn start_timeouts(&mut self, now: Nanos) {
        let Some(ended) = self.request_ended else {
            return;
        };
        let Some(forwarding) = &mut self.forwarding else {
            return;
        };
        let timeouts = forwarding.timeouts;
        let Some(current) = &mut forwarding.current else {
            return;
        };
        if forwarding.global.is_none() {
            forwarding.global = timeouts.global.map(|longest| ended.after(longest));
        }
        if current.attached_at.is_some() && current.per_try.is_none() {
            current.per_try = timeouts.per_try.map(|longest| now.after(longest));
        }
    }

    /// The attempt broke: again, or the answer is an error.
    pub(super) fn broken(
        &mut self,
        broken: Broken,
        detail: &str,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        self.see(context.now);
        let streaming = self.stage == Stage::Streaming;
        let Some(forwarding) = &mut self.forwarding else {
            return;
        };
        let Some(current) = forwarding.current.take() else {
            return;
        };
        let started = current.lease.is_some();
        let host = current.host.clone();
        drop(current);
        if broken != Broken::Overflow {
            forwarding.last_host = Some(host.clone());
            host_failed(&host);
            let change =
                forwarding
                    .cluster
                    .report(&host, Outcome::ConnectFailed, context.now, context.rng);
            effects.extend(change.map(Effect::Ejected));
        }
        if !started && let Some(retries) = &mut forwarding.retries {
            retries.remember(&host);
        }
        if !streaming && self.retries_broken(broken, started, context) {
            return;
        }
        let Some(forwarding) = &self.forwarding else {
            return;
        };
        let status = if broken == Broken::ProtocolError {
            502
        } else {
            503
        };
        if !streaming {
            forwarding.cluster.stats.answered(status);
        }
        let retried = if forwarding.attempts > 1 {
            "retried and the latest "
        } else {
            ""
        };
        let body = format!(
            "upstream connect error or disconnect/reset before headers. {retried}reset reason: {}",
            broken.text()
        );
        let when = if streaming {
            "upstream_reset_after_response_started"
        } else {
            "upstream_reset_before_response_started"
        };
        let more = if detail.is_empty() {
            String::new()
        } else {
            format!("|{detail}")
        };
        let details =
            format!("{when}{{{}{more}}}", broken.text()).replace(char::is_whitespace, "_");
        if !detail.is_empty() {
            self.transport_failure = Some(detail.replace(char::is_whitespace, "_").into());
        }
        let mut reply = LocalReply::new(status, body, details)
            .flags(broken_flag(broken))
            .attempt();
        if broken == Broken::Overflow && !self.connection.hcm.router().suppress_envoy_headers {
            reply = reply.header(OVERLOADED, "true");
        }
        self.reply(reply, effects);
    }

    /// Decides about a retry after a break; true where one will follow.
    pub(super) fn retries_broken(
        &mut self,
        broken: Broken,
        started: bool,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(forwarding) = &mut self.forwarding else {
            return false;
        };
        let Some(retries) = &mut forwarding.retries else {
            return false;
        };
        let limits = Limits {
            breaker: &forwarding.cluster.breaker,
            stats: &forwarding.cluster.stats,
            priority: forwarding.priority,
        };
        let decision = retries.on_broken(broken, started, limits, context.rng);
        self.decided(decision, context.now)
    }

    /// Takes over a decision; true where a retry will follow.
    pub(super) fn decided(&mut self, decision: Decision, now: Nanos) -> bool {
        match decision {
            Decision::After(wait) => {
                self.stage = Stage::BackOff(now.after(wait));
                return true;
            }
            Decision::Overflow => self.flags.insert(Flags::UPSTREAM_OVERFLOW),
            Decision::LimitExceeded => self.flags.insert(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED),
            Decision::No => {}
        }
        false
    }

    /// The back-off is over: another attempt, on the cluster as it is now.
    pub(super) fn again(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        let Some(place) = self.place.clone() else {
            return;
        };
        let Some(forwarding) = &mut self.forwarding else {
            return;
        };
        let cluster = context.live.cluster(&forwarding.name, context.now).cloned();
        let host = match cluster {
            Some(cluster) => {
                forwarding.cluster = cluster;
                self.choose(context)
            }
            None => None,
        };
        let Some(host) = host else {
            self.no_healthy_upstream(effects);
            return;
        };
        let envoy_headers = !self.connection.hcm.router().suppress_envoy_headers;
        let number = self.attempts() + 1;
        if place.virtual_host().include_request_attempt_count {
            self.head
                .headers
                .insert(ATTEMPT_COUNT, HeaderValue::from(number));
        }
        let elapsed = self
            .request_ended
            .map_or(std::time::Duration::ZERO, |ended| context.now.since(ended));
        if let (Some(forward), Some(forwarding)) = (place.forward(), &self.forwarding) {
            forwarding.timeouts.announce(
                forward,
                elapsed,
                envoy_headers,
                self.grpc,
                &mut self.head.headers,
            );
        }
        self.attempt(&place, host, context, effects);
    }

    /// The body can no longer be kept: no more retries; and where one waits, no answer can come.
    pub(super) fn body_too_large(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        self.see(context.now);
        let waits = matches!(self.stage, Stage::BackOff(_));
        let Some(forwarding) = &mut self.forwarding else {
            return;
        };
        ClusterStats::inc(&forwarding.cluster.stats.retry_or_shadow_abandoned);
        forwarding.retries = None;
        forwarding.keeps_body = false;
        if waits {
            self.reply(
                LocalReply::new(
                    507,
                    "exceeded request buffer limit while retrying upstream",
                    "request_payload_exceeded_retry_buffer_limit",
                )
                .attempt(),
                effects,
            );
        }
    }
}

fn host_failed(host: &crate::upstream::Host) {
    ClusterStats::inc(&host.totals.errors);
}

fn broken_flag(broken: Broken) -> Flags {
    match broken {
        Broken::Overflow => Flags::UPSTREAM_OVERFLOW,
        Broken::LocalConnectionFailure
        | Broken::RemoteConnectionFailure
        | Broken::ConnectionTimeout => Flags::UPSTREAM_CONNECTION_FAILURE,
        Broken::ConnectionTermination => Flags::UPSTREAM_CONNECTION_TERMINATION,
        Broken::RemoteReset | Broken::RemoteRefusedStream => Flags::UPSTREAM_REMOTE_RESET,
        Broken::LocalReset => Flags::LOCAL_RESET,
        Broken::ProtocolError => Flags::UPSTREAM_PROTOCOL_ERROR,
    }
}

/// `host` becomes `host-shadow`, before its port.
fn shadow_authority(head: &mut RequestHead) {
    let authority = head.authority();
    let shadow = match authority.split_once(':') {
        Some((host, port)) if !host.starts_with('[') => format!("{host}-shadow:{port}"),
        _ => format!("{authority}-shadow"),
    };
    rewrite::set_authority(head, &shadow);
}
