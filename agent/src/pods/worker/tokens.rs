//! The tokens in a Pod's volumes, and when each is asked for again.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::super::volumes::TokenKey;

/// However long a token lives, a day is as long as one is used.
/// Source: kubernetes/kubernetes pkg/kubelet/token/token_manager.go.
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);

/// A token that was granted, and how long it lives from the moment it was asked for.
pub(super) struct Granted {
    pub(super) token: String,
    pub(super) life: Duration,
}

/// A token, and when the next one is asked for.
struct Held {
    token: String,
    renew_at: Instant,
}

/// The tokens of one Pod.
#[derive(Default)]
pub(super) struct Tokens {
    held: HashMap<TokenKey, Held>,
}

impl Tokens {
    /// Whether none is to be renewed.
    pub(super) fn are_current(&self, now: Instant) -> bool {
        self.held.values().all(|held| held.renew_at > now)
    }

    /// When the first of them is to be renewed.
    pub(super) fn renew_at(&self) -> Option<Instant> {
        self.held.values().map(|held| held.renew_at).min()
    }

    /// The tokens by what they are for.
    pub(super) fn texts(&self) -> HashMap<TokenKey, String> {
        let held = self.held.iter();
        held.map(|(key, held)| (key.clone(), held.token.clone()))
            .collect()
    }

    /// Those that are to be asked for: what is missing, or has lived 80 % of its life. What is not wanted any more is forgotten.
    pub(super) fn due(
        &mut self,
        now: Instant,
        mut wanted: BTreeSet<TokenKey>,
    ) -> BTreeSet<TokenKey> {
        self.held.retain(|key, _| wanted.contains(key));
        wanted.retain(|key| self.held.get(key).is_none_or(|held| held.renew_at <= now));
        wanted
    }

    /// Takes in a token that was asked for at this time. Until then the one before it stays.
    pub(super) fn put(&mut self, key: TokenKey, begun: Instant, granted: Granted) {
        let renew_at = begun + granted.life.mul_f64(0.8).min(LONGEST_USE);
        let token = granted.token;
        self.held.insert(key, Held { token, renew_at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(audience: &str, life_secs: i64) -> TokenKey {
        TokenKey {
            audience: audience.into(),
            life_secs,
        }
    }

    fn put(tokens: &mut Tokens, key: &TokenKey, begun: Instant, token: &str) {
        let life = secs(key.life_secs.unsigned_abs());
        let token = token.to_owned();
        tokens.put(key.clone(), begun, Granted { token, life });
    }

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn u5_a_token_is_asked_for_again_at_80_percent_of_its_life() {
        let (mut tokens, start) = (Tokens::default(), Instant::now());
        let (short, long) = (key("short", 600), key("long", 3600));
        let wanted = BTreeSet::from([short.clone(), long.clone()]);
        assert_eq!(tokens.due(start, wanted.clone()), wanted);
        put(&mut tokens, &short, start, "1");
        put(&mut tokens, &long, start, "2");
        assert_eq!(tokens.renew_at(), Some(start + secs(480)));

        let early = start + secs(479);
        assert!(tokens.are_current(early));
        assert!(tokens.due(early, wanted.clone()).is_empty());

        let due = start + secs(480);
        assert!(!tokens.are_current(due));
        assert_eq!(tokens.due(due, wanted), BTreeSet::from([short.clone()]));
        // No other can be had: this one stays, and stays due.
        assert_eq!(tokens.texts()[&short], "1");
        assert!(!tokens.are_current(due));
        put(&mut tokens, &short, due, "3");
        assert!(tokens.are_current(due));
        assert_eq!(tokens.texts()[&short], "3");
        assert_eq!(tokens.texts()[&long], "2");
        assert_eq!(tokens.renew_at(), Some(start + secs(960)));
    }

    #[test]
    fn u5_no_token_is_used_for_more_than_a_day_and_none_is_kept_that_nobody_wants() {
        let (mut tokens, start) = (Tokens::default(), Instant::now());
        put(&mut tokens, &key("year", 365 * 24 * 3600), start, "1");
        assert_eq!(tokens.renew_at(), Some(start + LONGEST_USE));
        assert!(tokens.due(start, BTreeSet::new()).is_empty());
        assert!(tokens.texts().is_empty() && tokens.renew_at().is_none());
    }
}
