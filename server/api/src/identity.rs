//! Who asks.

use std::collections::BTreeMap;

/// Members pass every authorization, as in Kubernetes: the way in when RBAC itself is broken.
pub const MASTERS: &str = "system:masters";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";
pub const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// An authenticated (or anonymous) user. gRPC services find it in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    pub fn new(
        user: impl Into<String>,
        groups: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Identity {
            user: user.into(),
            uid: String::new(),
            groups,
            extra: BTreeMap::new(),
        }
    }

    pub fn anonymous() -> Self {
        Identity {
            user: ANONYMOUS.to_owned(),
            uid: String::new(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
        }
    }

    /// The server itself, for what it writes at bootstrap.
    pub fn server() -> Self {
        Identity::new("system:apiserver", [MASTERS])
    }

    pub fn is_anonymous(&self) -> bool {
        self.groups.iter().any(|group| group == UNAUTHENTICATED)
    }

    pub fn is_master(&self) -> bool {
        self.in_group(MASTERS)
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// The node's name, for a node agent.
    pub fn node(&self) -> Option<&str> {
        if !self.in_group(NODES) {
            return None;
        }
        self.user
            .strip_prefix(NODE_PREFIX)
            .filter(|name| !name.is_empty())
    }

    /// Namespace and name, for a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.user
            .strip_prefix(SERVICE_ACCOUNT_PREFIX)?
            .split_once(':')
    }

    pub fn of_service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let mut identity = Identity::new(
            format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            [
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
        );
        identity.uid = uid.to_owned();
        identity
    }
}
