//! TLS of listeners and clusters. Decisions only carry it; the driver makes sessions of it.

use std::sync::Arc;

use super::matcher::StringMatcher;

/// Where a certificate or a set of authorities comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In the configuration itself.
    Inline(Arc<[u8]>),
    /// A file.
    File(Arc<str>),
    /// The secret discovery service, by name (`default`, `ROOTCA`, `kubernetes://NAME`).
    Sds(Arc<str>),
}

/// How a peer's certificate is checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidationContext {
    /// Authorities; none trusts the system's where `system_roots` says so, else anything.
    pub trusted_ca: Option<SecretSource>,
    /// The system's authorities.
    pub system_roots: bool,
    /// Subject alternative names, one of which must match; empty allows any.
    pub subject_alt_names: Vec<StringMatcher>,
    /// Hex SHA-256 of certificates, one of which must match; empty allows any.
    pub certificate_hashes: Vec<Arc<str>>,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq)]
pub struct DownstreamTls {
    /// Certificate chain and key pairs; both from SDS have the same name.
    pub certificates: Vec<(SecretSource, SecretSource)>,
    /// How clients are checked; none does not ask them.
    pub validation: Option<ValidationContext>,
    /// Whether a client without certificate is refused.
    pub require_client_certificate: bool,
    /// Protocols offered, best first.
    pub alpn: Vec<Arc<str>>,
    /// 12 or 13; none is the library's.
    pub min_version: Option<u8>,
    /// 12 or 13; none is the library's.
    pub max_version: Option<u8>,
    /// Cipher suites by OpenSSL's names; empty is the library's.
    pub cipher_suites: Vec<Arc<str>>,
}

/// TLS towards a cluster's endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    /// The name sent (SNI); none sends none.
    pub sni: Option<Arc<str>>,
    /// Whether the SNI is the request's authority instead.
    pub auto_sni: bool,
    /// Whether the certificate must be for the SNI or authority.
    pub auto_san_validation: bool,
    /// The client's certificate chain and key.
    pub certificate: Option<(SecretSource, SecretSource)>,
    /// How the server is checked; none trusts anything.
    pub validation: Option<ValidationContext>,
    /// Protocols offered, best first.
    pub alpn: Vec<Arc<str>>,
    /// 12 or 13; none is the library's.
    pub min_version: Option<u8>,
    /// 12 or 13; none is the library's.
    pub max_version: Option<u8>,
}
