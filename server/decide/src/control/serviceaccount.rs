//! ServiceAccount: every namespace has one named `default`.

use serde_json::json;
use trireme_model::kinds::{self, Kind};

use super::{Controller, staying_namespace};
use crate::intent::{Action, Intent, Plan};
use crate::key::ObjectKey;
use crate::view::{Object, View};

const NAME: &str = "serviceaccount-controller";
const DEFAULT: &str = "default";

pub(crate) struct ServiceAccounts;

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        _view: &View,
        kind: &Kind,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        super::namespace_of_named(kinds::SERVICE_ACCOUNT, DEFAULT, kind, before, after)
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let account = ObjectKey::new(key.name.clone(), DEFAULT);
        if !staying_namespace(view, &key.name)
            || view.get(kinds::SERVICE_ACCOUNT, &account).is_some()
        {
            return plan;
        }
        plan.push(Intent::new(
            NAME,
            "every namespace has a default service account",
            Action::Create {
                kind: kinds::SERVICE_ACCOUNT,
                namespace: key.name.clone(),
                object: json!({
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": DEFAULT, "namespace": key.name},
                }),
            },
        ));
        plan
    }
}
