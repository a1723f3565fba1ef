//! The Date header, made once a second.

use std::cell::RefCell;
use std::time::SystemTime;

use http::HeaderValue;
use tokio::time::Instant;

struct Cached {
    made: Instant,
    value: HeaderValue,
}

thread_local! {
    static CACHED: RefCell<Option<Cached>> = const { RefCell::new(None) };
}

/// Age at which it is made again: the header counts seconds.
const FRESH_MS: u128 = 500;

/// The time as HTTP writes it.
#[must_use]
pub fn now() -> HeaderValue {
    CACHED.with_borrow_mut(|cached| {
        let now = Instant::now();
        if let Some(cached) = cached
            && now.saturating_duration_since(cached.made).as_millis() < FRESH_MS
        {
            return cached.value.clone();
        }
        let text = httpdate::fmt_http_date(SystemTime::now());
        let value = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
        *cached = Some(Cached {
            made: now,
            value: value.clone(),
        });
        value
    })
}
