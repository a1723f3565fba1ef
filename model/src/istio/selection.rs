//! Small messages that several kinds share: where a request goes, which workloads are meant, shares of requests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

message! {
    pub struct Destination {
        pub host: String,
        pub subset: String,
        pub port: Option<PortSelector>,
    }

    pub struct PortSelector {
        pub number: u32,
    }

    /// A percentage from 0 to 100.
    pub struct Percent {
        pub value: f64,
    }

    /// Of Sidecar, ServiceEntry and EnvoyFilter.
    pub struct WorkloadSelector {
        pub labels: BTreeMap<String, String>,
    }

    /// Of DestinationRule, which takes the newer form.
    pub struct MatchLabelsSelector {
        pub match_labels: BTreeMap<String, String>,
    }
}

/// How a text is matched. `Present` is an empty match: any value will do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "StringMatchFields", into = "StringMatchFields")]
pub enum StringMatch {
    #[default]
    Present,
    Exact(String),
    Prefix(String),
    /// RE2, of the whole text.
    Regex(String),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StringMatchFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
}

impl From<StringMatchFields> for StringMatch {
    fn from(fields: StringMatchFields) -> StringMatch {
        // Validation admits one of them at most.
        match (fields.exact, fields.prefix, fields.regex) {
            (Some(exact), _, _) => StringMatch::Exact(exact),
            (_, Some(prefix), _) => StringMatch::Prefix(prefix),
            (_, _, Some(regex)) => StringMatch::Regex(regex),
            (None, None, None) => StringMatch::Present,
        }
    }
}

impl From<StringMatch> for StringMatchFields {
    fn from(value: StringMatch) -> StringMatchFields {
        let mut fields = StringMatchFields::default();
        match value {
            StringMatch::Present => {}
            StringMatch::Exact(text) => fields.exact = Some(text),
            StringMatch::Prefix(text) => fields.prefix = Some(text),
            StringMatch::Regex(text) => fields.regex = Some(text),
        }
        fields
    }
}
