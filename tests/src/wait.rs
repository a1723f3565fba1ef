//! Waiting for conditions.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between looks; a condition is seen at most this late.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` answers a value; what it answers as an error meanwhile is the reason given when
/// `limit` has passed. Answers the value and how long it took.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<(T, Duration)> {
    let begin = Instant::now();
    loop {
        let reason = match look() {
            Ok(value) => return Ok((value, begin.elapsed())),
            Err(reason) => reason,
        };
        if begin.elapsed() > limit {
            bail!("{what}: not within {} s: {reason:#}", limit.as_secs_f64());
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}
