//! The filters before the router, in the chain's order.

use std::sync::{Arc, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::connection::Context;
use super::effect::{Effect, RateLimitAnswer, RateLimitQuestion};
use super::reply::LocalReply;
use super::{Exchange, Stage, Wait};
use crate::config::{FaultPolicy, HttpFilter, LocalRateLimit, RateLimitFilter};
use crate::fault::Abort;
use crate::flags::Flags;
use crate::header_change::change_request;
use crate::time::Nanos;
use crate::upstream::ClusterStats;
use crate::{cors, fault, ratelimit};

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// gRPC's RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u32 = 8;

/// Connections' own buckets that one connection keeps: as many limits as a chain may have.
const CONNECTION_LIMITS_MAX: usize = 16;

/// What a filter says.
enum Said {
    /// The next, please.
    Continue,
    /// It waits, or has answered.
    Stop,
}

impl Exchange {
    /// Goes through the filters from `first` on, and then the router.
    pub(super) fn filters(
        &mut self,
        first: usize,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let hcm = self.connection.hcm.clone();
        for (index, filter) in hcm.filters.iter().enumerate().skip(first) {
            let said = match filter {
                HttpFilter::Cors { name, policy } => {
                    if self.is_disabled(name) {
                        continue;
                    }
                    self.cors_filter(policy.as_ref(), effects)
                }
                HttpFilter::Fault { name, policy } => {
                    if self.is_disabled(name) {
                        continue;
                    }
                    self.fault_filter(index, policy, context, effects)
                }
                HttpFilter::LocalRateLimit { name, limit } => {
                    if self.is_disabled(name) {
                        continue;
                    }
                    self.local_rate_limit(limit, context, effects)
                }
                HttpFilter::RateLimit { name, filter } => {
                    if self.is_disabled(name) {
                        continue;
                    }
                    self.ask_rate_limit(index, filter, context, effects)
                }
                HttpFilter::Router(_) => break,
                HttpFilter::Other(_) => Said::Continue,
            };
            if matches!(said, Said::Stop) {
                return;
            }
        }
        self.route(context, effects);
    }

    fn is_disabled(&self, filter: &str) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| place.disables(filter))
    }

    fn cors_filter(
        &mut self,
        own: Option<&Arc<crate::config::CorsPolicy>>,
        effects: &mut Vec<Effect>,
    ) -> Said {
        // Nearly every request is none of CORS's.
        if !self.head.headers.contains_key(http::header::ORIGIN) {
            return Said::Continue;
        }
        let Some(place) = self
            .place
            .as_ref()
            .filter(|place| place.forward().is_some())
        else {
            return Said::Continue;
        };
        let mut policies = place.cors();
        if policies.is_empty() {
            policies.extend(own);
        }
        match cors::decide(&policies, &self.head, self.draw) {
            cors::Verdict::Continue(grant) => {
                self.cors = grant;
                Said::Continue
            }
            cors::Verdict::Preflight(headers, grant) => {
                self.cors = grant;
                self.reply(
                    LocalReply::new(200, "", "cors_response")
                        .headers(headers)
                        .plain(),
                    effects,
                );
                Said::Stop
            }
        }
    }

    fn fault_policy(&self, own: &Arc<FaultPolicy>) -> Arc<FaultPolicy> {
        self.place
            .as_ref()
            .and_then(|place| place.fault())
            .unwrap_or(own)
            .clone()
    }

    fn fault_filter(
        &mut self,
        index: usize,
        own: &Arc<FaultPolicy>,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Said {
        let policy = self.fault_policy(own);
        if policy.delay.is_none() && policy.abort.is_none() {
            return Said::Continue;
        }
        let cluster = self
            .place
            .as_ref()
            .and_then(|place| place.cluster(&self.head));
        if !fault::applies(&policy, &self.head, cluster, context.faults.count()) {
            return Said::Continue;
        }
        if let Some(delay) = fault::delay(&policy, &self.head, context.rng) {
            self.fault = Some(context.faults.begin());
            self.flags.insert(Flags::DELAY_INJECTED);
            self.stage = Stage::Filter(index, Wait::Delay(context.now.after(delay)));
            return Said::Stop;
        }
        self.abort(&policy, context, effects)
    }

    fn abort(
        &mut self,
        policy: &FaultPolicy,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Said {
        let Some(abort) = fault::abort(policy, &self.head, context.rng) else {
            return Said::Continue;
        };
        let (status, grpc) = match abort {
            Abort::Http(status) => (status, None),
            // Who does not speak gRPC sees 200.
            Abort::Grpc(status) => (200, Some(status)),
        };
        self.reply(
            LocalReply::new(status, "fault filter abort", "fault_filter_abort")
                .flags(Flags::FAULT_INJECTED)
                .grpc(grpc),
            effects,
        );
        Said::Stop
    }

    /// The delay is over: an abort may follow, else the next filter.
    pub(super) fn after_delay(
        &mut self,
        index: usize,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let hcm = self.connection.hcm.clone();
        if let Some(HttpFilter::Fault { policy, .. }) = hcm.filters.get(index) {
            let policy = self.fault_policy(policy);
            if let Said::Stop = self.abort(&policy, context, effects) {
                return;
            }
        }
        self.filters(index + 1, context, effects);
    }

    fn local_rate_limit(
        &mut self,
        own: &Arc<LocalRateLimit>,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Said {
        let limit = self
            .place
            .as_ref()
            .and_then(|place| place.local_rate_limit())
            .unwrap_or(own)
            .clone();
        if limit.bucket.is_none() && limit.descriptors.is_empty() {
            return Said::Continue;
        }
        if !limit.enabled.covers(context.rng.next_u64()) {
            return Said::Continue;
        }
        let descriptors = match &self.place {
            _ if limit.descriptors.is_empty() => Vec::new(),
            place if !limit.rate_limits.is_empty() => ratelimit::descriptors(
                &limit.rate_limits,
                limit.stage,
                &self.head,
                self.remote.ip(),
                place
                    .as_ref()
                    .and_then(|place| place.cluster(&self.head))
                    .unwrap_or(""),
                context.service_cluster,
            ),
            Some(place) => ratelimit::of_place(
                place,
                limit.stage,
                &self.head,
                self.remote.ip(),
                context.service_cluster,
            ),
            None => Vec::new(),
        };
        let allowance = if limit.per_connection {
            self.connection_limit(&limit)
                .take(&limit, &descriptors, context.now)
        } else {
            limit.state.take(&limit, &descriptors, context.now)
        };
        if limit.ratelimit_headers {
            self.standing = allowance.standing;
        }
        if allowance.allowed {
            return Said::Continue;
        }
        if !limit.enforced.covers(context.rng.next_u64()) {
            let changes = crate::config::HeaderChanges {
                request_add: limit.request_headers_to_add.clone(),
                ..crate::config::HeaderChanges::default()
            };
            let mut head = self.head.clone();
            change_request(&changes, &mut head, &self.facts(None));
            self.head = head;
            return Said::Continue;
        }
        let grpc = limit
            .rate_limited_as_resource_exhausted
            .then_some(RESOURCE_EXHAUSTED);
        self.reply(
            LocalReply::new(limit.status, "local_rate_limited", "local_rate_limited")
                .late_flags(Flags::RATE_LIMITED)
                .additions(&limit.response_headers_to_add)
                .grpc(grpc),
            effects,
        );
        Said::Stop
    }

    /// The buckets of this connection alone.
    fn connection_limit(&self, limit: &Arc<LocalRateLimit>) -> ratelimit::LimitState {
        let key = Arc::as_ptr(limit) as usize;
        let mut limits = self
            .connection
            .limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, state)) = limits.iter().find(|(of, _)| *of == key) {
            return state.clone();
        }
        if limits.len() >= CONNECTION_LIMITS_MAX {
            limits.remove(0);
        }
        let state = ratelimit::LimitState::default();
        limits.push((key, state.clone()));
        state
    }

    fn ask_rate_limit(
        &mut self,
        index: usize,
        filter: &Arc<RateLimitFilter>,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Said {
        let Some(place) = &self.place else {
            return Said::Continue;
        };
        let descriptors = ratelimit::of_place(
            place,
            filter.stage,
            &self.head,
            self.remote.ip(),
            context.service_cluster,
        );
        if descriptors.is_empty() {
            return Said::Continue;
        }
        let until = context.now.after(filter.timeout);
        self.stage = Stage::Filter(index, Wait::RateLimit(until));
        effects.push(Effect::AskRateLimit(RateLimitQuestion {
            filter: filter.clone(),
            descriptors,
        }));
        Said::Stop
    }

    /// The rate limit service answered, or did not in time.
    pub(super) fn rate_limit_answered(
        &mut self,
        answer: RateLimitAnswer,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Stage::Filter(index, Wait::RateLimit(_)) = self.stage else {
            return;
        };
        let hcm = self.connection.hcm.clone();
        let Some(HttpFilter::RateLimit { filter, .. }) = hcm.filters.get(index) else {
            return;
        };
        self.see(context.now);
        self.count_rate_limit(&answer, filter.failure_mode_deny, context);
        match answer {
            RateLimitAnswer::Ok {
                request_headers,
                response_headers,
            } => {
                append(&mut self.head.headers, &request_headers);
                if !response_headers.is_empty() {
                    self.limit_headers = Some(Box::new(response_headers));
                }
                self.filters(index + 1, context, effects);
            }
            RateLimitAnswer::OverLimit {
                response_headers,
                body,
            } => {
                let mut headers = response_headers;
                if !filter.disable_x_envoy_ratelimited_header {
                    headers.insert(RATE_LIMITED, HeaderValue::from_static("true"));
                }
                let grpc = filter
                    .rate_limited_as_resource_exhausted
                    .then_some(RESOURCE_EXHAUSTED);
                self.reply(
                    LocalReply::new(filter.status, "", "request_rate_limited")
                        .flags(Flags::RATE_LIMITED)
                        .headers(headers)
                        .body(body)
                        .grpc(grpc),
                    effects,
                );
            }
            RateLimitAnswer::Error if filter.failure_mode_deny => self.reply(
                LocalReply::new(500, "", "rate_limiter_error")
                    .flags(Flags::RATE_LIMIT_SERVICE_ERROR),
                effects,
            ),
            RateLimitAnswer::Error => self.filters(index + 1, context, effects),
        }
    }

    /// Counted at the cluster that the request is for, as Envoy does.
    fn count_rate_limit(&self, answer: &RateLimitAnswer, denies: bool, context: &Context<'_>) {
        let place = self.place.as_ref();
        let name = place.and_then(|place| place.cluster(&self.head));
        let Some(cluster) = name.and_then(|name| context.live.cluster(name, context.now)) else {
            return;
        };
        let stats = &cluster.stats;
        match answer {
            RateLimitAnswer::Ok { .. } => ClusterStats::inc(&stats.ratelimit_ok),
            RateLimitAnswer::OverLimit { .. } => ClusterStats::inc(&stats.ratelimit_over_limit),
            RateLimitAnswer::Error => {
                ClusterStats::inc(&stats.ratelimit_error);
                if !denies {
                    ClusterStats::inc(&stats.ratelimit_failure_mode_allowed);
                }
            }
        }
    }

    /// When what a filter waits for is over.
    pub(super) fn filter_deadline(&self) -> Option<Nanos> {
        match self.stage {
            Stage::Filter(_, Wait::Delay(until) | Wait::RateLimit(until)) => Some(until),
            _ => None,
        }
    }
}

fn append(headers: &mut HeaderMap, more: &HeaderMap) {
    for (name, value) in more {
        headers.append(name.clone(), value.clone());
    }
}
