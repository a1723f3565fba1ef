//! Create one object.

use rand::Rng;
use serde_json::json;
use trireme_model::kinds::{self, Kind};
use trireme_model::status::{FieldError, Status};
use trireme_model::{Value, apply, defaults, meta, schema, strategy, validate};

use super::change::{Allocation, insert, pause};
use super::{Caller, Outcome};
use crate::admission::{self, service};
use crate::authorize::escalation;
use crate::document::{Document, inward, outward, stored_kind};
use crate::failure;
use crate::params::WriteOptions;
use crate::route::Target;
use crate::store::Freshness;

/// Tries before a create that always met a taken generated name, address or port is refused.
const MAX_ATTEMPTS: u32 = 16;
/// Without vowels and look-alikes, as Kubernetes', so that no words appear.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_BYTES: usize = 5;
/// Longest base of a generated name: with the suffix it stays a DNS label.
const MAX_BASE_BYTES: usize = 63 - SUFFIX_BYTES;

pub(crate) struct CreateRequest {
    /// A collection.
    pub target: Target,
    pub object: Value,
    /// What was wrong with the text that the object came as.
    pub duplicates: Vec<String>,
    pub options: WriteOptions,
}

pub(crate) async fn create(caller: &Caller<'_>, request: CreateRequest) -> Result<Outcome, Status> {
    let CreateRequest {
        target,
        mut object,
        duplicates,
        options,
    } = request;
    caller.authorize("create", &target, None).await?;
    if !object.is_object() {
        return Err(not_an_object(&object));
    }
    check_type(target.kind, &object)?;
    let warnings = schema::check_parsed(target.kind, &mut object, duplicates, options.validation)?;
    inward(target.kind, &mut object);
    let mut outcome = create_checked(caller, target, object, &options, Track::Update).await?;
    outcome.warnings.splice(0..0, warnings);
    Ok(outcome)
}

/// How the new object's fields are accounted to their manager.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Track {
    Update,
    /// Server-side apply has done it already.
    Applied,
}

/// Creates an object in its stored form whose types have been checked.
pub(crate) async fn create_checked(
    caller: &Caller<'_>,
    mut target: Target,
    mut object: Value,
    options: &WriteOptions,
    track: Track,
) -> Result<Outcome, Status> {
    let kind = stored_kind(target.kind);
    if !meta::resource_version(&object).is_empty() {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    place(&target, &mut object)?;
    let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
    let uid = uuid::Uuid::new_v4().to_string();
    let mut fresh = false;
    for attempt in 0..MAX_ATTEMPTS {
        if generated {
            let name = generate_name(meta::generate_name(&object));
            meta::set_name(&mut object, &name);
        }
        target.name = meta::name(&object).to_owned();
        let prepared = prepare(caller, &target, object.clone(), &uid, options, track);
        let (prepared, allocation, warnings) = match prepared {
            Ok(prepared) => prepared,
            Err(status) if fresh => return Err(status),
            Err(_) => {
                // The refusal may rest on state that another server has left behind already.
                caller.api.store.fresh(Freshness::Linearizable).await?;
                fresh = true;
                continue;
            }
        };
        if options.dry_run {
            caller.api.store.fresh(Freshness::Linearizable).await?;
            if caller.api.store.read(&target.key())?.is_some() && !generated {
                return Err(Status::already_exists(target.kind, &target.name));
            }
            let mut prepared = prepared;
            outward(target.kind, &mut prepared);
            return Ok(Outcome {
                warnings,
                created: true,
                ..Outcome::of(Document::Value(prepared))
            });
        }
        if let Some(stored) = insert(caller, &target, &prepared, allocation).await? {
            let document = Document::of(target.kind, stored)?;
            return Ok(Outcome {
                warnings,
                created: true,
                ..Outcome::of(document)
            });
        }
        // What the refused transaction met has been applied here.
        if !generated && caller.api.store.read(&target.key())?.is_some() {
            return Err(Status::already_exists(target.kind, &target.name));
        }
        fresh = true;
        pause(attempt).await;
    }
    if generated {
        return Err(Status::new(
            409,
            "AlreadyExists",
            format!(
                "{} {:?} already exists, the server was not able to generate a unique name for the object",
                kind.group_resource(),
                target.name
            ),
            Some(
                json!({ "name": target.name, "group": kind.group, "kind": kind.plural, "retryAfterSeconds": 1 }),
            ),
        ));
    }
    Err(failure::unavailable(format!(
        "{} {:?} lost every race for its addresses",
        kind.plural, target.name
    )))
}

/// Everything that needs no commit: defaults, admission, validation, allocation.
fn prepare(
    caller: &Caller<'_>,
    target: &Target,
    mut object: Value,
    uid: &str,
    options: &WriteOptions,
    track: Track,
) -> Result<(Value, Allocation, Vec<String>), Status> {
    let kind = stored_kind(target.kind);
    let now = caller.api.now();
    let mut unchanged = Vec::new();
    if let Some(namespace) = &target.namespace {
        // Made in this namespace or not at all, also if it begins to go away meanwhile.
        let revision =
            admission::namespace::open(caller.api, target.kind, namespace, &target.name)?;
        unchanged.push((kinds::NAMESPACE.key("", namespace), revision));
    }
    if let Some(node) = caller.identity.node() {
        crate::authorize::node::check_create(node, kind, &target.name)
            .map_err(|why| Status::forbidden(target.kind, &target.name, &why))?;
    }
    defaults::apply(kind, &mut object);
    strategy::prepare_create(kind, &mut object, uid, now);
    let warnings = admission::create(caller, kind, &mut object)?;
    if track == Track::Update {
        apply::track(kind, None, &mut object, &options.field_manager, "", now);
    }
    let mut allocation = service::allocate(caller.api, kind, None, Some(&mut object))?;
    allocation.unchanged = unchanged;
    let mut errors = validate::create(kind, &object);
    if target.name.is_empty() && errors.iter().all(|error| error.field != "metadata.name") {
        errors.insert(
            0,
            FieldError::required("metadata.name", "name or generateName is required"),
        );
    }
    if !errors.is_empty() {
        return Err(Status::invalid(target.kind, &target.name, errors));
    }
    escalation::check(&caller.api.authorizer, caller.identity, kind, &object)?;
    Ok((object, allocation, warnings))
}

/// Puts the object into the namespace of its path; a body that names another is refused.
pub(crate) fn place(target: &Target, object: &mut Value) -> Result<(), Status> {
    match &target.namespace {
        Some(namespace) => {
            let own = meta::namespace(object);
            if !own.is_empty() && own != namespace {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            let namespace = namespace.clone();
            meta::set_namespace(object, &namespace);
        }
        None if target.kind.namespaced => {
            // The collection of all namespaces.
            return Err(Status::bad_request(
                "an empty namespace may not be set during creation",
            ));
        }
        None => meta::clear_namespace(object),
    }
    Ok(())
}

/// The body is of the kind that the path names; missing names are filled in.
pub(crate) fn check_type(kind: &Kind, object: &Value) -> Result<(), Status> {
    check_type_of(&kind.api_version(), kind.kind, object)
}

pub(crate) fn check_type_of(api_version: &str, kind: &str, object: &Value) -> Result<(), Status> {
    let (own_version, own_kind) = (meta::api_version(object), meta::kind(object));
    if !own_kind.is_empty() && own_kind != kind {
        let version = if own_version.is_empty() {
            api_version
        } else {
            own_version
        };
        return Err(Status::bad_request(format!(
            "{own_kind} in version {version:?} cannot be handled as a {kind}: \
             the kind in the data ({own_kind}) does not match the expected kind ({kind})"
        )));
    }
    if !own_version.is_empty() && own_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({own_version}) does not match the expected API version ({api_version})"
        )));
    }
    Ok(())
}

pub(crate) fn not_an_object(value: &Value) -> Status {
    let shape = match value {
        Value::Null => "nothing",
        Value::Array(_) => "an array",
        Value::String(_) => "a string",
        Value::Number(_) => "a number",
        Value::Bool(_) => "a boolean",
        Value::Object(_) => "an object",
    };
    Status::bad_request(format!(
        "the object provided is unrecognized: it must be an object, but the body holds {shape}"
    ))
}

fn generate_name(base: &str) -> String {
    let mut end = base.len().min(MAX_BASE_BYTES);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut random = rand::rng();
    for _ in 0..SUFFIX_BYTES {
        name.push(char::from(
            SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())],
        ));
    }
    name
}

/// Creates an object of our own making; one that exists already is left as it is.
pub(crate) async fn ensure(
    caller: &Caller<'_>,
    kind: &'static Kind,
    object: Value,
) -> Result<bool, Status> {
    let namespace = meta::namespace(&object).to_owned();
    let mut target = Target::object(kind, &namespace, meta::name(&object));
    if caller.api.store.read(&target.key())?.is_some() {
        return Ok(false);
    }
    target.name.clear();
    let request = CreateRequest {
        target,
        object,
        duplicates: Vec::new(),
        options: WriteOptions {
            field_manager: "trireme".to_owned(),
            ..WriteOptions::default()
        },
    };
    match create(caller, request).await {
        Ok(_) => Ok(true),
        Err(status) if status.reason == "AlreadyExists" => Ok(false),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_stay_labels() {
        let name = generate_name(&"a".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
        assert_eq!(generate_name("web-").len(), 9);
        assert_eq!(generate_name(&"é".repeat(80)).len(), 63);
    }

    #[test]
    fn a_body_of_another_kind_is_refused() {
        let check =
            |object: Value| check_type(kinds::DEPLOYMENT, &object).map_err(|status| status.code);
        assert_eq!(
            check(json!({"apiVersion": "apps/v1", "kind": "Deployment"})),
            Ok(())
        );
        assert_eq!(check(json!({})), Ok(()));
        assert_eq!(
            check(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet"})),
            Err(400)
        );
        assert_eq!(
            check(json!({"apiVersion": "apps/v1beta1", "kind": "Deployment"})),
            Err(400)
        );
    }
}
