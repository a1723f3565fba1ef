//! Query parameters.

use std::collections::BTreeMap;

use trireme_model::schema::FieldValidation;
use trireme_model::status::{FieldError, Status};

#[derive(Clone, Debug, Default)]
pub(crate) struct Params(BTreeMap<String, Vec<String>>);

impl Params {
    pub fn parse(query: Option<&str>) -> Params {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
            map.entry(key.into_owned())
                .or_default()
                .push(value.into_owned());
        }
        Params(map)
    }

    /// The first value, or the empty text.
    pub fn text(&self, name: &str) -> &str {
        self.0
            .get(name)
            .and_then(|values| values.first())
            .map_or("", String::as_str)
    }

    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// As Kubernetes reads query booleans: present and neither `false` nor `0` is true.
    pub fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        let value = self.0.get(name)?.first()?;
        Some(!matches!(
            value.to_ascii_lowercase().as_str(),
            "false" | "0"
        ))
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse::<i64>() {
            Ok(number) => Ok(Some(u64::try_from(number).unwrap_or(0))),
            Err(_) => Err(Status::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))),
        }
    }
}

/// How a write is to be carried out.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub validation: FieldValidation,
    /// Server-side apply only.
    pub force: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions {
            dry_run: false,
            field_manager: "unknown".to_owned(),
            validation: FieldValidation::Ignore,
            force: false,
        }
    }
}

/// Longest field manager, as Kubernetes limits it.
const MAX_FIELD_MANAGER_BYTES: usize = 128;

impl WriteOptions {
    /// `kind` is what Kubernetes calls the options (`CreateOptions`, …). `agent` is the client's User-Agent: its
    /// first word names the manager where nothing else does.
    pub fn parse(params: &Params, kind: &str, agent: &str) -> Result<WriteOptions, Status> {
        let validation = FieldValidation::parse(params.text("fieldValidation"))?;
        let manager = params.text("fieldManager");
        if manager.len() > MAX_FIELD_MANAGER_BYTES {
            let error = FieldError::too_long("fieldManager", MAX_FIELD_MANAGER_BYTES);
            return Err(Status::invalid_kind("meta.k8s.io", kind, "", vec![error]));
        }
        Ok(WriteOptions {
            dry_run: dry_run(kind, params.all("dryRun"))?,
            field_manager: if manager.is_empty() {
                manager_of(agent)
            } else {
                manager.to_owned()
            },
            validation,
            force: params.flag("force"),
        })
    }
}

pub(crate) fn dry_run(kind: &str, values: &[String]) -> Result<bool, Status> {
    match values
        .iter()
        .find(|value| !value.is_empty() && *value != "All")
    {
        Some(other) => {
            let error = FieldError::not_supported("dryRun", other.as_str(), &["All"]);
            Err(Status::invalid_kind("meta.k8s.io", kind, "", vec![error]))
        }
        None => Ok(values.iter().any(|value| value == "All")),
    }
}

pub(crate) fn manager_of(agent: &str) -> String {
    let first: String = agent
        .split('/')
        .next()
        .unwrap_or("")
        .chars()
        .filter(|character| !character.is_control())
        .take(MAX_FIELD_MANAGER_BYTES)
        .collect();
    if first.is_empty() {
        "unknown".to_owned()
    } else {
        first
    }
}
