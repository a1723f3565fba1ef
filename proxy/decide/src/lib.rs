//! What a proxy decides, as pure functions: route match, balancing, circuit breaking, outlier
//! ejection, retries, faults, rate limits. Each takes (event, now, rng) and returns effects.
