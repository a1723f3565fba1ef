//! Scopes that were built, and whether one that was built anew sees other services than the one before.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::scope::{Scope, ScopeKey};
use crate::service::Service;

/// Tells apart what a scope's services were at different times: equal as long as they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sight(u64);

/// What each kind of workload saw last. A route may lead to a service that was not seen before, and then everything is
/// made anew; most changes of routes lead nowhere new, and only routes are.
#[derive(Debug, Default)]
pub(crate) struct Sights {
    last: BTreeMap<ScopeKey, (Sight, Arc<BTreeMap<String, Arc<Service>>>)>,
    newest: Sight,
}

impl Sights {
    /// Gives a scope that was built anew its sight.
    fn place(&mut self, scope: &mut Scope) {
        if let Some((sight, services)) = self.last.get(&scope.key) {
            let mut pairs = services.iter().zip(scope.services.iter());
            if services.len() == scope.services.len()
                && pairs.all(|(old, new)| old.0 == new.0 && Arc::ptr_eq(old.1, new.1))
            {
                scope.sight = *sight;
                scope.services = services.clone();
                return;
            }
        } else if self.last.len() >= SCOPES_KEPT {
            self.last.pop_first();
        }
        self.newest = Sight(self.newest.0 + 1);
        scope.sight = self.newest;
        let placed = (scope.sight, scope.services.clone());
        self.last.insert(scope.key.clone(), placed);
    }
}

/// Scopes that are kept between two changes of objects, and whose sight is remembered: one a namespace, or where some
/// object looks at labels one a Deployment, of as many as a large cluster has.
const SCOPES_KEPT: usize = 1_024;

/// The scopes that were built since the last change of what they are built from.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    built: BTreeMap<ScopeKey, Arc<Scope>>,
    sights: Sights,
}

impl Scopes {
    pub fn get(&self, key: &ScopeKey) -> Option<Arc<Scope>> {
        self.built.get(key).cloned()
    }

    /// Keeps what was built, unless another was faster.
    pub fn keep(&mut self, mut scope: Scope) -> Arc<Scope> {
        if let Some(known) = self.get(&scope.key) {
            return known;
        }
        self.sights.place(&mut scope);
        if self.built.len() >= SCOPES_KEPT {
            self.built.pop_first();
        }
        let scope = Arc::new(scope);
        self.built.insert(scope.key.clone(), scope.clone());
        scope
    }

    /// They have to be built anew.
    pub fn forget(&mut self) {
        self.built.clear();
    }
}
