//! Query parameters and DELETE bodies as the registry's options.

use std::time::Duration;

use rand::Rng as _;
use serde_json::Value;

use super::{Call, query::Query};
use crate::{
    registry::{
        ApiError, Bookmarks, Causes, DeleteOptions, Freshness, ListQuery, Propagation, Selection,
        WatchQuery, WatchStart, WriteOptions,
    },
    store::Revision,
};

/// How often a watch tells how far it has come: about every minute, as upstream.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// For agents, which report the revision they have applied: often enough that none of them counts as cut off. Who waits
/// for a revision does not wait for this: see [`Bookmarks::AwaitedOrEvery`].
const NODE_BOOKMARK_INTERVAL: Duration = Duration::from_secs(10);

/// How unknown and duplicate fields are treated (V1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and a header says so.
    Warn,
    /// They are refused.
    Strict,
}

/// Refuses an option by its field.
fn invalid_option(kind: &'static str, refuse: impl FnOnce(&mut Causes)) -> ApiError {
    let mut causes = Causes::default();
    refuse(&mut causes);
    ApiError::Invalid {
        group: "meta.k8s.io",
        kind,
        name: String::new(),
        causes: causes.0,
    }
}

pub(super) fn field_validation(query: &Query) -> Result<FieldValidation, ApiError> {
    match query.get("fieldValidation").unwrap_or_default() {
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Ignore" => Ok(FieldValidation::Ignore),
        "Strict" => Ok(FieldValidation::Strict),
        other => Err(invalid_option("CreateOptions", |causes| {
            causes.not_supported("fieldValidation", other, &["Ignore", "Strict", "Warn"]);
        })),
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, ApiError> {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(invalid_option("CreateOptions", |causes| {
                causes.not_supported("dryRun", value, &["All"]);
            }));
        }
        dry = true;
    }
    Ok(dry)
}

/// The longest name of a manager of fields.
const MANAGER_LIMIT: usize = 128;

pub(super) fn write(call: &Call) -> Result<WriteOptions, ApiError> {
    Ok(WriteOptions {
        dry_run: dry_run(call.query.all("dryRun"))?,
        manager: manager(call)?.into(),
        sees_managed_fields: false,
    })
}

/// How to apply a configuration: who applies it must be said (A2).
pub(super) fn apply(call: &Call) -> Result<WriteOptions, ApiError> {
    if call.query.filled("fieldManager").is_none() {
        return Err(invalid_option("PatchOptions", |causes| {
            causes.required("fieldManager", "is required for apply patch");
        }));
    }
    write(call)
}

/// Who becomes the owner of what is written: `fieldManager`, or else the program's name in the User-Agent.
fn manager(call: &Call) -> Result<String, ApiError> {
    let Some(named) = call.query.filled("fieldManager") else {
        let agent = call.header(http::header::USER_AGENT);
        let program = agent.split('/').next().unwrap_or_default();
        let printable = program.chars().filter(|c| !c.is_control());
        return Ok(printable.take(MANAGER_LIMIT).collect());
    };
    if named.len() > MANAGER_LIMIT {
        return Err(invalid_option("CreateOptions", |causes| {
            causes.too_long("fieldManager", MANAGER_LIMIT);
        }));
    }
    if named.chars().any(char::is_control) {
        return Err(invalid_option("CreateOptions", |causes| {
            let detail = "should only contain printable characters";
            causes.invalid("fieldManager", named, detail);
        }));
    }
    Ok(named.to_owned())
}

/// Both selectors.
pub(super) fn selection(query: &Query) -> Result<Selection, ApiError> {
    let bad = |error: api::selector::SelectorError| ApiError::BadRequest(error.to_string());
    let labels = query.filled("labelSelector").map(str::parse).transpose();
    let fields = query.filled("fieldSelector").map(str::parse).transpose();
    Ok(Selection {
        labels: labels.map_err(bad)?,
        fields: fields.map_err(bad)?,
    })
}

fn revision(query: &Query) -> Result<Option<Revision>, ApiError> {
    let Some(text) = query.filled("resourceVersion") else {
        return Ok(None);
    };
    let number: Result<u64, _> = text.parse();
    number.map(|number| Some(Revision(number))).map_err(|_| {
        invalid_option("ListOptions", |causes| {
            causes.invalid("resourceVersion", text, "must be a whole number");
        })
    })
}

/// How fresh a list or get must be (R3, R4).
pub(super) fn freshness(query: &Query) -> Result<Freshness, ApiError> {
    let revision = revision(query)?;
    let matching = query.get("resourceVersionMatch").unwrap_or_default();
    let refuse = |detail: &str| {
        Err(invalid_option("ListOptions", |causes| {
            causes.forbidden("resourceVersionMatch", detail);
        }))
    };
    let continued = query.filled("continue").is_some();
    if !matching.is_empty() && continued {
        return refuse("resourceVersionMatch is forbidden when continue is provided");
    }
    if continued && revision.is_some_and(|revision| revision.0 != 0) {
        return Err(ApiError::BadRequest(
            "specifying resource version is not allowed when using continue".into(),
        ));
    }
    match (matching, revision) {
        ("", None) => Ok(Freshness::Newest),
        ("" | "NotOlderThan", Some(Revision(0))) => Ok(Freshness::Any),
        ("" | "NotOlderThan", Some(revision)) => Ok(Freshness::AtLeast(revision)),
        ("Exact", Some(Revision(0))) => {
            refuse("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
        }
        ("Exact", Some(revision)) => Ok(Freshness::Exact(revision)),
        ("Exact" | "NotOlderThan", None) => {
            refuse("resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        (other, _) => Err(invalid_option("ListOptions", |causes| {
            let supported = &["Exact", "NotOlderThan"];
            causes.not_supported("resourceVersionMatch", other, supported);
        })),
    }
}

/// A list request.
pub(super) fn list(query: &Query) -> Result<ListQuery, ApiError> {
    if query.filled("sendInitialEvents").is_some() {
        return Err(invalid_option("ListOptions", |causes| {
            let detail = "sendInitialEvents is forbidden for list";
            causes.forbidden("sendInitialEvents", detail);
        }));
    }
    Ok(ListQuery {
        selection: selection(query)?,
        freshness: freshness(query)?,
        limit: query.number("limit")?.unwrap_or(0),
        continue_token: query.filled("continue").map(str::to_owned),
    })
}

/// A watch request.
pub(super) fn watch(call: &Call) -> Result<WatchQuery, ApiError> {
    let query = &call.query;
    let matching = query.get("resourceVersionMatch").unwrap_or_default();
    let revision = revision(query)?;
    let start = if query.filled("sendInitialEvents").is_some() {
        if matching != "NotOlderThan" {
            return Err(invalid_option("ListOptions", |causes| {
                let detail =
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                causes.forbidden("resourceVersionMatch", detail);
            }));
        }
        initial(query.flag("sendInitialEvents"), revision)
    } else if matching.is_empty() {
        initial(false, revision)
    } else {
        return Err(invalid_option("ListOptions", |causes| {
            let detail =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            causes.forbidden("resourceVersionMatch", detail);
        }));
    };
    let bookmarks = match query.flag("allowWatchBookmarks") {
        false => Bookmarks::Never,
        true if call.user.in_group("system:nodes") => {
            Bookmarks::AwaitedOrEvery(NODE_BOOKMARK_INTERVAL)
        }
        true => Bookmarks::Every(BOOKMARK_INTERVAL),
    };
    Ok(WatchQuery {
        selection: selection(query)?,
        start,
        bookmarks,
        timeout: watch_timeout(query)?,
    })
}

/// How long a watch lasts (W12). By default half an hour to an hour, spread so that watches that began together do not come
/// back together.
fn watch_timeout(query: &Query) -> Result<Duration, ApiError> {
    let secs = query
        .number("timeoutSeconds")?
        .filter(|&secs: &u64| secs > 0);
    let secs = secs.unwrap_or_else(|| rand::rng().random_range(1800..3600));
    Ok(Duration::from_secs(secs))
}

fn initial(send: bool, revision: Option<Revision>) -> WatchStart {
    match revision {
        revision if send => WatchStart::Initial(revision.unwrap_or_default()),
        None | Some(Revision(0)) => WatchStart::State,
        Some(revision) => WatchStart::After(revision),
    }
}

/// How to delete, from the query and the body; the body has the last word.
pub(super) fn delete(query: &Query, body: &Value) -> Result<DeleteOptions, ApiError> {
    let in_body = body["dryRun"].as_array().into_iter().flatten();
    let dry_run = dry_run(in_body.filter_map(Value::as_str).chain(query.all("dryRun")))?;
    let policy = body["propagationPolicy"].as_str();
    let policy = policy
        .or(query.filled("propagationPolicy"))
        .unwrap_or_default();
    let orphan = body["orphanDependents"].as_bool();
    let orphan = orphan.or(query.get("orphanDependents").map(|value| value == "true"));
    if orphan.is_some() && !policy.is_empty() {
        return Err(invalid_option("DeleteOptions", |causes| {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            causes.invalid("propagationPolicy", policy, detail);
        }));
    }
    let propagation = match policy {
        "" => orphan.map(|orphan| match orphan {
            true => Propagation::Orphan,
            false => Propagation::Background,
        }),
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        "Orphan" => Some(Propagation::Orphan),
        other => {
            return Err(invalid_option("DeleteOptions", |causes| {
                let supported = &["Background", "Foreground", "Orphan"];
                causes.not_supported("propagationPolicy", other, supported);
            }));
        }
    };
    let text = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
    let grace = body["gracePeriodSeconds"].as_i64();
    Ok(DeleteOptions {
        grace_secs: grace
            .map_or_else(|| query.number("gracePeriodSeconds"), |secs| Ok(Some(secs)))?,
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        propagation,
        dry_run,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w12_a_watch_lasts_as_long_as_asked_for_or_half_an_hour_to_an_hour() {
        let timeout = |query: &str| watch_timeout(&Query::parse(query)).unwrap().as_secs();
        assert_eq!(timeout("timeoutSeconds=7"), 7);
        for query in ["", "timeoutSeconds=0"] {
            let default: Vec<u64> = (0..100).map(|_| timeout(query)).collect();
            assert!(
                default.iter().all(|secs| (1800..3600).contains(secs)),
                "{default:?}"
            );
            assert!(
                default.iter().any(|secs| *secs != default[0]),
                "they are spread"
            );
        }
    }
}
