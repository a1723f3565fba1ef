//! What happens when time passes.

use super::connection::Context;
use super::effect::{Effect, RateLimitAnswer};
use super::reply::LocalReply;
use super::{Exchange, Stage, Wait};
use crate::flags::Flags;
use crate::outlier::Outcome;
use crate::retry::Broken;
use crate::time::Nanos;
use crate::upstream::ClusterStats;

impl Exchange {
    /// When [`super::Event::Time`] is due; none where nothing waits for time. It may turn out
    /// that there is nothing to do yet, since bytes that pass put some deadlines off.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        if self.stage == Stage::Done {
            return None;
        }
        let back_off = match self.stage {
            Stage::BackOff(until) => Some(until),
            _ => None,
        };
        [
            self.filter_deadline(),
            back_off,
            self.stream_deadline,
            self.idle_deadline(),
            self.request_deadline,
            self.attempt_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn idle_deadline(&self) -> Option<Nanos> {
        self.idle.map(|idle| self.last_activity.after(idle))
    }

    fn attempt_deadline(&self) -> Option<Nanos> {
        let forwarding = self.forwarding.as_ref()?;
        let current = forwarding.current.as_ref();
        [
            forwarding.global,
            current.and_then(|current| current.per_try),
            current.and_then(|current| current.stream),
            self.per_try_idle_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn per_try_idle_deadline(&self) -> Option<Nanos> {
        let forwarding = self.forwarding.as_ref()?;
        let current = forwarding.current.as_ref()?;
        current.attached_at?;
        let idle = forwarding.timeouts.per_try_idle?;
        Some(current.last_activity.after(idle))
    }

    pub(super) fn time(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        let now = context.now;
        let due = |deadline: Option<Nanos>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.stream_deadline) {
            let status = self.timeout_status();
            self.see(now);
            self.reply(
                LocalReply::new(
                    status,
                    "downstream duration timeout",
                    "max_duration_timeout",
                )
                .grpc(Some(4)),
                effects,
            );
        } else if due(self.idle_deadline()) {
            let status = self.timeout_status();
            self.see(now);
            self.reply(
                LocalReply::new(status, "stream timeout", "stream_idle_timeout")
                    .flags(Flags::STREAM_IDLE_TIMEOUT),
                effects,
            );
        } else if due(self.request_deadline) {
            self.see(now);
            self.reply(
                LocalReply::new(408, "request timeout", "request_overall_timeout"),
                effects,
            );
        } else if due(self.filter_deadline()) {
            match self.stage {
                Stage::Filter(index, Wait::Delay(_)) => {
                    self.see(now);
                    self.after_delay(index, context, effects);
                }
                Stage::Filter(_, Wait::RateLimit(_)) => {
                    self.rate_limit_answered(RateLimitAnswer::Error, context, effects);
                }
                _ => {}
            }
        } else {
            self.attempt_time(context, effects);
        }
    }

    fn attempt_time(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        let now = context.now;
        let due = |deadline: Option<Nanos>| deadline.is_some_and(|deadline| deadline <= now);
        let Some(forwarding) = &self.forwarding else {
            return;
        };
        let current = forwarding.current.as_ref();
        if due(forwarding.global) {
            self.global_timeout(context, effects);
        } else if let Stage::BackOff(until) = self.stage {
            if until <= now {
                self.again(context, effects);
            }
        } else if due(current.and_then(|current| current.stream)) {
            self.attempt_lasted(context, effects);
        } else if due(current.and_then(|current| current.per_try)) {
            ClusterStats::inc(&forwarding.cluster.stats.upstream_rq_per_try_timeout);
            self.attempt_timeout("upstream_per_try_timeout", context, effects);
        } else if due(self.per_try_idle_deadline()) {
            ClusterStats::inc(&forwarding.cluster.stats.upstream_rq_per_try_idle_timeout);
            self.attempt_timeout("upstream_per_try_idle_timeout", context, effects);
        }
    }

    /// Nothing of the request has come for too long: 504, or 408 where it never came in full.
    fn timeout_status(&self) -> u16 {
        if self.request_ended.is_some() {
            504
        } else {
            408
        }
    }

    fn upstream_timeout_reply(&self, details: &'static str) -> LocalReply {
        let alternative = self
            .forwarding
            .as_ref()
            .is_some_and(|forwarding| forwarding.timeouts.alt_response);
        let reply = if alternative {
            LocalReply::new(204, "", details)
        } else {
            LocalReply::new(504, "upstream request timeout", details)
        };
        reply.flags(Flags::UPSTREAM_REQUEST_TIMEOUT).attempt()
    }

    fn alternative_status(&self) -> Option<u16> {
        self.forwarding
            .as_ref()
            .filter(|forwarding| forwarding.timeouts.alt_response)
            .map(|_| 204)
    }

    /// The whole request took too long.
    fn global_timeout(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        self.see(context.now);
        let waiting = self.stage == Stage::Waiting;
        let status = self.alternative_status();
        if let Some(forwarding) = &self.forwarding {
            ClusterStats::inc(&forwarding.cluster.stats.upstream_rq_timeout);
            if let Some(current) = &forwarding.current {
                ClusterStats::inc(&current.host.totals.timeouts);
                // A host that was never reached, or whose answer is on its way, is not at fault.
                if waiting && current.lease.is_some() {
                    let change = forwarding.cluster.report(
                        &current.host,
                        Outcome::Timeout(status),
                        context.now,
                        context.rng,
                    );
                    effects.extend(change.map(Effect::Ejected));
                }
            }
            if self.stage != Stage::Streaming {
                forwarding.cluster.stats.answered(status.unwrap_or(504));
            }
        }
        let reply = self.upstream_timeout_reply("response_timeout");
        self.reply(reply, effects);
    }

    /// One attempt took too long: again, or 504.
    fn attempt_timeout(
        &mut self,
        details: &'static str,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        self.see(context.now);
        let streaming = self.stage == Stage::Streaming;
        let status = self.alternative_status();
        if let Some(forwarding) = &self.forwarding
            && let Some(current) = &forwarding.current
        {
            ClusterStats::inc(&current.host.totals.timeouts);
            let change = forwarding.cluster.report(
                &current.host,
                Outcome::Timeout(status),
                context.now,
                context.rng,
            );
            effects.extend(change.map(Effect::Ejected));
        }
        self.cancel(effects);
        if !streaming && self.retries_broken(Broken::LocalReset, true, context) {
            return;
        }
        if let Some(forwarding) = &self.forwarding
            && !streaming
        {
            forwarding.cluster.stats.answered(status.unwrap_or(504));
        }
        let reply = self.upstream_timeout_reply(details);
        self.reply(reply, effects);
    }

    /// One attempt's stream lasted too long.
    fn attempt_lasted(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        self.see(context.now);
        let streaming = self.stage == Stage::Streaming;
        if let Some(forwarding) = &self.forwarding {
            ClusterStats::inc(&forwarding.cluster.stats.upstream_rq_max_duration_reached);
        }
        self.cancel(effects);
        if !streaming && self.retries_broken(Broken::LocalReset, true, context) {
            return;
        }
        let status = self.timeout_status();
        self.reply(
            LocalReply::new(
                status,
                "upstream max stream duration reached",
                "upstream_max_stream_duration_reached",
            )
            .flags(Flags::UPSTREAM_MAX_STREAM_DURATION)
            .attempt(),
            effects,
        );
    }
}
