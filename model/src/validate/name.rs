//! Names, labels, ports and addresses: what may be written there, in the words of Kubernetes' validation.
//!
//! Each function answers every complaint there is; an empty answer means the text is valid.

use std::sync::OnceLock;

use regex::Regex;

pub const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
pub const LABEL_MAX_BYTES: usize = 63;
pub const SUBDOMAIN_MAX_BYTES: usize = 253;
const SUBDOMAIN_FORMAT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035_FORMAT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE_FORMAT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const CONFIG_KEY_FORMAT: &str = "[-._a-zA-Z0-9]+";
const PERCENT_FORMAT: &str = "[0-9]+%";

/// Compiles the format once, anchored at both ends.
macro_rules! matches_format {
    ($format:expr, $text:expr) => {{
        static PATTERN: OnceLock<Option<Regex>> = OnceLock::new();
        let pattern = PATTERN.get_or_init(|| Regex::new(&format!("^(?:{})$", $format)).ok());
        // `$` alone would accept a trailing newline.
        pattern
            .as_ref()
            .is_some_and(|pattern| pattern.is_match($text))
            && !$text.ends_with('\n')
    }};
}

fn explain(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let quoted: Vec<String> = examples
        .iter()
        .map(|example| format!("'{example}', "))
        .collect();
    format!(
        "{message} (e.g. {}regex used for validation is '{format}')",
        quoted.join(" or ")
    )
}

fn too_long(limit_bytes: usize) -> String {
    format!("must be no more than {limit_bytes} bytes")
}

/// RFC 1123 label: names of namespaces, containers, volumes.
pub fn label(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        faults.push(too_long(LABEL_MAX_BYTES));
    }
    if !matches_format!(LABEL_FORMAT, text) {
        let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                       and must start and end with an alphanumeric character";
        faults.push(explain(message, LABEL_FORMAT, &["my-name", "123-abc"]));
    }
    faults
}

/// RFC 1123 subdomain: names of most objects.
pub fn subdomain(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        faults.push(too_long(SUBDOMAIN_MAX_BYTES));
    }
    if !matches_format!(SUBDOMAIN_FORMAT, text) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                       and must start and end with an alphanumeric character";
        faults.push(explain(message, SUBDOMAIN_FORMAT, &["example.com"]));
    }
    faults
}

/// RFC 1035 label: names of services.
pub fn label_1035(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        faults.push(too_long(LABEL_MAX_BYTES));
    }
    if !matches_format!(LABEL_1035_FORMAT, text) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
                       start with an alphabetic character, and end with an alphanumeric character";
        faults.push(explain(message, LABEL_1035_FORMAT, &["my-name", "abc-123"]));
    }
    faults
}

/// A name that is one segment of a path: RBAC objects.
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|part| text.contains(part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// Keys of labels, annotations, selectors; finalizers; taints.
pub fn qualified(text: &str) -> Vec<String> {
    let message = "must consist of alphanumeric characters, '-', '_' or '.', \
                   and must start and end with an alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let mut faults = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(
                    subdomain(prefix)
                        .into_iter()
                        .map(|fault| format!("prefix part {fault}")),
                );
            }
            *name
        }
        _ => {
            let explained = explain(
                &format!("a qualified name {message}"),
                QUALIFIED_FORMAT,
                &examples,
            );
            return vec![format!(
                "{explained} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX_BYTES {
        faults.push(format!("name part {}", too_long(LABEL_MAX_BYTES)));
    }
    if !matches_format!(QUALIFIED_FORMAT, name) {
        faults.push(explain(
            &format!("name part {message}"),
            QUALIFIED_FORMAT,
            &examples,
        ));
    }
    faults
}

pub fn label_value(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        faults.push(too_long(LABEL_MAX_BYTES));
    }
    if !matches_format!(LABEL_VALUE_FORMAT, text) {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                       and must start and end with an alphanumeric character";
        faults.push(explain(
            message,
            LABEL_VALUE_FORMAT,
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}

/// Keys of ConfigMaps and Secrets.
pub fn config_key(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        faults.push(too_long(SUBDOMAIN_MAX_BYTES));
    }
    if !matches_format!(CONFIG_KEY_FORMAT, text) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        faults.push(explain(
            message,
            CONFIG_KEY_FORMAT,
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if text == "." || text == ".." {
        faults.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        faults.push("must not start with '..'".to_owned());
    }
    faults
}

pub fn environment_name(text: &str) -> Vec<String> {
    if !text.is_empty()
        && text
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
    {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// IANA service name: names of ports.
pub fn port_name(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > 15 {
        faults.push("must be no more than 15 bytes".to_owned());
    }
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        faults.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

pub fn port_number(number: i64) -> Vec<String> {
    if (1..=65_535).contains(&number) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

pub fn address(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// `25%`, as rolling updates take it.
pub fn percent(text: &str) -> Vec<String> {
    if matches_format!(PERCENT_FORMAT, text) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![explain(message, PERCENT_FORMAT, &["1%", "93%"])]
}

pub fn http_header(text: &str) -> Vec<String> {
    if !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![explain(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_examples_and_format() {
        assert_eq!(
            label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn limits_and_edges() {
        assert!(subdomain("a.b-c.1").is_empty());
        for bad in ["", ".", "a..b", "-a", "a-", "A", "a_b", "a\n", "ä"] {
            assert!(!subdomain(bad).is_empty(), "{bad:?}");
        }
        assert!(label_1035("a1").is_empty());
        assert!(!label_1035("1a").is_empty());
        for good in ["a", "example.com/a_b", "A.b"] {
            assert!(qualified(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "Ex/a", "_a", "a b"] {
            assert!(!qualified(bad).is_empty(), "{bad:?}");
        }
        assert!(label_value("").is_empty());
        assert!(!label_value("-").is_empty());
        assert!(!label_value(&"a".repeat(64)).is_empty());
        assert!(environment_name("MY.VAR-x").is_empty());
        assert!(!environment_name("a=b").is_empty());
        assert!(port_name("http-2").is_empty());
        for bad in ["", "80", "a--b", "-a", "a-", "Http", "abcdefghijklmnop"] {
            assert!(!port_name(bad).is_empty(), "{bad:?}");
        }
        assert!(percent("25%").is_empty());
        assert!(!percent("25").is_empty());
        assert!(!config_key("..x").is_empty());
        assert!(config_key(".dockerconfigjson").is_empty());
    }
}
