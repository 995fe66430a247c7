//! Deletes join tokens whose time is over.

use api::{core::Secret, meta::Time};
use jiff::Timestamp;

use super::{world::World, write::Action};
use crate::registry::kinds::SECRETS;

/// Selects the Secrets that hold the hashes of join tokens.
pub(super) const JOIN_TOKENS: &str = "type=minik.dev/join-token";

/// The writes now, and when to look again.
pub(super) fn plan(world: &World, now: Timestamp) -> (Vec<Action>, Option<Timestamp>) {
    let tokens = world
        .secrets
        .all()
        .filter_map(|secret| Some((secret, expiration(secret)?)));
    let (over, later): (Vec<_>, Vec<_>) = tokens.partition(|(_, at)| *at <= now);
    let actions = over
        .into_iter()
        .map(|(secret, _)| Action::delete(&SECRETS, &**secret))
        .collect();
    (actions, later.into_iter().map(|(_, at)| at).min())
}

fn expiration(secret: &Secret) -> Option<Timestamp> {
    let text = std::str::from_utf8(&secret.data.get("expiration")?.0).ok()?;
    text.parse::<Time>().ok().map(Time::timestamp)
}
