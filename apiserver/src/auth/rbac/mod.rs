//! Role-based access control: who may do what, by the roles that bindings give.
//!
//! Reading order: [`rule`] (what one rule allows), [`index`] (all roles and bindings, by subject), [`escalation`] (nobody
//! gives what they do not have). All of it is in memory; [`controller::rbac`](crate::controller::rbac) keeps it up to date by
//! watch, so that no request reads the store for it.

pub mod escalation;
pub mod index;
pub mod rule;

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use api::rbac::PolicyRule;

pub use self::index::{Binding, Index, RoleKey};
use super::{Attributes, User};

/// The roles and bindings, shared between who keeps them and who asks.
#[derive(Debug, Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

impl Rbac {
    /// The binding that allows this, in upstream's words.
    #[must_use]
    pub fn allowed_by(&self, user: &User, attributes: &Attributes<'_>) -> Option<String> {
        self.read().allowed_by(user, attributes)
    }

    /// Every rule that holds for a user, everywhere and in a namespace.
    #[must_use]
    pub fn rules(&self, user: &User, namespace: Option<&str>) -> Vec<PolicyRule> {
        self.read().rules(user, namespace)
    }

    /// Changes the index.
    pub fn update(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }
}
