//! Manifests and what becomes of them: the stored object or the refusal, as text a person can read.
//!
//! A file holds cases: `=== title`, then `--- manifest` (YAML to create) or `--- then` (YAML to update it with), each
//! followed by `--- warned` (where the client is warned, a line each) and `--- stored` (the object as it would be
//! stored) or `--- refused` (code, reason, one fault a line).
//! `UPDATE_GOLDEN=1 cargo test -p trireme-model --test golden` writes what is; read the diff.

use trireme_model::schema::FieldValidation;
use trireme_model::status::Status;
use trireme_model::{Value, defaults, kinds, meta, schema, strategy, validate};

/// The object as the API would store it, and the warnings.
fn admit(manifest: &str, old: Option<&Value>) -> Result<(Value, Vec<String>), Status> {
    let now = "2026-01-02T03:04:05Z".parse().expect("a time");
    let (mut object, duplicates) = schema::parse_yaml(manifest.as_bytes())?;
    let (api_version, name) = (
        meta::api_version(&object).to_owned(),
        meta::kind(&object).to_owned(),
    );
    let kind = kinds::find_kind(&api_version, &name).ok_or_else(|| {
        Status::bad_request(format!(
            "no kind {name:?} is registered for version {api_version:?}"
        ))
    })?;
    let mut warnings =
        schema::check_parsed(kind, &mut object, duplicates, FieldValidation::Strict)?;
    // Views of one storage are kept in one form.
    let kind = kind.stored();
    object["apiVersion"] = kind.api_version().into();
    if kind.namespaced && meta::namespace(&object).is_empty() {
        meta::set_namespace(&mut object, "default");
    }
    defaults::apply(kind, &mut object);
    let errors = match old {
        None => {
            strategy::prepare_create(
                kind,
                &mut object,
                "00000000-0000-0000-0000-000000000001",
                now,
            );
            validate::create(kind, &object)
        }
        Some(old) => {
            strategy::prepare_update(kind, &mut object, old);
            validate::update(kind, &object, old)
        }
    };
    warnings.extend(validate::warnings(kind, &object));
    if errors.is_empty() {
        Ok((object, warnings))
    } else {
        Err(Status::invalid(kind, meta::name(&object), errors))
    }
}

fn refusal(status: &Status) -> String {
    let mut text = format!("{} {}\n", status.code, status.reason);
    let causes = status
        .details
        .as_ref()
        .and_then(|details| details["causes"].as_array().cloned());
    match causes {
        Some(causes) => {
            for cause in causes {
                let part = |name: &str| cause[name].as_str().unwrap_or("").to_owned();
                text.push_str(&format!("{}: {}\n", part("field"), part("message")));
            }
        }
        None => text.push_str(&format!("{}\n", status.message)),
    }
    text
}

/// Title, and blocks of (heading, text).
fn cases(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut cases: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("=== ") {
            cases.push((title.to_owned(), Vec::new()));
        } else if let Some(heading) = line.strip_prefix("--- ") {
            cases
                .last_mut()
                .expect("a case before its blocks")
                .1
                .push((heading.to_owned(), String::new()));
        } else if let Some(block) = cases.last_mut().and_then(|case| case.1.last_mut()) {
            block.1.push_str(line);
            block.1.push('\n');
        }
    }
    cases
}

fn run(text: &str) -> String {
    let mut out = String::new();
    for (title, blocks) in cases(text) {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&format!("=== {title}\n"));
        let mut stored: Option<Value> = None;
        for (heading, text) in blocks {
            let text = text.trim_end();
            let result = match heading.as_str() {
                "manifest" => admit(text, None),
                "then" => admit(text, stored.as_ref()),
                _ => continue,
            };
            out.push_str(&format!("--- {heading}\n{text}\n"));
            match result {
                Ok((object, warnings)) => {
                    if !warnings.is_empty() {
                        out.push_str(&format!("--- warned\n{}\n", warnings.join("\n")));
                    }
                    out.push_str("--- stored\n");
                    out.push_str(&serde_yaml_ng::to_string(&object).expect("an object is YAML"));
                    // A stored object filled with defaults and stored again is the same.
                    let kind = kinds::find_kind(meta::api_version(&object), meta::kind(&object))
                        .expect("a kind");
                    let mut again = object.clone();
                    defaults::apply(kind, &mut again);
                    schema::check(kind, &mut again, FieldValidation::Strict)
                        .expect("still well-formed");
                    assert_eq!(again, object, "{title}: defaults are not idempotent");
                    stored = Some(object);
                }
                Err(status) => {
                    out.push_str("--- refused\n");
                    out.push_str(&refusal(&status));
                }
            }
        }
    }
    out
}

#[test]
fn manifests_become_what_the_files_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut files = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the golden folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        files += 1;
        let expected = std::fs::read_to_string(&path).expect("a golden file");
        let actual = run(&expected);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &actual).expect("write the golden file");
        } else if actual != expected {
            let first = actual
                .lines()
                .zip(expected.lines())
                .find(|(actual, expected)| actual != expected);
            wrong.push(format!(
                "{}: first difference (is, should be): {first:?}",
                path.display()
            ));
        }
    }
    assert!(files > 0, "no golden files in {folder}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
