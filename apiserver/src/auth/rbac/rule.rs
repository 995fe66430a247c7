//! What one rule allows, and whether rules cover a rule: all pure.
//! Source: kubernetes/kubernetes pkg/apis/rbac/v1/evaluation_helpers.go,
//! staging/src/k8s.io/component-helpers/auth/rbac/validation/policy_comparator.go.

use std::fmt::Write as _;

use api::rbac::PolicyRule;

use crate::auth::Attributes;

const ALL: &str = "*";

/// Whether a rule allows a request.
#[must_use]
pub fn allows(rule: &PolicyRule, attributes: &Attributes<'_>) -> bool {
    if !has(&rule.verbs, attributes.verb) {
        return false;
    }
    if attributes.resource.is_empty() {
        return rule
            .non_resource_urls
            .iter()
            .any(|url| path_matches(url, attributes.path));
    }
    has(&rule.api_groups, attributes.group)
        && has_resource(&rule.resources, attributes.resource, attributes.subresource)
        && (rule.resource_names.is_empty()
            || attributes
                .name
                .is_some_and(|name| rule.resource_names.iter().any(|known| **known == *name)))
}

/// Whether a list has the value or the asterisk.
fn has(list: &[Box<str>], wanted: &str) -> bool {
    list.iter().any(|item| **item == *wanted || **item == *ALL)
}

fn has_all(list: &[Box<str>], wanted: &[Box<str>]) -> bool {
    has(list, ALL) || wanted.iter().all(|wanted| list.contains(wanted))
}

/// `pods`, `pods/log`, `*/scale`, or `*`, which subresources too are part of.
fn has_resource(list: &[Box<str>], resource: &str, subresource: &str) -> bool {
    list.iter().any(|item| {
        let item: &str = item;
        if item == ALL {
            return true;
        }
        match item.split_once('/') {
            None => subresource.is_empty() && item == resource,
            Some((of, sub)) => {
                !subresource.is_empty() && sub == subresource && (of == ALL || of == resource)
            }
        }
    })
}

/// A path, or with an asterisk at its end everything that begins so.
fn path_matches(url: &str, path: &str) -> bool {
    match url.strip_suffix('*') {
        Some(_) => path.starts_with(url.trim_end_matches('*')),
        None => url == path,
    }
}

/// What of `wanted` the rules in `held` do not allow, as rules of one verb on one thing each.
#[must_use]
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(breakdown);
    parts
        .filter(|part| !held.iter().any(|rule| covers(rule, part)))
        .collect()
}

/// The rule as rules that speak of one verb and one group, resource and name (or one path) each.
fn breakdown(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    let one = |value: &str| vec![Box::from(value)];
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            parts.push(PolicyRule {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..PolicyRule::default()
            });
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let part = PolicyRule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..PolicyRule::default()
                };
                for name in &rule.resource_names {
                    parts.push(PolicyRule {
                        resource_names: one(name),
                        ..part.clone()
                    });
                }
                if rule.resource_names.is_empty() {
                    parts.push(part);
                }
            }
        }
    }
    parts
}

fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    if !has_all(&held.verbs, &part.verbs) {
        return false;
    }
    if !part.non_resource_urls.is_empty() {
        return part.non_resource_urls.iter().all(|wanted| {
            let mut urls = held.non_resource_urls.iter();
            urls.any(|url| url == wanted || path_matches(url, wanted))
        });
    }
    let names = match (
        held.resource_names.is_empty(),
        part.resource_names.is_empty(),
    ) {
        (true, _) => true,
        (false, true) => false,
        (false, false) => part
            .resource_names
            .iter()
            .all(|name| held.resource_names.contains(name)),
    };
    names
        && has_all(&held.api_groups, &part.api_groups)
        && part.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            held.resources.contains(wanted) || has_resource(&held.resources, resource, subresource)
        })
}

/// The rule on one line, as upstream's messages have it.
#[must_use]
pub fn compact(rule: &PolicyRule) -> String {
    let lists = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let mut text = String::from("{");
    for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
        if text.len() > 1 {
            text.push_str(", ");
        }
        let values: Vec<String> = list.iter().map(|value| format!("{value:?}")).collect();
        write!(text, "{name}:[{}]", values.join(" ")).expect("writing to a string cannot fail");
    }
    text.push('}');
    text
}

/// Rules that differ in their verbs only, made one each: what people read.
#[must_use]
pub fn compacted(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut result: Vec<PolicyRule> = Vec::new();
    for mut rule in rules {
        let verbs = std::mem::take(&mut rule.verbs);
        let same = result.iter_mut().find(|known| {
            known.api_groups == rule.api_groups
                && known.resources == rule.resources
                && known.resource_names == rule.resource_names
                && known.non_resource_urls == rule.non_resource_urls
        });
        match same {
            Some(known) => {
                for verb in verbs {
                    if !known.verbs.contains(&verb) {
                        known.verbs.push(verb);
                    }
                }
            }
            None => result.push(PolicyRule { verbs, ..rule }),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Box<str>> {
        let words = text.split_whitespace();
        // The core group is written as a dash.
        words
            .map(|word| Box::from(if word == "-" { "" } else { word }))
            .collect()
    }

    /// `verbs | groups | resources | names`, or `verbs | paths`.
    fn rule(text: &str) -> PolicyRule {
        let parts: Vec<&str> = text.split('|').collect();
        match parts.as_slice() {
            [verbs, urls] => PolicyRule {
                verbs: list(verbs),
                non_resource_urls: list(urls),
                ..PolicyRule::default()
            },
            [verbs, groups, resources, names] => PolicyRule {
                verbs: list(verbs),
                api_groups: list(groups),
                resources: list(resources),
                resource_names: list(names),
                ..PolicyRule::default()
            },
            _ => panic!("{text}"),
        }
    }

    #[test]
    fn u7_rules_allow_what_they_name_and_nothing_else() {
        /// Rule, request as verb, group, resource/subresource, name; allowed.
        type Case = (
            &'static str,
            (&'static str, &'static str, &'static str, &'static str),
            bool,
        );
        let cases: &[Case] = &[
            ("get list|-|pods|", ("get", "", "pods", "a"), true),
            ("get list|-|pods|", ("list", "", "pods", ""), true),
            ("get list|-|pods|", ("watch", "", "pods", ""), false),
            ("get|-|pods|", ("get", "apps", "pods", "a"), false),
            ("get|-|pods|", ("get", "", "pods/log", "a"), false),
            ("get|-|pods/log|", ("get", "", "pods/log", "a"), true),
            ("get|-|pods/log|", ("get", "", "pods", "a"), false),
            ("get|-|*|", ("get", "", "pods/log", "a"), true),
            (
                "update|apps|*/scale|",
                ("update", "apps", "deployments/scale", "a"),
                true,
            ),
            (
                "update|apps|*/scale|",
                ("update", "apps", "deployments/status", "a"),
                false,
            ),
            (
                "update|apps|*/scale|",
                ("update", "apps", "deployments", "a"),
                false,
            ),
            ("*|*|*|", ("frob", "x.y", "things/sub", "a"), true),
            (
                "get|-|configmaps|one two",
                ("get", "", "configmaps", "two"),
                true,
            ),
            (
                "get|-|configmaps|one two",
                ("get", "", "configmaps", "three"),
                false,
            ),
            // Who may see named objects only may not list: a list names none.
            (
                "list|-|configmaps|one",
                ("list", "", "configmaps", ""),
                false,
            ),
            ("get|/healthz", ("get", "", "pods", "a"), false),
        ];
        for (text, (verb, group, resource, name), wanted) in cases {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let attributes = Attributes {
                verb,
                group,
                resource,
                subresource,
                name: Some(*name).filter(|name| !name.is_empty()),
                ..Attributes::default()
            };
            assert_eq!(
                allows(&rule(text), &attributes),
                *wanted,
                "{text}: {attributes:?}"
            );
        }
    }

    #[test]
    fn u7_paths_match_whole_or_by_a_trailing_asterisk() {
        for (text, verb, path, wanted) in [
            ("get|/metrics", "get", "/metrics", true),
            ("get|/metrics", "get", "/metrics/a", false),
            ("get|/metrics", "post", "/metrics", false),
            ("get|/healthz/*", "get", "/healthz/ping", true),
            ("get|/healthz/*", "get", "/healthz", false),
            ("*|*", "put", "/anything", true),
            ("get|/a*b", "get", "/a*b", true),
            ("get|/a*b", "get", "/axb", false),
            ("*|*|*|", "get", "/metrics", false),
        ] {
            let attributes = Attributes {
                verb,
                path,
                ..Attributes::default()
            };
            assert_eq!(
                allows(&rule(text), &attributes),
                wanted,
                "{text}: {verb} {path}"
            );
        }
    }

    #[test]
    fn what_is_not_held_is_found_part_by_part() {
        let cases: &[(&[&str], &str, &str)] = &[
            (&["*|*|*|"], "get list|- apps|pods deployments|", ""),
            (&["get|-|pods|"], "get|-|pods|a b", ""),
            (
                &["get|-|pods|a"],
                "get|-|pods|",
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#,
            ),
            (
                &["get|-|pods|", "list|-|pods|"],
                "get list watch delete|-|pods|",
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}"#,
            ),
            (&["get|apps|*/scale|"], "get|apps|deployments/scale|", ""),
            // The asterisk is more than all one knows.
            (
                &["get|-|pods secrets|"],
                "get|-|*|",
                r#"{APIGroups:[""], Resources:["*"], Verbs:["get"]}"#,
            ),
            (&["get|/api/*"], "get|/api/v1 /api/*", ""),
            (
                &["get|/api/*"],
                "get|/apis/*",
                r#"{NonResourceURLs:["/apis/*"], Verbs:["get"]}"#,
            ),
            (
                &["*|*|*|"],
                "get|/x",
                r#"{NonResourceURLs:["/x"], Verbs:["get"]}"#,
            ),
        ];
        for (held, wanted, missing) in cases {
            let held: Vec<PolicyRule> = held.iter().map(|text| rule(text)).collect();
            let found = compacted(uncovered(&held, &[rule(wanted)]));
            let found: Vec<String> = found.iter().map(compact).collect();
            assert_eq!(found.join("\n"), *missing, "{wanted}");
        }
    }
}
