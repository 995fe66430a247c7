//! How many connections are open at once: those that lead to nodes (logs, exec, attach, port-forward, proxy) and those that
//! were upgraded. They last as long as both ends want and take no place in a lane, but a node's tunnel carries only so many,
//! and each costs memory and a descriptor: nobody gets so many that others get none.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::registry::ApiError;

/// The connections of one server.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    per_user: usize,
    per_node: usize,
    open: Arc<Mutex<Open>>,
}

/// How many are open, by user and by node; who has none is not in it.
#[derive(Debug, Default)]
struct Open {
    users: HashMap<Arc<str>, usize>,
    nodes: HashMap<Arc<str>, usize>,
}

/// An open connection, which ends when the last clone is dropped.
pub(crate) type Place = Arc<Counted>;

/// What is given back.
#[derive(Debug)]
pub(crate) struct Counted {
    connections: Connections,
    user: Arc<str>,
    node: Option<Arc<str>>,
}

impl Connections {
    pub(super) fn new(per_user: usize, per_node: usize) -> Self {
        Self {
            per_user,
            per_node,
            open: Arc::default(),
        }
    }

    /// Opens one for a user, to a node if it leads there.
    ///
    /// # Errors
    /// [`ApiError::TooManyConnections`].
    pub(crate) fn open(&self, user: &str, node: Option<&str>) -> Result<Place, ApiError> {
        let mut open = self.lock();
        let count = |counts: &HashMap<Arc<str>, usize>, name: &str| {
            counts.get(name).copied().unwrap_or_default()
        };
        if count(&open.users, user) >= self.per_user {
            return Err(ApiError::TooManyConnections(format!(
                "user \"{user}\" has {} connections open (logs, exec, attach, port-forward, proxy, WebSockets), which is the limit: end some of them, or try again later",
                self.per_user
            )));
        }
        if let Some(node) = node
            && count(&open.nodes, node) >= self.per_node
        {
            return Err(ApiError::TooManyConnections(format!(
                "node \"{node}\" has {} connections open (logs, exec, attach, port-forward, proxy), which is the limit: try again later",
                self.per_node
            )));
        }
        let (user, node) = (Arc::from(user), node.map(Arc::from));
        *open.users.entry(Arc::clone(&user)).or_default() += 1;
        if let Some(node) = &node {
            *open.nodes.entry(Arc::clone(node)).or_default() += 1;
        }
        drop(open);
        Ok(Arc::new(Counted {
            connections: self.clone(),
            user,
            node,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        give_back(&mut open.users, &self.user);
        if let Some(node) = &self.node {
            give_back(&mut open.nodes, node);
        }
    }
}

fn give_back(counts: &mut HashMap<Arc<str>, usize>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q2_users_and_nodes_have_limits_and_what_ends_leaves_nothing() {
        let connections = Connections::new(2, 3);
        let open = |user: &'static str, node: Option<&'static str>| connections.open(user, node);
        let refused = |user, node| open(user, node).unwrap_err().to_string();
        let first = open("a", Some("n")).unwrap();
        let second = open("a", None).unwrap();
        assert!(refused("a", Some("m")).contains("user \"a\" has 2 connections open"));
        assert!(refused("a", None).contains("user \"a\" "));
        let others = [open("b", Some("n")).unwrap(), open("b", Some("n")).unwrap()];
        assert!(refused("c", Some("n")).contains("node \"n\" has 3 connections open"));
        let elsewhere = open("c", Some("m")).unwrap();
        // Two halves of one connection: it ends with the later one.
        let half = Arc::clone(&first);
        drop(first);
        assert!(open("c", Some("n")).is_err());
        drop(half);
        drop(open("c", Some("n")).unwrap());
        drop((second, others, elsewhere));
        let open = connections.lock();
        assert!(open.users.is_empty() && open.nodes.is_empty(), "{open:?}");
    }
}
