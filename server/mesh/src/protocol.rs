//! Which protocol a port speaks: what its `appProtocol` says, else its name, else nobody knows and the proxy looks.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Tcp,
    Mongo,
    Redis,
    Mysql,
    Udp,
    /// Not said: detected from the first bytes.
    Auto,
}

/// What a listener does with a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    Http,
    Tcp,
    Auto,
    /// The mesh leaves it alone.
    None,
}

/// Ports of protocols whose server speaks first: looking at them would stall both sides (SMTP, DNS, MySQL, MongoDB).
pub const SERVER_FIRST_PORTS: [u32; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// Reads Istio's spelling in any case; anything else is unknown.
    pub fn parse(text: &str) -> Protocol {
        match text.to_ascii_lowercase().as_str() {
            "http" | "http_proxy" => Protocol::Http,
            "http2" => Protocol::Http2,
            "grpc" => Protocol::Grpc,
            "grpc-web" => Protocol::GrpcWeb,
            "https" => Protocol::Https,
            "tls" => Protocol::Tls,
            "tcp" => Protocol::Tcp,
            "mongo" => Protocol::Mongo,
            "redis" => Protocol::Redis,
            "mysql" => Protocol::Mysql,
            "udp" => Protocol::Udp,
            _ => Protocol::Auto,
        }
    }

    /// Of a port of a Kubernetes Service.
    pub fn of_port(
        number: u32,
        name: &str,
        transport: &str,
        app_protocol: Option<&str>,
    ) -> Protocol {
        if transport == "UDP" {
            return Protocol::Udp;
        }
        match app_protocol {
            Some("kubernetes.io/h2c") => return Protocol::Http2,
            Some("kubernetes.io/ws") => return Protocol::Http,
            Some("kubernetes.io/wss") => return Protocol::Https,
            Some(text) if Protocol::parse(text) != Protocol::Auto => return Protocol::parse(text),
            _ => {}
        }
        let lower = name.to_ascii_lowercase();
        let prefix = if lower == "grpc-web" || lower.starts_with("grpc-web-") {
            "grpc-web"
        } else {
            lower.split('-').next().unwrap_or("")
        };
        match Protocol::parse(prefix) {
            Protocol::Auto if SERVER_FIRST_PORTS.contains(&number) => Protocol::Tcp,
            protocol => protocol,
        }
    }

    pub fn treatment(self) -> Treatment {
        match self {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => {
                Treatment::Http
            }
            Protocol::Https | Protocol::Tls | Protocol::Tcp => Treatment::Tcp,
            Protocol::Mongo | Protocol::Redis | Protocol::Mysql => Treatment::Tcp,
            Protocol::Auto => Treatment::Auto,
            Protocol::Udp => Treatment::None,
        }
    }

    pub fn is_http_or_detected(self) -> bool {
        matches!(self.treatment(), Treatment::Http | Treatment::Auto)
    }

    /// Spoken to the upstream over HTTP/2 from the first byte.
    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb)
    }

    /// Told apart by the name that the client asks for in its handshake.
    pub fn is_tls(self) -> bool {
        matches!(self, Protocol::Https | Protocol::Tls)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Protocol::Http => "HTTP",
            Protocol::Http2 => "HTTP2",
            Protocol::Grpc => "GRPC",
            Protocol::GrpcWeb => "GRPC-Web",
            Protocol::Https => "HTTPS",
            Protocol::Tls => "TLS",
            Protocol::Tcp => "TCP",
            Protocol::Mongo => "Mongo",
            Protocol::Redis => "Redis",
            Protocol::Mysql => "MySQL",
            Protocol::Udp => "UDP",
            Protocol::Auto => "UnsupportedProtocol",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_app_protocols_say_what_a_port_speaks() {
        let of = |name, app| Protocol::of_port(8080, name, "TCP", app);
        assert_eq!(of("http-web", None), Protocol::Http);
        assert_eq!(of("HTTP2", None), Protocol::Http2);
        assert_eq!(of("grpc-web-x", None), Protocol::GrpcWeb);
        assert_eq!(of("grpc-x", None), Protocol::Grpc);
        assert_eq!(of("web", None), Protocol::Auto);
        assert_eq!(of("tcp-x", Some("http")), Protocol::Http);
        assert_eq!(of("x", Some("kubernetes.io/h2c")), Protocol::Http2);
        assert_eq!(of("http", Some("unknown.example/x")), Protocol::Http);
        assert_eq!(Protocol::of_port(3306, "db", "TCP", None), Protocol::Tcp);
        assert_eq!(Protocol::of_port(53, "dns", "UDP", None), Protocol::Udp);
    }
}
