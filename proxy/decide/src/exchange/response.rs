//! The answer on its way.

use std::borrow::Cow;

use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue};

use super::connection::Context;
use super::effect::{Effect, ResponseHead};
use super::reply::ATTEMPT_COUNT;
use super::{Exchange, Stage, hop};
use crate::header_change::change_response;
use crate::outlier::Outcome;
use crate::retry::{Limits, grpc_status, grpc_to_http};
use crate::upstream::ClusterStats;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

impl Exchange {
    /// The answer's head came: passed on, or tried again.
    pub(super) fn answered(
        &mut self,
        head: &mut ResponseHead,
        end: bool,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if self.stage != Stage::Waiting {
            return;
        }
        let status = head.status.as_u16();
        let grpc = self.grpc.then(|| grpc_status(&head.headers)).flatten();
        let Some(forwarding) = &mut self.forwarding else {
            return;
        };
        let Some(host) = forwarding
            .current
            .as_ref()
            .map(|current| current.host.clone())
        else {
            return;
        };
        let change = forwarding.cluster.report(
            &host,
            Outcome::Status(grpc.map_or(status, grpc_to_http)),
            context.now,
            context.rng,
        );
        effects.extend(change.map(Effect::Ejected));
        if let Some(retries) = &mut forwarding.retries {
            let limits = Limits {
                breaker: &forwarding.cluster.breaker,
                stats: &forwarding.cluster.stats,
                priority: forwarding.priority,
            };
            let decision = retries.on_head(
                status,
                &head.headers,
                context.unix_nanos,
                limits,
                context.rng,
            );
            if self.decided(decision, context.now) {
                ClusterStats::inc(&host.totals.errors);
                self.cancel(effects);
                return;
            }
        }
        self.forward_head(head, grpc, context);
        let failed = status >= 500;
        ClusterStats::inc(if failed {
            &host.totals.errors
        } else {
            &host.totals.successes
        });
        effects.push(Effect::Forward);
        if end {
            self.response_end(context, effects);
        }
    }

    /// Changes the head as it goes to the client.
    fn forward_head(
        &mut self,
        head: &mut ResponseHead,
        grpc: Option<u64>,
        context: &mut Context<'_>,
    ) {
        let status = head.status.as_u16();
        self.status = Some(status);
        self.grpc_status = grpc;
        self.details = Cow::Borrowed("via_upstream");
        self.response_began = Some(context.now);
        self.stage = Stage::Streaming;
        if let Some(forwarding) = &mut self.forwarding {
            // Whatever may still come is no reason to try again: their places are free.
            forwarding.retries = None;
            forwarding.keeps_body = false;
            forwarding.cluster.stats.answered(status);
            for cookie in forwarding.set_cookies.drain(..) {
                head.headers.append(SET_COOKIE, cookie);
            }
            if let Some(current) = &mut forwarding.current {
                current.per_try = None;
            }
        }
        if let Some(ended) = self.request_ended
            && !self.connection.hcm.router().suppress_envoy_headers
        {
            let millis = u64::try_from(context.now.since(ended).as_millis()).unwrap_or(u64::MAX);
            head.headers.insert(SERVICE_TIME, HeaderValue::from(millis));
        }
        if let Some(place) = &self.place {
            let facts = self.facts(None);
            for changes in place.header_changes() {
                change_response(changes, &mut head.headers, &facts);
            }
            if place.virtual_host().include_attempt_count_in_response {
                head.headers
                    .insert(ATTEMPT_COUNT, HeaderValue::from(self.attempts()));
            }
        }
        self.encode(&mut head.headers);
        hop::leave(&self.connection, &self.head, &mut head.headers);
    }

    /// The answer has come in full.
    pub(super) fn response_end(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        if self.stage != Stage::Streaming {
            return;
        }
        self.see(context.now);
        if self.request_ended.is_none() {
            // The rest of the request is of no use to the host any more.
            self.cancel(effects);
        }
        self.finish(context.now);
    }
}
