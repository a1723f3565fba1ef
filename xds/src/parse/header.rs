//! Additions and removals of headers.

use trireme_proxy_decide::config::{AppendAction, HeaderAddition, HeaderChanges};

use super::refusal::{At, Outcome, each, refused};
use super::value::header_names;
use crate::pb::envoy::config::core::v3 as core;

pub(super) fn additions(
    field: &str,
    options: &[core::HeaderValueOption],
) -> Outcome<Vec<HeaderAddition>> {
    each(field, options, addition)
}

fn addition(option: &core::HeaderValueOption) -> Outcome<HeaderAddition> {
    use core::header_value_option::HeaderAppendAction;
    let Some(header) = &option.header else {
        return Err(refused("header", "must be given"));
    };
    if header.key.is_empty() {
        return Err(refused("header.key", "must not be empty"));
    }
    let lower = header.key.to_ascii_lowercase();
    let changeable = !lower.starts_with(':') || matches!(lower.as_str(), ":path" | ":authority");
    if !changeable || lower == "host" {
        return Err(refused(
            "header.key",
            format!(
                "{:?}: :-prefixed or host headers may not be modified",
                header.key
            ),
        ));
    }
    let value = if header.raw_value.is_empty() {
        header.value.as_str()
    } else {
        std::str::from_utf8(&header.raw_value)
            .map_err(|_| refused("header.raw_value", "must be UTF-8"))?
    };
    // The old boolean wins over the default of the new action, as in Envoy.
    #[allow(deprecated)]
    let append = option.append.as_ref().map(|append| append.value);
    let action = match (append, HeaderAppendAction::try_from(option.append_action)) {
        (Some(true), _) => AppendAction::AppendIfExistsOrAdd,
        (Some(false), _) => AppendAction::OverwriteIfExistsOrAdd,
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => AppendAction::AppendIfExistsOrAdd,
        (None, Ok(HeaderAppendAction::AddIfAbsent)) => AppendAction::AddIfAbsent,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => {
            AppendAction::OverwriteIfExistsOrAdd
        }
        (None, Ok(HeaderAppendAction::OverwriteIfExists)) => AppendAction::OverwriteIfExists,
        (None, Err(_)) => {
            return Err(refused(
                "append_action",
                format!("{} is not known", option.append_action),
            ));
        }
    };
    let mut addition = HeaderAddition::new(&header.key, value, action).at("header.value")?;
    if addition.key.is_none() && !lower.starts_with(':') {
        return Err(refused(
            "header.key",
            format!("{:?} is no header name", header.key),
        ));
    }
    addition.keep_empty_value = option.keep_empty_value;
    Ok(addition)
}

/// The four lists that every level of a route configuration has.
pub(super) fn changes(
    request_add: &[core::HeaderValueOption],
    request_remove: &[String],
    response_add: &[core::HeaderValueOption],
    response_remove: &[String],
) -> Outcome<HeaderChanges> {
    for name in request_remove {
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            return Err(refused(
                "request_headers_to_remove",
                format!("{name:?}: :-prefixed or host headers may not be removed"),
            ));
        }
    }
    Ok(HeaderChanges {
        request_add: additions("request_headers_to_add", request_add)?,
        request_remove: header_names("request_headers_to_remove", request_remove)?,
        response_add: additions("response_headers_to_add", response_add)?,
        response_remove: header_names("response_headers_to_remove", response_remove)?,
    })
}
