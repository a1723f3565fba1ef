//! Why a resource is refused: the field, the reason, the object.

use std::fmt;

use trireme_proxy_decide::config::ConfigError;

use crate::pb::envoy::config::core::v3::Metadata;
use crate::{Kind, UnpackError, metadata};

/// A resource that cannot be applied. Its text is the NACK's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// None where the resource is of a type that is not known.
    pub kind: Option<Kind>,
    pub resource: String,
    /// Path of the field in Envoy's message; empty for the whole.
    pub field: String,
    pub reason: String,
    /// The Kubernetes object that caused that part of the resource, as its metadata names it.
    pub object: Option<String>,
}

impl ParseError {
    pub(super) fn new(kind: Kind, resource: &str, refusal: Refusal) -> ParseError {
        ParseError {
            kind: Some(kind),
            resource: resource.to_owned(),
            field: refusal.field(),
            reason: refusal.reason,
            object: refusal.object,
        }
    }

    pub(super) fn malformed(kind: Kind, error: UnpackError) -> ParseError {
        ParseError {
            kind: Some(kind),
            resource: String::new(),
            field: String::new(),
            reason: error.to_string(),
            object: None,
        }
    }

    pub(super) fn unknown_type(url: &str) -> ParseError {
        ParseError {
            kind: None,
            resource: String::new(),
            field: String::new(),
            reason: format!("resources of type {url:?} are not known"),
            object: None,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{kind} {:?}: ", self.resource)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        if let Some(object) = &self.object {
            write!(f, " (caused by {object})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ParseError {}

/// A refusal on its way up from the field where it arose.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The field's path, innermost first.
    path: Vec<String>,
    reason: String,
    object: Option<String>,
}

pub(super) type Outcome<T> = Result<T, Refusal>;

impl Refusal {
    fn field(&self) -> String {
        let mut field = String::new();
        for part in self.path.iter().rev() {
            if !field.is_empty() && !part.starts_with('[') {
                field.push('.');
            }
            field.push_str(part);
        }
        field
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Refusal {
        reason(error.to_string())
    }
}

impl From<UnpackError> for Refusal {
    fn from(error: UnpackError) -> Refusal {
        reason(error.to_string())
    }
}

/// A refusal of the value at hand.
pub(super) fn reason(reason: impl Into<String>) -> Refusal {
    Refusal {
        path: Vec::new(),
        reason: reason.into(),
        object: None,
    }
}

/// A refusal of a field of the message at hand.
pub(super) fn refused(field: &str, why: impl Into<String>) -> Refusal {
    Refusal {
        path: vec![field.to_owned()],
        reason: why.into(),
        object: None,
    }
}

/// Refuses a field that is set and that we do not honour.
pub(super) fn unsupported(set: bool, field: &str) -> Outcome<()> {
    if set {
        return Err(refused(field, "is not supported by this proxy"));
    }
    Ok(())
}

/// Where a refusal arose, added on its way up.
pub(super) trait At<T> {
    fn at(self, field: &str) -> Outcome<T>;
    /// In the element of this index (and name, where it has one) of a list.
    fn at_element(self, field: &str, index: usize, name: &str) -> Outcome<T>;
    /// The innermost object that is named wins.
    fn caused_by(self, metadata: Option<&Metadata>) -> Outcome<T>;
}

impl<T, E: Into<Refusal>> At<T> for Result<T, E> {
    fn at(self, field: &str) -> Outcome<T> {
        self.map_err(|error| {
            let mut refusal = error.into();
            refusal.path.push(field.to_owned());
            refusal
        })
    }

    fn at_element(self, field: &str, index: usize, name: &str) -> Outcome<T> {
        self.map_err(|error| {
            let mut refusal = error.into();
            refusal.path.push(if name.is_empty() {
                format!("{field}[{index}]")
            } else {
                format!("{field}[{name}]")
            });
            refusal
        })
    }

    fn caused_by(self, metadata: Option<&Metadata>) -> Outcome<T> {
        self.map_err(|error| {
            let mut refusal = error.into();
            if refusal.object.is_none() {
                refusal.object = metadata::object(metadata).map(str::to_owned);
            }
            refusal
        })
    }
}

/// Reads each element of a list.
pub(super) fn each<M, T>(
    field: &str,
    list: &[M],
    mut read: impl FnMut(&M) -> Outcome<T>,
) -> Outcome<Vec<T>> {
    let mut out = Vec::with_capacity(list.len());
    for (index, element) in list.iter().enumerate() {
        out.push(read(element).at_element(field, index, "")?);
    }
    Ok(out)
}
