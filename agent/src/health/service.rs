//! What the health-check node port of a Service answers.

use super::{HealthCheck, Moment, proxy::Proxy};
use crate::objects::Key;
use dataplane::model::Family;

/// An answer, before it is HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// 200, or else 503.
    pub(super) is_good: bool,
    /// `X-Load-Balancing-Endpoint-Weight`.
    pub(super) weight: Option<usize>,
    pub(super) body: String,
}

impl HealthCheck {
    /// Good when a ready endpoint is on this node and the rules follow. One that terminates does not count: the balancer
    /// should go elsewhere while it still serves.
    pub(super) fn answer(&self, key: &Key, family: Family, proxy: &Proxy, now: Moment) -> Answer {
        let count = self.local_endpoints.get(&family).copied().unwrap_or(0);
        let healthy = proxy.is_healthy(now);
        let Key { namespace, name } = key;
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
        );
        Answer {
            is_good: count > 0 && healthy,
            weight: Some(count),
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, num::NonZeroU16};

    use super::*;

    #[test]
    fn the_body_is_the_reference_proxys() {
        let now = Moment::now();
        let mut proxy = Proxy::new([Family::V4]);
        proxy.updated(now);
        let check = |count| HealthCheck {
            port: NonZeroU16::new(30_000).expect("a port"),
            local_endpoints: BTreeMap::from([(Family::V4, count)]),
        };
        let key = Key::new("default", "web");
        let answer = check(2).answer(&key, Family::V4, &proxy, now);
        assert_eq!(
            answer.body,
            r#"{
	"service": {
		"namespace": "default",
		"name": "web"
	},
	"localEndpoints": 2,
	"serviceProxyHealthy": true
}"#
        );
        assert_eq!((answer.is_good, answer.weight), (true, Some(2)));
        let none = check(0).answer(&key, Family::V4, &proxy, now);
        assert_eq!((none.is_good, none.weight), (false, Some(0)));
        let other_family = check(2).answer(&key, Family::V6, &proxy, now);
        assert!(!other_family.is_good);
    }

    #[test]
    fn rules_that_do_not_follow_make_every_service_unhealthy() {
        let start = Moment::now();
        let later = Moment {
            elapsed: start.elapsed + std::time::Duration::from_secs(100),
            ..start
        };
        let mut proxy = Proxy::new([Family::V4]);
        proxy.updated(start);
        proxy.queued(start);
        let check = HealthCheck {
            port: NonZeroU16::new(30_000).expect("a port"),
            local_endpoints: BTreeMap::from([(Family::V4, 1)]),
        };
        let answer = check.answer(&Key::new("default", "web"), Family::V4, &proxy, later);
        assert!(!answer.is_good);
        assert!(answer.body.contains("\"serviceProxyHealthy\": false"));
    }
}
