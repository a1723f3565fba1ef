//! What is passed over, and why that is no loss.

/// Fields of Envoy's messages that [`parse`](super) does not read, and why passing them over does
/// not change what a request meets. Everything else that is not honoured is refused.
pub const IGNORED: &[(&str, &str)] = &[
    // Everywhere.
    (
        "*.runtime_key",
        "there are no overrides at run time: the default that stands beside it counts",
    ),
    (
        "*.config_source, *.eds_config, *.sds_config",
        "everything is discovered over the one aggregated stream",
    ),
    (
        "*.stat_prefix of routes, *.stats_matcher, *.track_cluster_stats, track_timeout_budgets",
        "only names and numbers of statistics, which are ours",
    ),
    (
        "RegexMatcher.engine_type, max_program_size",
        "expressions have one engine here, with a limit of its own",
    ),
    // Listeners.
    (
        "Listener.drain_type",
        "listeners drain when they change, whatever the type",
    ),
    (
        "Listener.connection_balance_config, enable_reuse_port, reuse_port",
        "how connections are spread over our own threads is ours",
    ),
    (
        "Listener.tcp_backlog_size, tcp_fast_open_queue_length, max_connections_to_accept_per_socket_event, tcp_keepalive",
        "tuning of sockets, with no effect on what is answered",
    ),
    (
        "Listener.ignore_global_conn_limit, bypass_overload_manager",
        "there is no such limit here",
    ),
    (
        "Listener.per_connection_buffer_high_watermark_timeout, Cluster.per_connection_buffer_high_watermark_timeout",
        "connections wait without a limit of time while buffers are full, as by default",
    ),
    (
        "ListenerFilter tls_inspector.enable_ja3_fingerprinting, enable_ja4_fingerprinting, initial_read_buffer_size, max_client_hello_size",
        "fingerprints are used by nothing here; sizes of buffers are ours",
    ),
    (
        "network filters istio.metadata_exchange, istio.stats",
        "peers are known by address; every proxy keeps statistics",
    ),
    (
        "TcpProxy.access_log_options, access_log_flush_interval, flush_access_log_on_connected",
        "a connection is logged once, at its end",
    ),
    (
        "TcpProxy.max_early_data_bytes, check_drain_close",
        "belong to modes that are refused",
    ),
    // The HTTP connection manager.
    (
        "HttpConnectionManager.tracing, Route.tracing, Route.decorator",
        "spans are a later part; requests are answered the same",
    ),
    (
        "HttpConnectionManager.http3_protocol_options",
        "HTTP/3 itself is refused",
    ),
    (
        "HttpConnectionManager.delayed_close_timeout, drain_timeout_jitter, http1_safe_max_connection_duration",
        "how a connection is closed after its last answer",
    ),
    (
        "HttpConnectionManager.access_log_options, access_log_flush_interval, flush_access_log_on_new_request",
        "a request is logged once, at its end",
    ),
    (
        "HttpConnectionManager.stream_flush_timeout",
        "the idle time of the stream bounds it",
    ),
    (
        "HttpConnectionManager.set_current_client_cert_details",
        "counts only with client certificates, which sidecars do not have yet",
    ),
    (
        "HttpConnectionManager.proxy_100_continue",
        "expectations are answered by the proxy",
    ),
    (
        "HttpConnectionManager.stream_error_on_invalid_http_message, *.override_stream_error_on_invalid_http_message",
        "malformed messages close HTTP/1.1 connections and reset HTTP/2 streams",
    ),
    (
        "HttpConnectionManager.add_proxy_protocol_connection_state",
        "metadata that nothing here reads",
    ),
    (
        "CommonHttpProtocolOptions.max_response_headers_kb, max_connection_duration_jitter",
        "the limit of the HTTP library holds; jitter is for the peers' sake",
    ),
    (
        "Http1ProtocolOptions.use_balsa_parser, allow_custom_methods",
        "there is one parser; it accepts every token as a method",
    ),
    (
        "Http2ProtocolOptions: limits of frames (max_outbound_frames, stream_reset_burst, …), hpack_table_size, enable_huffman_encoding, disallow_obs_text",
        "protection against floods is the HTTP library's own",
    ),
    (
        "HTTP filters istio.stats, istio.metadata_exchange, istio.alpn, istio_authn, envoy.filters.http.grpc_stats",
        "statistics are kept by every proxy; peers are known by address",
    ),
    (
        "Router.dynamic_stats, start_child_span, suppress_grpc_request_failure_code_stats, upstream_log_options, reject_connect_request_early_data",
        "statistics and spans",
    ),
    // Routes.
    (
        "RouteConfiguration.validate_clusters",
        "a route to a cluster that is not there answers 503 (NC) until it comes",
    ),
    (
        "RouteConfiguration.metadata, VirtualHost.virtual_clusters, WeightedCluster.runtime_key_prefix",
        "statistics and overrides at run time",
    ),
    (
        "WeightedCluster.total_weight",
        "the weights' sum counts, as in Envoy since this field has no effect",
    ),
    (
        "RouteAction.max_internal_redirects",
        "internal redirects themselves are refused",
    ),
    (
        "RequestMirrorPolicy.trace_sampled",
        "spans are a later part",
    ),
    ("RateLimit.disable_key", "an override at run time"),
    (
        "Action.default_value of rate limits",
        "stands in for values taken from request formats, which are refused by their kind",
    ),
    (
        "HttpFault.*_runtime, disable_downstream_cluster_stats",
        "overrides at run time and statistics",
    ),
    (
        "LocalRateLimit.max_dynamic_descriptors",
        "descriptors here are only those given",
    ),
    (
        "RateLimit.stat_prefix, metadata_namespace",
        "statistics, and metadata that nothing here reads",
    ),
    // Clusters and endpoints.
    (
        "Cluster.lrs_server, lrs_report_endpoint_metrics",
        "load is not reported to the control plane",
    ),
    (
        "Cluster.preconnect_policy",
        "connections are made when requests need them: some connects earlier, no answer differs",
    ),
    (
        "Cluster.cleanup_interval",
        "hosts of original destinations are forgotten when their last connection ends",
    ),
    (
        "Cluster.dns_failure_refresh_rate, dns_jitter, typed_dns_resolver_config",
        "failures are retried at the refresh rate; there is one resolver, the pod's",
    ),
    (
        "Cluster.close_connections_on_host_health_failure, ignore_health_on_host_removal",
        "count only with active health checks, which are refused",
    ),
    (
        "Cluster.upstream_connection_options.set_local_interface_name_on_upstream_connections, happy_eyeballs_config",
        "endpoints have one address each",
    ),
    (
        "CommonLbConfig.update_merge_window, ignore_new_hosts_until_first_hc",
        "changes of hosts are applied at once; active health checks are refused",
    ),
    (
        "ZoneAwareLbConfig.routing_enabled, min_cluster_size, locality_basis",
        "the control plane orders localities by priority instead",
    ),
    (
        "BindConfig.extra_source_addresses, additional_source_addresses, validate_network_namespaces",
        "for endpoints of the other address family",
    ),
    (
        "typed_extension_protocol_options of TCP",
        "the connection's idle time is the TCP proxy's",
    ),
    (
        "AutoHttpConfig.alternate_protocols_cache_options",
        "for HTTP/3, which is refused",
    ),
    (
        "Endpoint.health_check_config, observability_name",
        "active health checks are refused; a name for statistics",
    ),
    // TLS.
    (
        "TlsParameters.ecdh_curves, signature_algorithms",
        "those of the TLS library, all of them strong",
    ),
    (
        "TlsCertificate.watched_directory, ocsp_staple, signed_certificate_timestamp",
        "certificates come over the stream; stapling is for browsers",
    ),
    (
        "UpstreamTlsContext.allow_renegotiation, max_session_keys, enforce_rsa_key_usage",
        "the TLS library's own safe choice",
    ),
    (
        "DownstreamTlsContext.session_timeout, session_ticket_keys, disable_*_session_resumption, ocsp_staple_policy, prefer_client_ciphers, full_scan_certs_on_sni_mismatch",
        "resumption and staples change no answer",
    ),
    (
        "CertificateValidationContext.watched_directory, only_verify_leaf_cert_crl, suppress_client_ca_list",
        "certificates come over the stream; revocation lists are refused",
    ),
];
