//! Envoy's response flags.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A set of response flags, written in the order in which they were set, as Envoy does. Sets are
/// equal where they have the same flags.
#[derive(Clone, Copy, Default)]
pub struct Flags {
    bits: u32,
    /// Flags in their order, five bits each for the flag's number and one, the first lowest.
    order: u64,
}

/// Flags whose order is remembered; no request comes near.
const ORDERED_MAX: u32 = 12;

impl PartialEq for Flags {
    fn eq(&self, other: &Flags) -> bool {
        self.bits == other.bits
    }
}

impl Eq for Flags {}

impl PartialOrd for Flags {
    fn partial_cmp(&self, other: &Flags) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flags {
    fn cmp(&self, other: &Flags) -> Ordering {
        self.bits.cmp(&other.bits)
    }
}

impl Hash for Flags {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits.hash(state);
    }
}

macro_rules! flags {
    ($($bit:literal $name:ident $short:literal $long:literal $doc:literal;)*) => {
        impl Flags {
            $(#[doc = $doc] pub const $name: Flags = Flags { bits: 1 << $bit, order: $bit + 1 };)*
        }
        /// Every flag's short and long name, by its number.
        const NAMES: &[(&str, &str)] = &[$(($short, $long),)*];
    };
}

flags! {
    0 FAILED_LOCAL_HEALTH_CHECK "LH" "FailedLocalHealthCheck" "The local service failed its health check.";
    1 NO_HEALTHY_UPSTREAM "UH" "NoHealthyUpstream" "The cluster has no host to choose.";
    2 UPSTREAM_REQUEST_TIMEOUT "UT" "UpstreamRequestTimeout" "The upstream took too long.";
    3 LOCAL_RESET "LR" "LocalReset" "The connection was reset here.";
    4 UPSTREAM_REMOTE_RESET "UR" "UpstreamRemoteReset" "The upstream reset the stream.";
    5 UPSTREAM_CONNECTION_FAILURE "UF" "UpstreamConnectionFailure" "Connecting to the upstream failed.";
    6 UPSTREAM_CONNECTION_TERMINATION "UC" "UpstreamConnectionTermination" "The upstream closed the connection.";
    7 UPSTREAM_OVERFLOW "UO" "UpstreamOverflow" "A circuit breaker refused.";
    8 NO_ROUTE_FOUND "NR" "NoRouteFound" "No route (or filter chain) matches.";
    9 DELAY_INJECTED "DI" "DelayInjected" "A fault delayed the request.";
    10 FAULT_INJECTED "FI" "FaultInjected" "A fault answered the request.";
    11 RATE_LIMITED "RL" "RateLimited" "A rate limit refused.";
    12 UNAUTHORIZED_EXTERNAL "UAEX" "UnauthorizedExternalService" "An authorization service refused.";
    13 RATE_LIMIT_SERVICE_ERROR "RLSE" "RateLimitServiceError" "The rate limit service failed.";
    14 DOWNSTREAM_CONNECTION_TERMINATION "DC" "DownstreamConnectionTermination" "The client went away.";
    15 UPSTREAM_RETRY_LIMIT_EXCEEDED "URX" "UpstreamRetryLimitExceeded" "Every retry failed (or every connection attempt).";
    16 STREAM_IDLE_TIMEOUT "SI" "StreamIdleTimeout" "The stream was silent for too long.";
    17 INVALID_ENVOY_REQUEST_HEADERS "IH" "InvalidEnvoyRequestHeaders" "A strictly checked header was invalid.";
    18 DOWNSTREAM_PROTOCOL_ERROR "DPE" "DownstreamProtocolError" "The client's request broke the protocol.";
    19 UPSTREAM_MAX_STREAM_DURATION "UMSDR" "UpstreamMaxStreamDurationReached" "The upstream's stream lasted too long.";
    20 RESPONSE_FROM_CACHE "RFCF" "ResponseFromCacheFilter" "A cache answered.";
    21 NO_FILTER_CONFIG_FOUND "NFCF" "NoFilterConfigFound" "A filter's configuration did not arrive.";
    22 DURATION_TIMEOUT "DT" "DurationTimeout" "The stream or connection lasted too long.";
    23 UPSTREAM_PROTOCOL_ERROR "UPE" "UpstreamProtocolError" "The upstream's response broke the protocol.";
    24 NO_CLUSTER_FOUND "NC" "NoClusterFound" "The route's cluster does not exist.";
    25 OVERLOAD_MANAGER "OM" "OverloadManagerTerminated" "This proxy is overloaded.";
    26 DNS_RESOLUTION_FAILED "DF" "DnsResolutionFailed" "The name did not resolve.";
    27 DROP_OVERLOAD "DO" "DropOverload" "The control plane asked for a share to be dropped.";
    28 DOWNSTREAM_REMOTE_RESET "DR" "DownstreamRemoteReset" "The client reset the stream.";
    29 UNCONDITIONAL_DROP_OVERLOAD "UDO" "UnconditionalDropOverload" "The control plane asked for everything to be dropped.";
}

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags { bits: 0, order: 0 };

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// Adds those of `other` that are not here yet, in their order.
    pub fn insert(&mut self, other: Flags) {
        for number in other.numbers() {
            if self.bits & (1 << number) == 0 {
                let place = self.bits.count_ones();
                if place < ORDERED_MAX {
                    self.order |= u64::from(number + 1) << (5 * place);
                }
                self.bits |= 1 << number;
            }
        }
    }

    /// Whether all of `other` are here.
    #[must_use]
    pub fn contains(self, other: Flags) -> bool {
        self.bits & other.bits == other.bits
    }

    /// The set with its long names, for display.
    #[must_use]
    pub fn long(self) -> LongFlags {
        LongFlags(self)
    }

    /// The numbers of the flags, in their order.
    fn numbers(self) -> impl Iterator<Item = u32> {
        (0..self.bits.count_ones().min(ORDERED_MAX)).filter_map(move |place| {
            let number = (self.order >> (5 * place)) & 31;
            u32::try_from(number).ok()?.checked_sub(1)
        })
    }

    fn write(self, out: &mut fmt::Formatter<'_>, long: bool) -> fmt::Result {
        if self.is_empty() {
            return out.write_str("-");
        }
        for (place, number) in self.numbers().enumerate() {
            if place > 0 {
                out.write_str(",")?;
            }
            let (short, name) = NAMES[number as usize];
            out.write_str(if long { name } else { short })?;
        }
        Ok(())
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        let mut both = self;
        both.insert(other);
        both
    }
}

/// Short names separated by commas; `-` where there is none.
impl fmt::Display for Flags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(out, false)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(out, false)
    }
}

/// Long names separated by commas; `-` where there is none.
#[derive(Clone, Copy)]
pub struct LongFlags(Flags);

impl fmt::Display for LongFlags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(out, true)
    }
}
