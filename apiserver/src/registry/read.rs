//! Get and list (R1-R9).

use std::{ops::Range, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    ApiError, Freshness, Kind, List, ListQuery, Object, Registry, Selection, object::json_of,
    sketch, watch::selectable::Selectable,
};
use crate::store::{ListOptions, Record, Revision, StoreError};

/// How long a read waits for a revision that does not exist yet.
const FUTURE_WAIT: Duration = Duration::from_secs(3);
/// How many records are read at a time when a selector may drop most of them.
const CHUNK: usize = 1000;

/// What a `continue` token holds.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    /// The revision of the first page; 0 is the newest.
    revision: u64,
    /// The last key returned, below the kind's prefix.
    after: String,
}

impl Registry {
    /// One object.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], or the store's.
    pub async fn get(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Object, ApiError> {
        let record = self.record(kind, namespace, name).await?;
        Ok(Object::from_record(kind, &record))
    }

    /// One object, at least as new as asked for.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::FutureRevision`], or the store's.
    pub async fn get_fresh(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        freshness: Freshness,
    ) -> Result<Object, ApiError> {
        if let Freshness::AtLeast(revision) = freshness {
            self.wait_for(revision).await?;
        }
        self.get(kind, namespace, name).await
    }

    pub(super) async fn record(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Record>, ApiError> {
        let key = kind.key(namespace, name);
        let record = self.backend.get(key.as_bytes(), None).await?;
        record.ok_or_else(|| ApiError::NotFound {
            kind,
            name: name.to_owned(),
        })
    }

    /// The objects of a kind, in one namespace or all, as one snapshot.
    ///
    /// # Errors
    /// [`ApiError::Expired`] for a revision or token whose history is gone, [`ApiError::FutureRevision`],
    /// [`ApiError::BadRequest`] for a token that is none.
    pub async fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &ListQuery,
    ) -> Result<List, ApiError> {
        let prefix = kind.key_prefix(None);
        let range = key_range(kind, namespace, &query.selection);
        let (at, from) = self.starting_point(query, &prefix).await?;
        let mut collector = Collector {
            kind,
            query,
            prefix: &prefix,
            required: query.selection.labels.as_ref().map_or(0, sketch::required),
            objects: Vec::new(),
        };
        let mut from = from;
        let mut at = at;
        loop {
            let options = ListOptions {
                at,
                from: from.clone(),
                limit: collector.page_size(),
                sketch: collector.required,
            };
            let page = self
                .backend
                .list(range.clone(), options)
                .await
                .map_err(|error| expired(error, from.as_ref(), &prefix))?;
            at = Some(page.revision);
            if let Some(list) = collector.take(&page.records, page.remaining, page.revision) {
                return Ok(list);
            }
            from = page.records.last().map(|record| successor(&record.key));
        }
    }

    /// The revision and key a list starts from.
    async fn starting_point(
        &self,
        query: &ListQuery,
        prefix: &str,
    ) -> Result<(Option<Revision>, Option<Bytes>), ApiError> {
        if let Some(token) = &query.continue_token {
            let token = decode_token(token)?;
            let at = (token.revision > 0).then_some(Revision(token.revision));
            let after = Bytes::from(format!("{prefix}{}", token.after));
            return Ok((at, Some(successor(&after))));
        }
        match query.freshness {
            Freshness::Newest | Freshness::Any => Ok((None, None)),
            Freshness::AtLeast(revision) => {
                self.wait_for(revision).await?;
                Ok((None, None))
            }
            Freshness::Exact(revision) => Ok((Some(revision), None)),
        }
    }

    /// Waits a moment for a revision to exist (R3).
    pub(super) async fn wait_for(&self, wanted: Revision) -> Result<(), ApiError> {
        let deadline = tokio::time::Instant::now() + FUTURE_WAIT;
        while self.backend.current() < wanted {
            if tokio::time::Instant::now() >= deadline {
                return Err(ApiError::FutureRevision {
                    wanted: wanted.0,
                    current: self.backend.current().0,
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Gathers selected objects page by page.
struct Collector<'a> {
    kind: &'static Kind,
    query: &'a ListQuery,
    prefix: &'a str,
    /// What the sketch of every selected object has.
    required: u64,
    objects: Vec<Object>,
}

impl Collector<'_> {
    fn page_size(&self) -> usize {
        match (self.query.limit, self.query.selection.is_everything()) {
            (0, _) => 0,
            (limit, true) => limit,
            (limit, false) => limit.max(CHUNK),
        }
    }

    /// Takes a page; answers the list when it is complete.
    fn take(
        &mut self,
        records: &[Arc<Record>],
        remaining: usize,
        revision: Revision,
    ) -> Option<List> {
        let limit = self.query.limit;
        let everything = self.query.selection.is_everything();
        for (index, record) in records.iter().enumerate() {
            if !everything
                && !self
                    .query
                    .selection
                    .selects(self.kind, record, self.required)
            {
                continue;
            }
            self.objects.push(Object::from_record(self.kind, record));
            let follow = records.len() - index - 1 + remaining;
            if limit > 0 && self.objects.len() == limit && follow > 0 {
                let after = String::from_utf8_lossy(&record.key[self.prefix.len()..]).into_owned();
                return Some(List {
                    objects: std::mem::take(&mut self.objects),
                    revision,
                    continue_token: Some(encode_token(revision.0, after)),
                    remaining: everything.then_some(follow),
                });
            }
        }
        (remaining == 0 || records.is_empty()).then(|| List {
            objects: std::mem::take(&mut self.objects),
            revision,
            continue_token: None,
            remaining: None,
        })
    }
}

/// The keys that can hold what is selected: a `metadata.name` selector narrows it to one key.
pub(super) fn key_range(
    kind: &'static Kind,
    namespace: Option<&str>,
    selection: &Selection,
) -> Range<Bytes> {
    let field_namespace = kind
        .namespaced
        .then(|| selection.exact_field("metadata.namespace"))
        .flatten();
    let namespace = namespace.or(field_namespace);
    let name = selection.exact_field("metadata.name");
    if let Some(name) = name.filter(|_| namespace.is_some() || !kind.namespaced) {
        let key = Bytes::from(kind.key(namespace, name));
        return key.clone()..successor(&key);
    }
    let prefix = kind.key_prefix(namespace);
    let mut end = prefix.clone().into_bytes();
    // `0` is the byte after `/`.
    *end.last_mut().expect("a prefix ends with a slash") = b'0';
    Bytes::from(prefix)..Bytes::from(end)
}

/// The smallest key after this one.
fn successor(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

fn encode_token(revision: u64, after: String) -> String {
    let token = Continue { revision, after };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a number and a string serialise"))
}

fn decode_token(token: &str) -> Result<Continue, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok();
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| ApiError::BadRequest("continue key is not valid".into()))
}

/// An outlived token is answered with one that goes on at the newest revision (R6).
fn expired(error: StoreError, from: Option<&Bytes>, prefix: &str) -> ApiError {
    match (error, from) {
        (StoreError::Compacted { .. }, Some(from)) => {
            let after = &from[prefix.len()..from.len() - 1];
            ApiError::Expired {
                message: "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.".into(),
                continue_token: Some(encode_token(0, String::from_utf8_lossy(after).into_owned())),
            }
        }
        (error, _) => error.into(),
    }
}

impl Selection {
    /// Whether nothing is left out.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    /// Whether the object of this record is selected. `required` is what its sketch must have for that.
    fn selects(&self, kind: &'static Kind, record: &Record, required: u64) -> bool {
        let mut read = None;
        let sketch = record.sketch.get_or_init(|| {
            let object = read.insert(Selectable::read(kind, &json_of(&record.value)));
            sketch::of(object.labels())
        });
        sketch & required == required
            && self
                .matches(&read.unwrap_or_else(|| Selectable::read(kind, &json_of(&record.value))))
    }
}
