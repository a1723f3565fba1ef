//! Applying additions and removals of headers.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::{AppendAction, HeaderAddition, HeaderChanges};
use crate::format::StreamFacts;
use crate::head::RequestHead;
use crate::rewrite::{set_authority, set_path};

/// Applies one level's changes to a request: removals, then overwritings, then additions. Every
/// value is computed from the headers as they were before the additions.
pub(crate) fn change_request(
    changes: &HeaderChanges,
    head: &mut RequestHead,
    facts: &StreamFacts<'_>,
) {
    for name in &changes.request_remove {
        head.headers.remove(name);
    }
    if changes.request_add.is_empty() {
        return;
    }
    let values: Vec<Option<String>> = {
        let facts = StreamFacts {
            request: Some(head),
            ..*facts
        };
        changes
            .request_add
            .iter()
            .map(|addition| {
                let exists = match &addition.key {
                    Some(key) => head.headers.contains_key(key),
                    None => head.first(&addition.name).is_some(),
                };
                value(addition, exists, &facts)
            })
            .collect()
    };
    for overwriting in [true, false] {
        for (addition, value) in changes.request_add.iter().zip(&values) {
            let Some(value) = value else { continue };
            if overwrites(addition.action) != overwriting {
                continue;
            }
            match &addition.key {
                Some(key) => put(&mut head.headers, key, value, overwriting),
                None => match &*addition.name {
                    ":authority" | "host" => set_authority(head, value),
                    ":path" => set_path(head, value),
                    _ => {}
                },
            }
        }
    }
}

/// Applies one level's changes to a response.
pub(crate) fn change_response(
    changes: &HeaderChanges,
    headers: &mut HeaderMap,
    facts: &StreamFacts<'_>,
) {
    for name in &changes.response_remove {
        headers.remove(name);
    }
    add_to_response(&changes.response_add, headers, facts);
}

/// Adds headers to a response.
pub(crate) fn add_to_response(
    additions: &[HeaderAddition],
    headers: &mut HeaderMap,
    facts: &StreamFacts<'_>,
) {
    if additions.is_empty() {
        return;
    }
    let values: Vec<Option<String>> = {
        let facts = StreamFacts {
            response: Some(headers),
            ..*facts
        };
        additions
            .iter()
            .map(|addition| {
                let exists = addition
                    .key
                    .as_ref()
                    .is_some_and(|key| headers.contains_key(key));
                value(addition, exists, &facts)
            })
            .collect()
    };
    for overwriting in [true, false] {
        for (addition, value) in additions.iter().zip(&values) {
            if let (Some(value), Some(key)) = (value, &addition.key)
                && overwrites(addition.action) == overwriting
            {
                put(headers, key, value, overwriting);
            }
        }
    }
}

fn overwrites(action: AppendAction) -> bool {
    matches!(
        action,
        AppendAction::OverwriteIfExists | AppendAction::OverwriteIfExistsOrAdd
    )
}

/// The value to add; none where nothing is added.
fn value(addition: &HeaderAddition, exists: bool, facts: &StreamFacts<'_>) -> Option<String> {
    let adds = match addition.action {
        AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
        AppendAction::AddIfAbsent => !exists,
        AppendAction::OverwriteIfExists => exists,
    };
    if !adds {
        return None;
    }
    let value = addition.value.render(facts);
    (!value.is_empty() || addition.keep_empty_value).then_some(value)
}

fn put(headers: &mut HeaderMap, key: &HeaderName, value: &str, overwrite: bool) {
    // A value that no header may have is left out rather than sent in part.
    let Ok(value) = HeaderValue::from_str(value) else {
        return;
    };
    if overwrite {
        headers.insert(key.clone(), value);
    } else {
        headers.append(key.clone(), value);
    }
}
