//! The scheduler.

use crate::intent::Plan;
use crate::view::View;

/// Places every pending pod it can.
pub fn plan(view: &View, seed: u64) -> Plan {
    let _ = (view, seed);
    Plan::default()
}
