//! `kube-root-ca.crt`: every namespace has a ConfigMap with the CA that signs the API servers'
//! certificates, for pods to verify them with.

use serde_json::json;
use trireme_model::kinds::{self, Kind};

use super::{Controller, object_value, staying_namespace};
use crate::intent::{Action, Intent, Plan};
use crate::key::ObjectKey;
use crate::view::{Object, ROOT_CA_CONFIG_MAP, View};

const NAME: &str = "root-ca-certificate-publisher";
const CA_KEY: &str = "ca.crt";

pub(crate) struct RootCas {
    pub ca_pem: String,
}

impl Controller for RootCas {
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
        super::namespace_of_named(kinds::CONFIG_MAP, ROOT_CA_CONFIG_MAP, kind, before, after)
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        if !staying_namespace(view, &key.name) {
            return plan;
        }
        let name = ObjectKey::new(key.name.clone(), ROOT_CA_CONFIG_MAP);
        let Some(known) = view.root_cas.get(&name) else {
            plan.push(Intent::new(
                NAME,
                "every namespace has the cluster's CA",
                Action::Create {
                    kind: kinds::CONFIG_MAP,
                    namespace: key.name.clone(),
                    object: json!({
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "metadata": {"name": ROOT_CA_CONFIG_MAP, "namespace": key.name},
                        "data": {CA_KEY: self.ca_pem},
                    }),
                },
            ));
            return plan;
        };
        let data = known.data.as_ref();
        let right =
            data.is_some_and(|data| data.len() == 1 && data.get(CA_KEY) == Some(&self.ca_pem));
        if !right && known.metadata.deletion_timestamp.is_none() {
            let mut updated = k8s_openapi::api::core::v1::ConfigMap::clone(known);
            updated.data = Some([(CA_KEY.to_owned(), self.ca_pem.clone())].into());
            plan.push(Intent::new(
                NAME,
                "it does not hold the cluster's CA",
                Action::Update {
                    kind: kinds::CONFIG_MAP,
                    object: object_value(&updated),
                },
            ));
        }
        plan
    }
}
