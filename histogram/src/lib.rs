//! How often values of each magnitude occurred: the part of `base2histogram` that openraft uses.
//!
//! openraft counts its batches in histograms of that crate, which fills tables for sixteen widths of
//! buckets at the first use, 26 MB in every server, of which one is looked into. Here a bucket is
//! computed: a power of two is divided in four, as in that one. What comes in are values, what goes
//! out are percentiles to within a quarter of the value. Deliberately not here: windows of time,
//! other widths, charts drawn in text; openraft's feature `runtime-stats`, which wants those, is off.

use std::fmt;
use std::marker::PhantomData;

/// Bits of a value behind its first that tell its bucket.
const DETAIL_BITS: u32 = 2;
const DETAIL: u64 = 1 << DETAIL_BITS;
/// Of the greatest value, and one: every magnitude has four, the smallest values one each.
const BUCKETS: usize = ((u64::BITS - DETAIL_BITS + 1) as usize) << DETAIL_BITS;

/// Counts of values by bucket. `T` is what the original keeps beside its windows of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    samples: u64,
    of: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The bucket that a value falls into.
fn bucket(value: u64) -> usize {
    let magnitude = value.checked_ilog2().unwrap_or(0);
    let index = match magnitude.checked_sub(DETAIL_BITS) {
        // Values that have no more bits than the detail are their own buckets.
        None => value,
        Some(shift) => (u64::from(shift) << DETAIL_BITS) + (value >> shift),
    };
    // Less than BUCKETS, by the greatest value's.
    index as usize
}

/// The least value that falls into a bucket.
fn least(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match (bucket >> DETAIL_BITS).checked_sub(1) {
        None => bucket,
        Some(shift) => (DETAIL + bucket % DETAIL) << shift,
    }
}

impl<T> Histogram<T> {
    pub fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            samples: 0,
            of: PhantomData,
        }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts[bucket(value)] += count;
        self.samples += count;
    }

    /// Values recorded.
    pub fn total(&self) -> u64 {
        self.samples
    }

    /// The least value of the bucket that holds the value at this share (0 to 1) of all, in ascending
    /// order; 0 when there are none.
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = ((self.samples as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return least(bucket);
            }
        }
        0
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// The usual percentiles of a histogram, each to within a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            samples,
            p0_1,
            p1,
            p5,
            p10,
            p50,
            p90,
            p99,
            p99_9,
        } = self;
        write!(
            f,
            "[samples: {samples}, P0.1: {p0_1}, P1: {p1}, P5: {p5}, P10: {p10}, P50: {p50}, P90: {p90}, P99: {p99}, P99.9: {p99_9}]"
        )
    }
}

/// Named histograms, told as a line of percentiles each.
#[derive(Clone, Debug)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> Default for AsciiChart<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> AsciiChart<T> {
    pub fn new() -> Self {
        Self { series: Vec::new() }
    }

    /// The chart with one more histogram.
    #[must_use]
    // The original's name.
    #[allow(clippy::should_implement_trait)]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram));
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_bucket_and_that_is_no_wider_than_a_quarter() {
        let edges = (0..64).flat_map(|bit| {
            let power = 1_u64 << bit;
            [power - 1, power, power + power / 3]
        });
        for value in (0..5000).chain(edges).chain([u64::MAX]) {
            let bucket = bucket(value);
            assert!(bucket < BUCKETS, "{value}");
            assert!(least(bucket) <= value, "{value}");
            assert!(value - least(bucket) <= least(bucket) / 4, "{value}");
            if bucket + 1 < BUCKETS {
                assert!(value < least(bucket + 1), "{value}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99_9, 0);
        for value in 1..=1000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, histogram.total()), (1000, 1000));
        for (told, exact) in [(stats.p1, 10), (stats.p50, 500), (stats.p99, 990)] {
            assert!(told <= exact && exact - told <= told / 4, "{told} {exact}");
        }
    }

    #[test]
    fn a_chart_tells_every_series() {
        let mut histogram = Histogram::<()>::new();
        histogram.record_n(7, 3);
        let text = AsciiChart::new().add("appended", histogram).to_string();
        assert!(text.starts_with("appended: [samples: 3,"), "{text}");
        assert!(text.contains("P50: 7"), "{text}");
    }
}
