//! Volumes of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{no_upward, relative_path};
use super::environment::{field_reference, resource_reference};
use super::{Errors, items, name, text};
use crate::quantity::Quantity;
use crate::status::FieldError;

/// Fields of a pod that a file of a downward API volume can show.
const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Permission bits: 0777.
const MODE_MAX: i64 = 0o777;

/// Checks all volumes and returns their names.
pub fn volumes(list: &Value, path: &str, errors: &mut Errors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in items(list).iter().enumerate() {
        let path = format!("{path}[{index}]");
        let own = text(volume, "name");
        if own.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            let faults = name::label(own);
            if faults.is_empty() && !names.insert(own.to_owned()) {
                errors.push(FieldError::duplicate(format!("{path}.name"), own));
            }
            for fault in faults {
                errors.push(FieldError::invalid(format!("{path}.name"), own, fault));
            }
        }
        source(volume, &path, errors);
    }
    names
}

fn source(volume: &Value, path: &str, errors: &mut Errors) {
    let kinds: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .filter(|key| *key != "name")
        .collect();
    let Some(kind) = kinds.first() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    for extra in kinds.iter().skip(1) {
        errors.push(FieldError::forbidden(
            format!("{path}.{extra}"),
            "may not specify more than 1 volume type",
        ));
    }
    let path = format!("{path}.{kind}");
    let source = &volume[kind.as_str()];
    match kind.as_str() {
        "emptyDir" => {
            let limit = source["sizeLimit"]
                .as_str()
                .and_then(|text| Quantity::parse(text).ok());
            if limit.is_some_and(|limit| limit.is_negative()) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), detail));
            }
        }
        "hostPath" => host_path(source, &path, errors),
        "secret" => {
            required(source, &path, "secretName", errors);
            mode(source, &path, "defaultMode", errors);
            key_paths(&source["items"], &format!("{path}.items"), errors);
        }
        "configMap" => {
            required(source, &path, "name", errors);
            mode(source, &path, "defaultMode", errors);
            key_paths(&source["items"], &format!("{path}.items"), errors);
        }
        "downwardAPI" => {
            mode(source, &path, "defaultMode", errors);
            downward(source, &path, errors);
        }
        "projected" => {
            mode(source, &path, "defaultMode", errors);
            projected(source, &path, errors);
        }
        "persistentVolumeClaim" => required(source, &path, "claimName", errors),
        "nfs" => {
            required(source, &path, "server", errors);
            required(source, &path, "path", errors);
        }
        "csi" => required(source, &path, "driver", errors),
        _ => {}
    }
}

fn required(value: &Value, path: &str, field: &str, errors: &mut Errors) {
    if text(value, field).is_empty() {
        errors.push(FieldError::required(format!("{path}.{field}"), ""));
    }
}

fn mode(value: &Value, path: &str, field: &str, errors: &mut Errors) {
    if let Some(mode) = value[field].as_i64()
        && !(0..=MODE_MAX).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(format!("{path}.{field}"), mode, detail));
    }
}

fn host_path(source: &Value, path: &str, errors: &mut Errors) {
    let given = text(source, "path");
    if given.is_empty() {
        errors.push(FieldError::required(format!("{path}.path"), ""));
    } else {
        no_upward(given, &format!("{path}.path"), errors);
    }
    let allowed = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let kind = text(source, "type");
    if !allowed.contains(&kind) {
        errors.push(FieldError::not_supported(
            format!("{path}.type"),
            kind,
            &allowed,
        ));
    }
}

fn key_paths(list: &Value, path: &str, errors: &mut Errors) {
    for (index, item) in items(list).iter().enumerate() {
        let path = format!("{path}[{index}]");
        required(item, &path, "key", errors);
        file_path(item, &path, errors);
        mode(item, &path, "mode", errors);
    }
}

/// A file inside a volume: a relative path, never upward.
fn file_path(item: &Value, path: &str, errors: &mut Errors) {
    required(item, path, "path", errors);
    let given = text(item, "path");
    let path = format!("{path}.path");
    relative_path(given, &path, errors);
    if given.starts_with("..") && !given.starts_with("../") && given != ".." {
        errors.push(FieldError::invalid(path, given, "must not start with '..'"));
    }
}

fn downward(source: &Value, path: &str, errors: &mut Errors) {
    for (index, item) in items(&source["items"]).iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        file_path(item, &path, errors);
        mode(item, &path, "mode", errors);
        match (
            item["fieldRef"].is_null(),
            item["resourceFieldRef"].is_null(),
        ) {
            (false, true) => field_reference(
                &item["fieldRef"],
                &format!("{path}.fieldRef"),
                &FILE_FIELDS,
                errors,
            ),
            (true, false) => {
                resource_reference(
                    &item["resourceFieldRef"],
                    &format!("{path}.resourceFieldRef"),
                    true,
                    errors,
                );
            }
            (false, false) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
            (true, true) => {
                errors.push(FieldError::required(
                    path,
                    "one of fieldRef and resourceFieldRef is required",
                ));
            }
        }
    }
}

fn projected(source: &Value, path: &str, errors: &mut Errors) {
    /// Ten minutes, as for any token.
    const TOKEN_MIN_SECONDS: i64 = 600;
    let mut files: BTreeSet<String> = BTreeSet::new();
    for (index, projection) in items(&source["sources"]).iter().enumerate() {
        let path = format!("{path}.sources[{index}]");
        let kinds: Vec<&String> = projection
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key)
            .collect();
        if kinds.len() > 1 {
            let path = format!("{path}.{}", kinds[1]);
            errors.push(FieldError::forbidden(
                path,
                "may not specify more than 1 volume type per source",
            ));
        }
        let Some(kind) = kinds.first() else { continue };
        let details = &projection[kind.as_str()];
        let path = format!("{path}.{kind}");
        let mut paths: Vec<&str> = items(&details["items"])
            .iter()
            .map(|item| text(item, "path"))
            .collect();
        match kind.as_str() {
            "secret" | "configMap" => {
                required(details, &path, "name", errors);
                key_paths(&details["items"], &format!("{path}.items"), errors);
            }
            "downwardAPI" => downward(details, &path, errors),
            "serviceAccountToken" => {
                file_path(details, &path, errors);
                paths.push(text(details, "path"));
                let seconds = details["expirationSeconds"]
                    .as_i64()
                    .unwrap_or(TOKEN_MIN_SECONDS);
                if seconds < TOKEN_MIN_SECONDS {
                    let detail = "may not specify a duration less than 10 minutes";
                    errors.push(FieldError::invalid(
                        format!("{path}.expirationSeconds"),
                        seconds,
                        detail,
                    ));
                }
            }
            _ => {}
        }
        for file in paths {
            if !file.is_empty() && !files.insert(file.to_owned()) {
                errors.push(FieldError::invalid(
                    path.clone(),
                    file,
                    "conflicting duplicate paths",
                ));
            }
        }
    }
}
