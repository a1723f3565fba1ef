//! Streams configuration as xDS: aggregated, state of the world and delta.
