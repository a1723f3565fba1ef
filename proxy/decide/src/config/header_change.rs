//! Additions and removals of headers.

use std::sync::Arc;

use http::HeaderName;

use crate::format::Format;

/// What adding does where the header exists already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    /// Adds another value.
    #[default]
    AppendIfExistsOrAdd,
    /// Leaves it alone where it exists.
    AddIfAbsent,
    /// Replaces every value.
    OverwriteIfExistsOrAdd,
    /// Replaces every value, and adds nothing where it is absent.
    OverwriteIfExists,
}

/// One header to add; the value is a format string with command operators.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderAddition {
    /// The header's name in lower case; `:path`, `:authority` and `host` may be named too.
    pub name: Arc<str>,
    /// The name as an index into a header map; none for pseudo-headers and `host`.
    pub key: Option<HeaderName>,
    /// The value.
    pub value: Format,
    /// What to do where the header exists.
    pub action: AppendAction,
    /// Whether it is added even where the value turns out empty.
    pub keep_empty_value: bool,
}

impl HeaderAddition {
    /// An addition of `name` with `value` in Envoy's format syntax.
    ///
    /// # Errors
    /// [`ConfigError::Format`](super::ConfigError::Format) where the value does not parse.
    pub fn new(
        name: &str,
        value: &str,
        action: AppendAction,
    ) -> Result<HeaderAddition, super::ConfigError> {
        let name = name.to_ascii_lowercase();
        let key = if name.starts_with(':') || name == "host" {
            None
        } else {
            HeaderName::from_bytes(name.as_bytes()).ok()
        };
        let value = Format::parse(value).map_err(|reason| super::ConfigError::Format {
            header: name.clone(),
            format: value.to_owned(),
            reason,
        })?;
        Ok(HeaderAddition {
            name: Arc::from(name),
            key,
            value,
            action,
            keep_empty_value: false,
        })
    }
}

/// Header changes of one level (route, virtual host, route configuration, weighted cluster).
/// Removals come before additions, as in Envoy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderChanges {
    /// Added to requests.
    pub request_add: Vec<HeaderAddition>,
    /// Removed from requests.
    pub request_remove: Vec<HeaderName>,
    /// Added to responses.
    pub response_add: Vec<HeaderAddition>,
    /// Removed from responses.
    pub response_remove: Vec<HeaderName>,
}

impl HeaderChanges {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request_add.is_empty()
            && self.request_remove.is_empty()
            && self.response_add.is_empty()
            && self.response_remove.is_empty()
    }
}
