//! Which object caused a piece of configuration, so that refusals can name it.

use std::fmt;
use std::sync::Arc;

/// The object behind a route, cluster or virtual host, from the metadata
/// `filter_metadata["istio"].fields["config"]`:
/// `/apis/networking.istio.io/v1/namespaces/NS/virtual-service/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(Arc<str>);

impl Origin {
    /// The origin of a metadata path.
    #[must_use]
    pub fn new(path: &str) -> Origin {
        Origin(Arc::from(path))
    }

    /// The path as it was in the metadata.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0
    }

    /// The object's kind in the path's spelling (`virtual-service`), namespace and name.
    #[must_use]
    pub fn parts(&self) -> Option<(&str, &str, &str)> {
        let (_, rest) = self.0.split_once("/namespaces/")?;
        let mut parts = rest.splitn(3, '/');
        let (namespace, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some((kind, namespace, name))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Some((kind, namespace, name)) => write!(out, "{kind} {namespace}/{name}"),
            None => out.write_str(&self.0),
        }
    }
}
