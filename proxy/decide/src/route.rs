//! Which virtual host and route a request takes.

mod domains;

pub use domains::Domains;
