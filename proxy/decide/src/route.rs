//! Which virtual host and route a request takes, and which of several clusters.
//!
//! Virtual hosts are found by the authority, routes in order: the first that matches is taken.
//! One number a request, drawn at its beginning, decides shares (`runtime_fraction`), weighted
//! clusters and mirrors alike, as Envoy's stream identifier does.

mod domains;
mod matching;
mod place;
mod trace;

pub use domains::Domains;
pub(crate) use matching::{first_parameter, matches_any, matches_values};
pub use matching::{matches_header, matches_query, matches_route, matches_string};
pub(crate) use place::without_port;
pub use place::{Lookup, Place, choose_weighted, find};
pub use trace::{Trace, TraceStep, explain};
