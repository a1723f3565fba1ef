//! Whether two proxies draw from the same lot.

use std::collections::BTreeMap;

/// A false alarm once in ten thousand: with a few dozen such cases a run, one in hundreds of runs.
const NORMAL_QUANTILE: f64 = 3.719;

/// The value that chi-squared with `freedom` degrees exceeds once in ten thousand (Wilson and Hilferty's
/// approximation, Proceedings of the National Academy of Sciences 17, 1931).
pub fn chi_squared_limit(freedom: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a handful of classes")]
    let freedom = freedom.max(1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + NORMAL_QUANTILE * spread.sqrt()).powi(3)
}

/// Pearson's statistic for two samples of counts being of one distribution, and its degrees of freedom.
pub fn two_samples(one: &BTreeMap<String, u64>, other: &BTreeMap<String, u64>) -> (f64, usize) {
    #[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
    let number = |count: u64| count as f64;
    let total = |sample: &BTreeMap<String, u64>| number(sample.values().sum::<u64>());
    let (all_one, all_other) = (total(one), total(other));
    let mut classes: Vec<&String> = one.keys().chain(other.keys()).collect();
    classes.sort();
    classes.dedup();
    let mut statistic = 0.0;
    for class in &classes {
        let count =
            |sample: &BTreeMap<String, u64>| number(sample.get(*class).copied().unwrap_or(0));
        let (a, b) = (count(one), count(other));
        let share = (a + b) / (all_one + all_other);
        for (seen, expected) in [(a, share * all_one), (b, share * all_other)] {
            if expected > 0.0 {
                statistic += (seen - expected).powi(2) / expected;
            }
        }
    }
    (statistic, classes.len().saturating_sub(1))
}

/// Pearson's statistic for one sample against shares that add up to one.
pub fn one_sample(sample: &BTreeMap<String, u64>, shares: &[(&str, f64)]) -> (f64, usize) {
    #[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
    let all = sample.values().sum::<u64>() as f64;
    let mut statistic = 0.0;
    for (class, share) in shares {
        #[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
        let seen = sample.get(*class).copied().unwrap_or(0) as f64;
        let expected = share * all;
        if expected > 0.0 {
            statistic += (seen - expected).powi(2) / expected;
        } else if seen > 0.0 {
            statistic = f64::INFINITY;
        }
    }
    let known = |class: &String| shares.iter().any(|(name, _)| name == class);
    if !sample.keys().all(known) {
        statistic = f64::INFINITY;
    }
    (statistic, shares.len().saturating_sub(1))
}
