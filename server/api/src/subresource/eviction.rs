//! `pods/eviction`: a deletion that asks first. There are no disruption budgets yet, so that every
//! eviction is granted; its preconditions and grace are those in its delete options.

use serde_json::Value;
use trireme_model::meta;
use trireme_model::status::Status;

use crate::params::Params;
use crate::route::Target;
use crate::verb::Caller;
use crate::verb::create::{check_type_of, place};
use crate::verb::delete::{DeleteOptions, remove};

pub(crate) async fn evict(
    caller: &Caller<'_>,
    target: &Target,
    mut eviction: Value,
    dry_run: bool,
) -> Result<Value, Status> {
    caller.authorize("create", target, None).await?;
    if meta::api_version(&eviction) == "policy/v1beta1" {
        eviction["apiVersion"] = "policy/v1".into();
    }
    check_type_of("policy/v1", "Eviction", &eviction)?;
    place(target, &mut eviction)?;
    let name = meta::name(&eviction);
    if !name.is_empty() && name != target.name {
        return Err(Status::bad_request(format!(
            "name in URL ({}) does not match name in Eviction object ({name})",
            target.name
        )));
    }
    let body = eviction.get("deleteOptions").cloned().unwrap_or_default();
    let mut options = DeleteOptions::parse(&body, &Params::default())?;
    options.dry_run |= dry_run;
    remove(caller, target, &options).await?;
    Ok(super::success())
}
