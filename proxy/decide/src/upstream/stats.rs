//! Counters of a cluster, by Envoy's names.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    (@name $name:ident) => { stringify!($name) };
    (@name $name:ident $text:literal) => { $text };
    ($($name:ident $(= $text:literal)? $doc:literal;)*) => {
        /// Counters of a cluster; each has Envoy's name after `cluster.NAME.`.
        #[derive(Debug, Default)]
        pub struct ClusterStats {
            $(#[doc = $doc] pub $name: AtomicU64,)*
        }

        impl ClusterStats {
            /// Every counter with its name and value, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((counters!(@name $name $($text)?), self.$name.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

counters! {
    upstream_rq_total "Attempts that got a connection.";
    upstream_rq_completed "Requests answered, by hosts or here.";
    upstream_rq_pending_total "Requests that waited for a connection.";
    upstream_rq_pending_overflow "Requests refused by the limit of waiting ones.";
    upstream_rq_active_overflow "Requests refused by the limit of requests.";
    upstream_rq_pending_failure_eject "Waiting requests failed by a connection that failed.";
    upstream_rq_cancelled "Waiting requests cancelled.";
    upstream_rq_timeout "Requests that reached their timeout.";
    upstream_rq_per_try_timeout "Attempts that reached their timeout.";
    upstream_rq_per_try_idle_timeout "Attempts that were silent for too long.";
    upstream_rq_max_duration_reached "Attempts that lasted too long.";
    upstream_rq_rx_reset "Attempts reset by hosts.";
    upstream_rq_tx_reset "Attempts reset here.";
    upstream_rq_retry "Retries.";
    upstream_rq_retry_success "Retries that were the last and needed no other.";
    upstream_rq_retry_overflow "Retries refused by limit or budget.";
    upstream_rq_retry_limit_exceeded "Requests whose retries were used up.";
    upstream_rq_retry_backoff_exponential "Retries after an exponential back-off.";
    upstream_rq_retry_backoff_ratelimited "Retries when the response said.";
    retry_or_shadow_abandoned "Requests too large to keep for retries or mirrors.";
    upstream_cx_total "Connections.";
    upstream_cx_overflow "Connections not opened because of the limit.";
    upstream_cx_none_healthy "Requests without a host to choose.";
    upstream_cx_connect_fail "Connections that failed.";
    upstream_cx_connect_timeout "Connections that took too long.";
    lb_healthy_panic "Choices among all hosts for want of healthy ones.";
    lb_recalculate_zone_structures "Rebuilds of the balancer.";
    lb_subsets_fallback "Choices by a subset's fallback.";
    lb_subsets_selected "Choices within a subset.";
    upstream_rq_drop_overload "Requests dropped because the control plane asked.";
    ratelimit_ok = "ratelimit.ok" "Requests that the rate limit service let pass.";
    ratelimit_over_limit = "ratelimit.over_limit" "Requests that it refused.";
    ratelimit_error = "ratelimit.error" "Requests of which it did not say.";
    ratelimit_failure_mode_allowed = "ratelimit.failure_mode_allowed" "Of those, requests that went on.";
    upstream_rq_2xx "Answers 200 to 299.";
    upstream_rq_3xx "Answers 300 to 399.";
    upstream_rq_4xx "Answers 400 to 499.";
    upstream_rq_5xx "Answers 500 to 599.";
}

impl ClusterStats {
    /// Adds one.
    pub fn inc(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer by its class.
    pub fn answered(&self, status: u16) {
        Self::inc(&self.upstream_rq_completed);
        match status {
            200..=299 => Self::inc(&self.upstream_rq_2xx),
            300..=399 => Self::inc(&self.upstream_rq_3xx),
            400..=499 => Self::inc(&self.upstream_rq_4xx),
            500..=599 => Self::inc(&self.upstream_rq_5xx),
            _ => {}
        }
    }
}
