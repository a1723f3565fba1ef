//! Token buckets of one local rate limit.

use std::sync::{Arc, Mutex, PoisonError};

use super::Entries;
use crate::config::{DescriptorEntry, LocalRateLimit, TokenBucket};
use crate::time::Nanos;

/// A bucket's level at a time.
#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at: Nanos,
}

/// The running state of a local rate limit: part of its configuration, so that a limit that
/// stays keeps its tokens and one that changes begins anew, as in Envoy. Equal to any other: it
/// says nothing about the configuration.
#[derive(Clone, Debug, Default)]
pub struct LimitState(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    default: Option<Level>,
    /// Of each configured descriptor, in the configuration's order.
    descriptors: Vec<Option<Level>>,
    /// Of values that stand for a descriptor's wildcard.
    wildcards: Vec<(usize, Entries, Level)>,
}

/// Distinct values of wildcards that are remembered; Envoy's `max_dynamic_descriptors` default.
/// The one used longest ago gives way.
const WILDCARDS_MAX: usize = 20;

impl PartialEq for LimitState {
    fn eq(&self, _other: &LimitState) -> bool {
        true
    }
}

/// What a bucket says of itself in `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The most it holds.
    pub limit: u32,
    /// What it holds, in whole tokens.
    pub remaining: u64,
    /// Seconds until a token is there.
    pub reset_secs: u64,
}

/// Whether a request may pass, and by which bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Whether it may.
    pub allowed: bool,
    /// What the bucket that decided says.
    pub standing: Option<Standing>,
}

impl LimitState {
    /// Takes a token for a request with `descriptors` from every bucket it falls under.
    #[must_use]
    pub fn take(&self, limit: &LocalRateLimit, descriptors: &[Entries], now: Nanos) -> Allowance {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.descriptors.len() != limit.descriptors.len() {
            state.descriptors = vec![None; limit.descriptors.len()];
        }
        let mut matched: Vec<(usize, &Entries)> = descriptors
            .iter()
            .filter_map(|entries| {
                let index = limit
                    .descriptors
                    .iter()
                    .position(|descriptor| fits(&descriptor.entries, entries))?;
                Some((index, entries))
            })
            .collect();
        // The slowest bucket first, so that fewer tokens are taken in vain.
        matched.sort_by(|(one, _), (other, _)| {
            rate(&limit.descriptors[*one].bucket)
                .total_cmp(&rate(&limit.descriptors[*other].bucket))
        });
        let mut first = None;
        for (index, entries) in &matched {
            let bucket = limit.descriptors[*index].bucket;
            let level = state.level(limit, *index, entries);
            let (allowed, standing) = consume(level, &bucket, now);
            first.get_or_insert(standing);
            if !allowed {
                return Allowance {
                    allowed: false,
                    standing: Some(standing),
                };
            }
        }
        if (matched.is_empty() || limit.always_consume_default_bucket)
            && let Some(bucket) = limit.bucket
        {
            let level = state.default.get_or_insert(full(&bucket, now));
            let (allowed, standing) = consume(level, &bucket, now);
            return Allowance {
                allowed,
                standing: if allowed {
                    first.or(Some(standing))
                } else {
                    Some(standing)
                },
            };
        }
        Allowance {
            allowed: true,
            standing: first,
        }
    }
}

impl State {
    /// The level of a descriptor's bucket; where it has a wildcard, of these entries' own.
    fn level(&mut self, limit: &LocalRateLimit, index: usize, entries: &Entries) -> &mut Level {
        let descriptor = &limit.descriptors[index];
        // A bucket never used is full whenever it is asked: time zero does.
        let fresh = full(&descriptor.bucket, Nanos::ZERO);
        if descriptor
            .entries
            .iter()
            .all(|entry| !entry.value.is_empty())
        {
            return self.descriptors[index].get_or_insert(fresh);
        }
        let known = self
            .wildcards
            .iter()
            .position(|(of, own, _)| *of == index && own == entries);
        let entry = match known {
            Some(position) => self.wildcards.remove(position),
            None => {
                if self.wildcards.len() >= WILDCARDS_MAX {
                    self.wildcards.remove(0);
                }
                (index, entries.clone(), fresh)
            }
        };
        self.wildcards.push(entry);
        let last = self.wildcards.len() - 1;
        &mut self.wildcards[last].2
    }
}

/// Whether a request's entries are the descriptor's; an empty value stands for any.
fn fits(wanted: &[DescriptorEntry], entries: &[DescriptorEntry]) -> bool {
    wanted.len() == entries.len()
        && wanted.iter().zip(entries).all(|(wanted, entry)| {
            wanted.key == entry.key && (wanted.value.is_empty() || wanted.value == entry.value)
        })
}

fn full(bucket: &TokenBucket, now: Nanos) -> Level {
    Level {
        tokens: f64::from(bucket.max_tokens),
        at: now,
    }
}

/// Tokens a second.
fn rate(bucket: &TokenBucket) -> f64 {
    let interval = bucket.fill_interval.as_secs_f64();
    if interval > 0.0 {
        f64::from(bucket.tokens_per_fill) / interval
    } else {
        f64::INFINITY
    }
}

fn consume(level: &mut Level, bucket: &TokenBucket, now: Nanos) -> (bool, Standing) {
    let rate = rate(bucket);
    let gained = if rate.is_finite() {
        now.since(level.at).as_secs_f64() * rate
    } else {
        f64::from(bucket.max_tokens)
    };
    level.tokens = (level.tokens + gained).min(f64::from(bucket.max_tokens));
    level.at = level.at.max(now);
    let allowed = level.tokens >= 1.0;
    if allowed {
        level.tokens -= 1.0;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let standing = Standing {
        limit: bucket.max_tokens,
        remaining: level.tokens as u64,
        reset_secs: if level.tokens >= 1.0 || rate == 0.0 {
            0
        } else {
            ((1.0 - level.tokens) / rate).ceil() as u64
        },
    };
    (allowed, standing)
}
