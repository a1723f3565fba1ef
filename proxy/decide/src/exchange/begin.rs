//! The beginning of an exchange, and the events that follow.

use std::borrow::Cow;
use std::sync::Arc;

use super::connection::{Connection, Context};
use super::effect::{Effect, Event};
use super::path::{Normalised, Rules, normalise};
use super::reply::LocalReply;
use super::{Exchange, Stage, Wait, hop};
use crate::config::{HttpConnectionManager, RouteConfiguration, RouteSource};
use crate::flags::Flags;
use crate::head::RequestHead;
use crate::route::{Lookup, find};
use crate::time::Nanos;
use crate::{rewrite, timeouts};

impl Exchange {
    /// Begins with a request's head. `ended` is whether no body follows. What is to be done is
    /// appended to `effects`.
    pub fn begin(
        connection: &Arc<Connection>,
        head: RequestHead,
        ended: bool,
        context: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Exchange {
        let hcm = connection.hcm.clone();
        let configuration = routes(&hcm, context).cloned();
        let mut head = head;
        let internal_only = configuration
            .as_ref()
            .map(|configuration| configuration.internal_only_headers.as_slice())
            .unwrap_or_default();
        let arrival = hop::arrive(connection, &mut head, internal_only, context.rng);
        let draw = context.rng.next_u64();
        let mut exchange = Exchange {
            grpc: head.is_grpc(),
            connection: connection.clone(),
            head,
            remote: arrival.remote,
            internal: arrival.internal,
            upgrade: arrival.upgrade,
            envoy: arrival.envoy,
            draw,
            began: context.now,
            began_unix_nanos: context.unix_nanos,
            place: None,
            needs_tls: false,
            // Not in a filter yet; the first is entered below.
            stage: Stage::Filter(0, Wait::Delay(Nanos::ZERO)),
            forwarding: None,
            request_ended: None,
            response_began: None,
            ended: None,
            last_activity: context.now,
            idle: None,
            stream_deadline: None,
            request_deadline: (!hcm.request_timeout.is_zero() && !ended)
                .then(|| context.now.after(hcm.request_timeout)),
            flags: Flags::NONE,
            details: Cow::Borrowed(""),
            transport_failure: None,
            status: None,
            grpc_status: None,
            answered_here: false,
            cors: None,
            standing: None,
            limit_headers: None,
            fault: None,
        };
        if exchange.refuses(&hcm, effects) {
            return exchange;
        }
        exchange.find_place(configuration.as_ref());
        let forward = exchange.place.as_ref().and_then(|place| place.forward());
        exchange.idle = timeouts::stream_idle(&hcm, forward);
        exchange.stream_deadline = timeouts::max_stream_duration(&hcm, forward, &exchange.head)
            .map(|longest| context.now.after(longest));
        if exchange.refuses_upgrade(&hcm, effects) {
            return exchange;
        }
        // What changes its protocol has no end of its own: nothing is counted from it.
        if ended && exchange.upgrade.is_none() {
            exchange.request_ended = Some(context.now);
        }
        exchange.filters(0, context, effects);
        exchange
    }

    /// Takes an event; what is to be done is appended to `effects`.
    pub fn on(&mut self, event: Event<'_>, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        if self.stage == Stage::Done {
            return;
        }
        match event {
            Event::RequestEnd => self.request_end(context, effects),
            Event::BodyTooLarge => self.body_too_large(context, effects),
            Event::Attached(lease) => {
                self.touch(context.now);
                self.attached(lease, context, effects);
            }
            Event::Overflow => {
                self.broken(crate::retry::Broken::Overflow, "", context, effects);
            }
            Event::Broken(broken, detail) => self.broken(broken, detail, context, effects),
            Event::Informational => {
                self.touch(context.now);
                if let Some(forwarding) = &mut self.forwarding {
                    // What was begun cannot be begun again.
                    forwarding.retries = None;
                    forwarding.keeps_body = false;
                }
            }
            Event::Head { head, end } => {
                self.touch(context.now);
                self.answered(head, end, context, effects);
            }
            Event::Trailers(trailers) => {
                self.touch(context.now);
                self.grpc_status = crate::retry::grpc_status(trailers).or(self.grpc_status);
            }
            Event::ResponseEnd => self.response_end(context, effects),
            Event::DownstreamGone => self.downstream_gone(context, effects),
            Event::RateLimit(answer) => self.rate_limit_answered(answer, context, effects),
            Event::Time => self.time(context, effects),
        }
    }

    /// Refuses what no route could make right.
    fn refuses(&mut self, hcm: &HttpConnectionManager, effects: &mut Vec<Effect>) -> bool {
        if self.head.authority.is_empty() {
            self.reply(LocalReply::new(400, "", "missing_host_header"), effects);
            return true;
        }
        let rules = Rules {
            normalize: hcm.normalize_path,
            merge_slashes: hcm.merge_slashes,
            escaped_slashes: hcm.escaped_slashes,
        };
        match normalise(self.head.path.as_str(), rules) {
            Normalised::Same => false,
            Normalised::Changed(path) => {
                rewrite::set_path(&mut self.head, &path);
                false
            }
            Normalised::Redirect(path) => {
                self.reply(
                    LocalReply::new(307, "", "path_normalization_failed").location(path),
                    effects,
                );
                true
            }
            Normalised::Refused => {
                self.reply(
                    LocalReply::new(400, "", "path_normalization_failed"),
                    effects,
                );
                true
            }
        }
    }

    fn refuses_upgrade(&mut self, hcm: &HttpConnectionManager, effects: &mut Vec<Effect>) -> bool {
        let Some(wanted) = &self.upgrade else {
            return false;
        };
        let by_route = self
            .place
            .as_ref()
            .and_then(|place| place.forward())
            .and_then(|forward| {
                forward
                    .upgrades
                    .iter()
                    .find(|upgrade| upgrade.kind.eq_ignore_ascii_case(wanted))
            });
        let allowed = by_route
            .or_else(|| {
                hcm.upgrades
                    .iter()
                    .find(|upgrade| upgrade.kind.eq_ignore_ascii_case(wanted))
            })
            .is_some_and(|upgrade| upgrade.enabled);
        if !allowed {
            self.upgrade = None;
            self.reply(LocalReply::new(403, "", "upgrade_failed"), effects);
        }
        !allowed
    }

    fn find_place(&mut self, configuration: Option<&Arc<RouteConfiguration>>) {
        let Some(configuration) = configuration else {
            return;
        };
        match find(configuration, &self.head, self.internal, self.draw) {
            Lookup::Found(place) => self.place = Some(place),
            Lookup::NeedsTls(_) => self.needs_tls = true,
            Lookup::NoVirtualHost | Lookup::NoRoute(_) => {}
        }
    }

    fn request_end(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        if self.request_ended.is_some() {
            return;
        }
        self.touch(context.now);
        self.request_ended = Some(context.now);
        self.request_deadline = None;
        self.start_timeouts(context.now);
        if let Some(forwarding) = &mut self.forwarding
            && forwarding.retries.is_none()
        {
            forwarding.keeps_body = false;
        }
        let _ = effects;
    }

    fn downstream_gone(&mut self, context: &mut Context<'_>, effects: &mut Vec<Effect>) {
        self.flags.insert(Flags::DOWNSTREAM_CONNECTION_TERMINATION);
        self.details = Cow::Borrowed("downstream_remote_disconnect");
        self.cancel(effects);
        self.finish(context.now);
    }

    /// Ends the attempt under way, if there is one.
    pub(super) fn cancel(&mut self, effects: &mut Vec<Effect>) {
        if let Some(forwarding) = &mut self.forwarding
            && forwarding.current.take().is_some()
        {
            effects.push(Effect::Cancel);
        }
    }

    /// Everything is over: what was held is given back.
    pub(super) fn finish(&mut self, now: Nanos) {
        self.stage = Stage::Done;
        self.ended = Some(now);
        self.fault = None;
        if let Some(forwarding) = &mut self.forwarding {
            forwarding.current = None;
            forwarding.retries = None;
            forwarding.keeps_body = false;
        }
    }
}

fn routes<'a>(
    hcm: &'a HttpConnectionManager,
    context: &'a Context<'_>,
) -> Option<&'a Arc<RouteConfiguration>> {
    match &hcm.routes {
        RouteSource::Inline(configuration) => Some(configuration),
        RouteSource::Rds(name) => context.live.snapshot().routes.get(name),
    }
}
