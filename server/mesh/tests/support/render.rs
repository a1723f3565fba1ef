//! Configuration in words, for golden files: what matters of each resource, one thing a line.

use trireme_mesh::{Kind, Resource};
use trireme_xds::metadata;
use trireme_xds::pb::envoy::config::cluster::v3 as cluster;
use trireme_xds::pb::envoy::config::core::v3 as core;
use trireme_xds::pb::envoy::config::endpoint::v3 as endpoint;
use trireme_xds::pb::envoy::config::listener::v3 as listener;
use trireme_xds::pb::envoy::config::route::v3 as route;
use trireme_xds::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use trireme_xds::pb::envoy::extensions::filters::http::fault::v3 as fault;
use trireme_xds::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use trireme_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use trireme_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use trireme_xds::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use trireme_xds::pb::envoy::extensions::upstreams::http::v3 as upstream;
use trireme_xds::pb::envoy::r#type::matcher::v3 as matcher;
use trireme_xds::pb::envoy::r#type::v3 as kind;
use trireme_xds::pb::google::protobuf::{Any, Duration, UInt32Value};
use trireme_xds::unpack;

pub fn render(kind: Kind, resource: &Resource) -> String {
    let body = &resource.body;
    match kind {
        Kind::Listener => of_listener(&unpack(body).expect("a listener")),
        Kind::Route => of_routes(&unpack(body).expect("routes")),
        Kind::Cluster => of_cluster(&unpack(body).expect("a cluster")),
        Kind::Endpoint => of_assignment(&unpack(body).expect("endpoints")),
        Kind::Secret => format!("secret {}\n", resource.name),
    }
}

fn cause(metadata: Option<&core::Metadata>) -> String {
    let object = metadata::object(metadata).unwrap_or("");
    let short = object.replace("/apis/networking.istio.io/v1/namespaces/", "");
    match short.as_str() {
        "" => String::new(),
        short => format!(" <{short}>"),
    }
}

fn time(length: &Option<Duration>) -> String {
    match length {
        None => "-".to_owned(),
        Some(it) if it.nanos == 0 => format!("{}s", it.seconds),
        Some(it) => format!("{}.{:03}s", it.seconds, it.nanos / 1_000_000),
    }
}

fn at(address: &Option<core::Address>) -> String {
    match address.as_ref().and_then(|it| it.address.as_ref()) {
        Some(core::address::Address::SocketAddress(it)) => {
            let port = match it.port_specifier {
                Some(core::socket_address::PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            format!("{}:{port}", it.address)
        }
        Some(core::address::Address::Pipe(it)) => it.path.clone(),
        _ => String::new(),
    }
}

fn of_listener(it: &listener::Listener) -> String {
    let mut out = format!("listener {} at {}", it.name, at(&it.address));
    if it.bind_to_port.as_ref().is_some_and(|it| !it.value) {
        out += " unbound";
    }
    if it.use_original_dst.is_some() {
        out += " to the original destination";
    }
    out += &cause(it.metadata.as_ref());
    out += "\n";
    for filter in &it.listener_filters {
        let off = match &filter.filter_disabled {
            Some(rule) => format!(", not on {}", ports(rule).join(" ")),
            None => String::new(),
        };
        let name = filter.name.trim_start_matches("envoy.filters.listener.");
        out += &format!(
            "  {name}{off}, at most {}\n",
            time(&it.listener_filters_timeout)
        );
    }
    for chain in it.filter_chains.iter().chain(&it.default_filter_chain) {
        out += &of_chain(chain);
    }
    if let Some(api) = it
        .api_listener
        .as_ref()
        .and_then(|it| it.api_listener.as_ref())
    {
        out += &format!("  api: {}\n", of_filter(api));
    }
    out
}

fn ports(rule: &listener::ListenerFilterChainMatchPredicate) -> Vec<String> {
    use listener::listener_filter_chain_match_predicate::Rule;
    match &rule.rule {
        Some(Rule::OrMatch(set)) => set.rules.iter().flat_map(ports).collect(),
        Some(Rule::DestinationPortRange(range)) => vec![range.start.to_string()],
        _ => Vec::new(),
    }
}

fn of_chain(chain: &listener::FilterChain) -> String {
    let mut wanted = Vec::new();
    if let Some(it) = &chain.filter_chain_match {
        if let Some(port) = &it.destination_port {
            wanted.push(format!("port {}", port.value));
        }
        if !it.server_names.is_empty() {
            wanted.push(format!("server name {}", it.server_names.join(" ")));
        }
        for range in &it.prefix_ranges {
            wanted.push(format!(
                "to {}/{}",
                range.address_prefix,
                range.prefix_len.map_or(0, |it| it.value)
            ));
        }
        if !it.application_protocols.is_empty() {
            wanted.push(format!(
                "{} {}",
                it.transport_protocol,
                it.application_protocols.join(" ")
            ));
        }
    }
    let wanted = match wanted.is_empty() {
        true => "anything".to_owned(),
        false => wanted.join(", "),
    };
    let what: Vec<String> = chain
        .filters
        .iter()
        .filter_map(|it| match &it.config_type {
            Some(listener::filter::ConfigType::TypedConfig(any)) => Some(of_filter(any)),
            _ => None,
        })
        .collect();
    let secured = match &chain.transport_socket {
        Some(socket) => format!(", {}", of_socket(socket)),
        None => String::new(),
    };
    format!(
        "  {wanted}{secured} -> {}{}\n",
        what.join(" + "),
        cause(chain.metadata.as_ref())
    )
}

fn of_filter(any: &Any) -> String {
    if let Ok(proxy) = unpack::<tcp::TcpProxy>(any) {
        let to = match &proxy.cluster_specifier {
            Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(name)) => name.clone(),
            Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(many)) => {
                let many = many
                    .clusters
                    .iter()
                    .map(|it| format!("{} {}", it.weight, it.name));
                many.collect::<Vec<_>>().join(", ")
            }
            None => String::new(),
        };
        let idle = proxy
            .idle_timeout
            .as_ref()
            .map(|it| format!(" idle {}s", it.seconds));
        return format!("tcp {to}{}", idle.unwrap_or_default());
    }
    let manager: hcm::HttpConnectionManager = unpack(any).expect("HTTP or TCP");
    let names = manager
        .http_filters
        .iter()
        .map(|it| it.name.trim_start_matches("envoy.filters.http."));
    let filters = names.collect::<Vec<_>>().join(" ");
    let routes = match &manager.route_specifier {
        Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) => {
            format!("routes {}", rds.route_config_name)
        }
        Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(inline)) => {
            format!("here {}", inline.name)
        }
        _ => String::new(),
    };
    let logs = if manager.access_log.is_empty() {
        ""
    } else {
        ", logged"
    };
    format!("http {routes} [{filters}]{logs}")
}

fn of_socket(socket: &core::TransportSocket) -> String {
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return socket.name.clone();
    };
    if let Ok(down) = unpack::<tls::DownstreamTlsContext>(any) {
        let common = down.common_tls_context.unwrap_or_default();
        let named = common
            .tls_certificate_sds_secret_configs
            .iter()
            .map(|it| it.name.clone());
        let client = down.require_client_certificate.is_some_and(|it| it.value);
        return format!(
            "TLS by {}{}",
            named.collect::<Vec<_>>().join(" "),
            if client { ", client certificate" } else { "" }
        );
    }
    if let Ok(up) = unpack::<tls::UpstreamTlsContext>(any) {
        let common = up.common_tls_context.unwrap_or_default();
        let checks = common.validation_context_type.is_some();
        return format!(
            "TLS sni {:?} alpn {:?}{}",
            up.sni,
            common.alpn_protocols.join(" "),
            if checks { ", checked" } else { "" }
        );
    }
    socket.name.clone()
}

fn of_routes(it: &route::RouteConfiguration) -> String {
    let mut out = format!("routes {}\n", it.name);
    for host in &it.virtual_hosts {
        out += &format!("  host {} [{}]", host.name, host.domains.join(", "));
        if host.require_tls != 0 {
            out += " TLS required";
        }
        if !host.rate_limits.is_empty() {
            out += &format!(" {} rate limits", host.rate_limits.len());
        }
        out += &filters(host.typed_per_filter_config.iter());
        out += &cause(host.metadata.as_ref());
        out += "\n";
        for route in &host.routes {
            out += &of_route(route);
        }
    }
    out
}

fn text(it: &matcher::StringMatcher) -> String {
    use matcher::string_matcher::MatchPattern;
    match &it.match_pattern {
        Some(MatchPattern::Exact(text)) => format!("= {text}"),
        Some(MatchPattern::Prefix(text)) => format!("{text}…"),
        Some(MatchPattern::SafeRegex(regex)) => format!("~ {}", regex.regex),
        _ => "?".to_owned(),
    }
}

fn of_match(it: &route::RouteMatch) -> String {
    use route::route_match::PathSpecifier;
    let mut parts = vec![match &it.path_specifier {
        Some(PathSpecifier::Prefix(text)) => format!("{text}…"),
        Some(PathSpecifier::Path(text)) => format!("= {text}"),
        Some(PathSpecifier::SafeRegex(regex)) => format!("~ {}", regex.regex),
        _ => "?".to_owned(),
    }];
    if it.case_sensitive.as_ref().is_some_and(|it| !it.value) {
        parts.push("any case".to_owned());
    }
    for header in &it.headers {
        use route::header_matcher::HeaderMatchSpecifier as Specifier;
        let how = match &header.header_match_specifier {
            Some(Specifier::StringMatch(matcher)) => text(matcher),
            Some(Specifier::PresentMatch(_)) => "present".to_owned(),
            _ => "?".to_owned(),
        };
        let not = if header.invert_match { "not " } else { "" };
        parts.push(format!("{not}{} {how}", header.name));
    }
    for query in &it.query_parameters {
        use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
        let how = match &query.query_parameter_match_specifier {
            Some(Specifier::StringMatch(matcher)) => text(matcher),
            _ => "present".to_owned(),
        };
        parts.push(format!("?{} {how}", query.name));
    }
    parts.join(", ")
}

fn share(it: &Option<kind::FractionalPercent>) -> String {
    let it = (*it).unwrap_or_default();
    let of = [100.0, 10_000.0, 1_000_000.0][it.denominator as usize];
    format!("{}%", f64::from(it.numerator) * 100.0 / of)
}

fn filters<'a>(configured: impl Iterator<Item = (&'a String, &'a Any)>) -> String {
    let mut found: Vec<String> = configured
        .map(|(name, any)| {
            if let Ok(it) = unpack::<fault::HttpFault>(any) {
                let delay = it.delay.map(|it| {
                    use trireme_xds::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
                    let length = match &it.fault_delay_secifier {
                        Some(FaultDelaySecifier::FixedDelay(fixed)) => time(&Some(*fixed)),
                        _ => String::new(),
                    };
                    format!(" delay {length} {}", share(&it.percentage))
                });
                let abort = it.abort.map(|it| format!(" abort {:?} {}", it.error_type, share(&it.percentage)));
                return format!(" fault{}{}", delay.unwrap_or_default(), abort.unwrap_or_default());
            }
            if let Ok(it) = unpack::<CorsPolicy>(any) {
                let origins = it.allow_origin_string_match.iter().map(text).collect::<Vec<_>>().join(" ");
                return format!(" cors {origins} methods {} max age {}", it.allow_methods, it.max_age);
            }
            if let Ok(it) = unpack::<LocalRateLimit>(any) {
                let bucket = it.token_bucket.unwrap_or_default();
                return format!(" local limit {} per {}", bucket.max_tokens, time(&bucket.fill_interval));
            }
            format!(" {name}")
        })
        .collect();
    found.sort();
    found.concat()
}

fn of_route(it: &route::Route) -> String {
    let name = if it.name.is_empty() { "-" } else { &it.name };
    let mut out = format!(
        "    {name}: {}",
        it.r#match.as_ref().map(of_match).unwrap_or_default()
    );
    out += " -> ";
    out += &match &it.action {
        Some(route::route::Action::Route(action)) => of_action(action),
        Some(route::route::Action::Redirect(to)) => format!(
            "redirect {} host {:?} port {} {:?} {:?}",
            to.response_code,
            to.host_redirect,
            to.port_redirect,
            to.scheme_rewrite_specifier,
            to.path_rewrite_specifier
        ),
        Some(route::route::Action::DirectResponse(answer)) => format!("answer {}", answer.status),
        _ => "nothing".to_owned(),
    };
    out += &changes(
        "request",
        &it.request_headers_to_add,
        &it.request_headers_to_remove,
    );
    out += &changes(
        "response",
        &it.response_headers_to_add,
        &it.response_headers_to_remove,
    );
    out += &filters(it.typed_per_filter_config.iter());
    out += &cause(it.metadata.as_ref());
    out += "\n";
    out
}

fn changes(of: &str, add: &[core::HeaderValueOption], remove: &[String]) -> String {
    let mut out = String::new();
    for one in add {
        let header = one.header.clone().unwrap_or_default();
        let how = if one.append_action == 0 { "add" } else { "set" };
        out += &format!(" {of} {how} {}: {}", header.key, header.value);
    }
    for name in remove {
        out += &format!(" {of} remove {name}");
    }
    out
}

fn of_action(it: &route::RouteAction) -> String {
    use route::route_action::{
        ClusterSpecifier, HostRewriteSpecifier, hash_policy::PolicySpecifier,
    };
    let mut out = match &it.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => name.clone(),
        Some(ClusterSpecifier::WeightedClusters(many)) => {
            let many = many
                .clusters
                .iter()
                .map(|it| format!("{} {}", it.weight.map_or(0, |it| it.value), it.name));
            many.collect::<Vec<_>>().join(", ")
        }
        _ => "?".to_owned(),
    };
    if time(&it.timeout) != "0s" {
        out += &format!(" timeout {}", time(&it.timeout));
    }
    match &it.retry_policy {
        None => out += " no retries",
        Some(retry) => {
            let count = retry.num_retries.map_or(0, |it| it.value);
            let usual =
                "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
            if retry.retry_on != usual || count != 2 || retry.per_try_timeout.is_some() {
                out += &format!(" retries {count} on {}", retry.retry_on);
                for code in &retry.retriable_status_codes {
                    out += &format!(" {code}");
                }
            }
            if retry.per_try_timeout.is_some() {
                out += &format!(" per try {}", time(&retry.per_try_timeout));
            }
            if retry.retry_host_predicate.is_empty() {
                out += " also on the same host";
            }
        }
    }
    if !it.prefix_rewrite.is_empty() {
        out += &format!(" as {}", it.prefix_rewrite);
    }
    if let Some(rewrite) = &it.regex_rewrite {
        out += &format!(" as {}", rewrite.substitution);
    }
    if let Some(HostRewriteSpecifier::HostRewriteLiteral(host)) = &it.host_rewrite_specifier {
        out += &format!(" host {host}");
    }
    for mirror in &it.request_mirror_policies {
        let part = mirror
            .runtime_fraction
            .as_ref()
            .and_then(|it| it.default_value);
        out += &format!(" mirror {} {}", share(&part), mirror.cluster);
    }
    for hash in &it.hash_policy {
        out += &match &hash.policy_specifier {
            Some(PolicySpecifier::Header(it)) => format!(" hash header {}", it.header_name),
            Some(PolicySpecifier::Cookie(it)) => {
                format!(" hash cookie {} {}", it.name, time(&it.ttl))
            }
            Some(PolicySpecifier::QueryParameter(it)) => format!(" hash query {}", it.name),
            Some(PolicySpecifier::ConnectionProperties(_)) => " hash source".to_owned(),
            _ => " hash ?".to_owned(),
        };
    }
    if !it.rate_limits.is_empty() {
        out += &format!(" {} rate limits", it.rate_limits.len());
    }
    out
}

fn limit(of: &str, value: &Option<UInt32Value>) -> String {
    match value {
        Some(it) if it.value == u32::MAX => String::new(),
        Some(it) => format!(" {of} {}", it.value),
        None => format!(" {of} -"),
    }
}

fn of_cluster(it: &cluster::Cluster) -> String {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy};
    let found = match &it.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(it)) => {
            DiscoveryType::try_from(*it).map_or("?", |it| it.as_str_name())
        }
        _ => "?",
    };
    let policy = LbPolicy::try_from(it.lb_policy).map_or("?", |it| it.as_str_name());
    let mut out = format!("cluster {} {found} {policy}", it.name);
    match &it.lb_config {
        Some(LbConfig::RingHashLbConfig(ring)) => {
            out += &format!(" ring {}", ring.minimum_ring_size.map_or(0, |it| it.value))
        }
        Some(LbConfig::MaglevLbConfig(table)) => {
            out += &format!(" table {}", table.table_size.map_or(0, |it| it.value))
        }
        Some(LbConfig::RoundRobinLbConfig(_) | LbConfig::LeastRequestLbConfig(_)) => {
            out += " slow start"
        }
        _ => {}
    }
    out += &format!(" connect {}", time(&it.connect_timeout));
    out += &cause(it.metadata.as_ref());
    out += "\n";
    for limits in it.circuit_breakers.iter().flat_map(|it| &it.thresholds) {
        let text = [
            limit("connections", &limits.max_connections),
            limit("pending", &limits.max_pending_requests),
            limit("requests", &limits.max_requests),
            limit("retries", &limits.max_retries),
        ]
        .concat();
        if !text.is_empty() {
            out += &format!("  at most{text}\n");
        }
        if let Some(budget) = &limits.retry_budget {
            out += &format!(
                "  retry budget {:?}% at least {:?}\n",
                budget.budget_percent.map(|it| it.value),
                budget.min_retry_concurrency.map(|it| it.value)
            );
        }
    }
    if let Some(outlier) = &it.outlier_detection {
        out += "  ejects";
        let count = |of: &str, value: &Option<UInt32Value>| {
            value
                .map(|it| format!(" {of} {}", it.value))
                .unwrap_or_default()
        };
        out += &count("5xx", &outlier.consecutive_5xx);
        out += &count("gateway", &outlier.consecutive_gateway_failure);
        out += &count("local", &outlier.consecutive_local_origin_failure);
        out += &count("percent", &outlier.max_ejection_percent);
        out += &format!(
            " every {} for {}",
            time(&outlier.interval),
            time(&outlier.base_ejection_time)
        );
        let panic = it
            .common_lb_config
            .as_ref()
            .and_then(|it| it.healthy_panic_threshold);
        out += &format!(" panic under {}%\n", panic.map_or(50.0, |it| it.value));
    }
    let weighted = it
        .common_lb_config
        .as_ref()
        .is_some_and(|it| it.locality_config_specifier.is_some());
    if weighted {
        out += "  weights of places\n";
    }
    for any in it.typed_extension_protocol_options.values() {
        let options: upstream::HttpProtocolOptions = unpack(any).expect("HTTP options");
        use upstream::http_protocol_options::{
            UpstreamProtocolOptions as Which, explicit_http_config::ProtocolConfig,
        };
        let which = match &options.upstream_protocol_options {
            Some(Which::ExplicitHttpConfig(it)) => match it.protocol_config {
                Some(ProtocolConfig::Http2ProtocolOptions(_)) => "HTTP/2",
                _ => "HTTP/1.1",
            },
            _ => "as the client",
        };
        out += &format!("  speaks {which}");
        if let Some(common) = &options.common_http_protocol_options {
            out += &count_of(common);
        }
        if let Some(up) = &options.upstream_http_protocol_options {
            out += &format!(" auto sni {} san {}", up.auto_sni, up.auto_san_validation);
        }
        out += "\n";
    }
    if let Some(socket) = &it.transport_socket {
        out += &format!("  {}\n", of_socket(socket));
    }
    if let Some(load) = &it.load_assignment {
        out += &localities(load);
    }
    out
}

fn count_of(common: &core::HttpProtocolOptions) -> String {
    let mut out = String::new();
    if let Some(it) = common.max_requests_per_connection {
        out += &format!(" {} requests a connection", it.value);
    }
    if common.idle_timeout.is_some() {
        out += &format!(" idle {}", time(&common.idle_timeout));
    }
    out
}

fn of_assignment(it: &endpoint::ClusterLoadAssignment) -> String {
    format!("endpoints {}\n{}", it.cluster_name, localities(it))
}

fn localities(it: &endpoint::ClusterLoadAssignment) -> String {
    let mut out = String::new();
    for place in &it.endpoints {
        let name = place
            .locality
            .as_ref()
            .filter(|it| !it.region.is_empty())
            .map(|it| format!("{}/{}/{}", it.region, it.zone, it.sub_zone));
        out += &format!(
            "  {} priority {} weight {}:",
            name.unwrap_or_else(|| "anywhere".to_owned()),
            place.priority,
            place.load_balancing_weight.map_or(0, |it| it.value)
        );
        for one in &place.lb_endpoints {
            if let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(inner)) =
                &one.host_identifier
            {
                out += &format!(" {}", at(&inner.address));
            }
        }
        out += "\n";
    }
    out
}
