//! Waiting between tries: kubelet's rules and numbers.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// First wait between restarts of a container, and between pulls of an image.
pub const INITIAL_S: u32 = 10;
/// Longest wait: the kubelet's MaxContainerBackOff.
pub const MAX_S: u32 = 300;
/// A container that ran this long since its last restart starts afresh: twice the longest wait.
pub const RESET_S: i64 = 600;
/// How long `ErrImagePull` stays visible before it becomes `ImagePullBackOff`: about one sync of
/// a kubelet, long enough for a person's `get pods -w`.
pub const PULL_ERROR_SHOWN_S: i64 = 2;
/// First wait before volumes, sandbox or a refused configuration are tried again; doubles.
pub const RETRY_INITIAL_MS: i64 = 500;
/// Longest such wait: configuration that a user repairs is taken up by its watch, this is for
/// what nobody announces.
pub const RETRY_MAX_MS: i64 = 20_000;

/// `at` plus seconds, without overflow.
pub fn after_s(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// `at` plus milliseconds, without overflow.
pub fn after_ms(at: Timestamp, milliseconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_millis(milliseconds))
        .unwrap_or(Timestamp::MAX)
}

/// The wait before a container's next restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackOff {
    /// Seconds that must lie between the last end and the next start.
    pub delay_s: u32,
    /// The end that the last restart followed.
    pub updated: Timestamp,
}

impl BackOff {
    /// When a container that ended at `finished` may start again; none: at once.
    pub fn until(state: Option<&BackOff>, finished: Timestamp) -> Option<Timestamp> {
        let state = state?;
        if finished.duration_since(state.updated).as_secs() > RESET_S {
            return None;
        }
        Some(after_s(finished, i64::from(state.delay_s)))
    }

    /// The state after a restart that followed the end at `finished`.
    pub fn next(state: Option<&BackOff>, finished: Timestamp) -> BackOff {
        let delay_s = match state {
            Some(state) if finished.duration_since(state.updated).as_secs() <= RESET_S => {
                state.delay_s.saturating_mul(2).min(MAX_S)
            }
            _ => INITIAL_S,
        };
        BackOff {
            delay_s,
            updated: finished,
        }
    }
}

/// Seconds to wait after the given number of failed pulls in a row.
pub fn pull_delay_s(failures: u32) -> i64 {
    let doublings = failures.saturating_sub(1).min(5);
    i64::from(INITIAL_S.saturating_mul(1 << doublings).min(MAX_S))
}

/// Milliseconds to wait after the given number of failures in a row of anything else.
pub fn retry_delay_ms(failures: u32) -> i64 {
    let doublings = failures.saturating_sub(1).min(10);
    (RETRY_INITIAL_MS << doublings).min(RETRY_MAX_MS)
}

/// Seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(seconds: u32) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) if m < 60 => format!("{m}m{s}s"),
        (m, s) => format!("{}h{}m{s}s", m / 60, m % 60),
    }
}
