//! The proxy: listeners, pools, the xDS client and telemetry around the decisions of `proxy/decide`.
