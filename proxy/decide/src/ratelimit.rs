//! Rate limits: descriptors of a request, and the local token bucket.
//!
//! A bucket refills continuously: tokens are a function of time, not of ticks (Envoy's
//! `AtomicTokenBucketImpl`).

mod bucket;
mod descriptor;

pub use bucket::{Allowance, LimitState, Standing};
pub use descriptor::descriptors;
pub(crate) use descriptor::of_place;

use crate::config::DescriptorEntry;

/// The entries of one descriptor.
pub type Entries = Vec<DescriptorEntry>;
