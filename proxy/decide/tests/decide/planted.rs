//! Each planted bug breaks a property that the others do not, within a stated number of seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use trireme_proxy_decide::planted::{ALL, Bug, set};

use crate::properties::{Setting, happen};

fn setting() -> Setting {
    Setting {
        hosts: 4,
        connections: 2,
        pending: 3,
        requests: 5,
        retries: 2,
        budget: None,
        num_retries: 2,
        faults: 5,
    }
}

fn run(seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| {
        let setting = setting();
        let mut driver = setting.driver(seed);
        for _ in 0..400 {
            happen(&mut driver, &setting);
        }
        driver.close();
    }))
    .is_ok()
}

/// Bugs that the random driver finds; the others have tests of their own: the cap and the time of
/// returns in `outlier`, the budget in `breaker`, panic in `balance`.
const FOUND: [Bug; 4] = [
    Bug::LeakedPendingSlot,
    Bug::RetrySameHost,
    Bug::StaleEndpointAfterDrain,
    Bug::HalfOpenStampede,
];

/// Seeds within which the driver finds each.
const SEEDS: u64 = 40;

#[test]
fn the_driver_finds_planted_bugs() {
    let mut found = Vec::new();
    assert!((0..5).all(run), "nothing is found where nothing is planted");
    for bug in FOUND {
        set(bug, true);
        let seed = (0..SEEDS).find(|seed| !run(*seed));
        set(bug, false);
        found.push((bug, seed));
    }
    println!("{found:?}");
    assert!(found.iter().all(|(_, seed)| seed.is_some()), "{found:?}");
}

#[test]
fn every_bug_has_a_name() {
    assert_eq!(ALL.len(), 9);
}
