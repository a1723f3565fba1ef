//! The rules that the table of types tells beside shapes: required fields, enumerations, durations, ranges, and fields
//! of which only one may be given.

use serde_json::{Map, Value};

use super::Report;
use crate::istio::Duration;
use crate::kinds::Kind;
use crate::schema::tree::{Container, Field, Rule, Shape, Type, tree};
use crate::status::FieldError;

/// The shortest that Istio takes, and the finest step.
const MILLISECOND_NANOS: u128 = 1_000_000;

pub fn check(kind: &Kind, object: &Value, report: &mut Report) {
    let (Some(root), Some(map)) = (tree().find(&kind.definition()), object.as_object()) else {
        return;
    };
    for field in &root.fields {
        match map.get(field.name) {
            Some(value) if field.name == "spec" => values(field, value, "spec", report),
            None if field.required => report.required(field.name, ""),
            _ => {}
        }
    }
}

fn message(of: &Type, map: &Map<String, Value>, path: &str, report: &mut Report) {
    for field in &of.fields {
        let path = format!("{path}.{}", field.name);
        match map.get(field.name) {
            Some(value) => values(field, value, &path, report),
            None if field.required => report.required(path, ""),
            None => {}
        }
    }
    let mut groups: Vec<&str> = of
        .fields
        .iter()
        .map(|field| field.one_of)
        .filter(|group| !group.is_empty())
        .collect();
    groups.dedup();
    for group in groups {
        let given: Vec<&str> = of
            .fields
            .iter()
            .filter(|field| field.one_of == group && map.contains_key(field.name))
            .map(|field| field.name)
            .collect();
        if given.len() > 1 {
            report.forbidden(path, format!("only one of {} may be set", given.join(", ")));
        }
    }
}

fn values(field: &Field, value: &Value, path: &str, report: &mut Report) {
    match (field.container, value) {
        (Container::List, Value::Array(items)) => {
            if field.required && items.is_empty() {
                report.required(path, "");
            }
            for (index, item) in items.iter().enumerate() {
                one(field, item, &format!("{path}[{index}]"), report);
            }
        }
        (Container::Map, Value::Object(map)) => {
            for (key, item) in map {
                one(field, item, &format!("{path}[{key}]"), report);
            }
        }
        _ => one(field, value, path, report),
    }
}

fn one(field: &Field, value: &Value, path: &str, report: &mut Report) {
    if let (Shape::Struct(index), Value::Object(map)) = (field.shape, value) {
        return message(&tree().types[index], map, path, report);
    }
    if field.required && value.as_str() == Some("") {
        return report.required(path, "");
    }
    match &field.rule {
        Rule::None => {}
        Rule::OneOf(allowed) => {
            let given = value.as_str().unwrap_or_default();
            if !allowed.contains(&given) {
                let error = FieldError::not_supported(path, given, allowed);
                report.errors.push(error);
            }
        }
        Rule::Duration | Rule::DurationOrZero => {
            let text = value.as_str().unwrap_or_default();
            let or_zero = field.rule == Rule::DurationOrZero;
            report.check(path, text, duration(text, or_zero));
        }
        Rule::Unsigned32 => {
            let number = value.as_i64().unwrap_or(-1);
            if u32::try_from(number).is_err() {
                report.invalid(path, value.clone(), "must be from 0 to 4294967295");
            }
        }
    }
}

fn duration(text: &str, or_zero: bool) -> Result<(), String> {
    let duration: Duration = text
        .parse()
        .map_err(|error: crate::istio::DurationError| error.to_string())?;
    let nanos = duration.as_nanos();
    if or_zero && nanos == 0 {
        return Ok(());
    }
    if nanos < MILLISECOND_NANOS {
        return Err("duration must be greater than 1ms".to_owned());
    }
    if !nanos.is_multiple_of(MILLISECOND_NANOS) {
        return Err("only durations to ms precision are supported".to_owned());
    }
    Ok(())
}
