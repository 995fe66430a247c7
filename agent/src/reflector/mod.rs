//! List and watch: a remote collection as a stream of differences that never skips one.
//!
//! [`Reflector`] is the pure part: what to ask next, and what an answer changes. [`run`] asks.

mod run;
#[cfg(test)]
mod tests;

use api::meta::ObjectMeta;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::objects::{Key, Object, Revision};
pub(crate) use run::run;

/// A difference of the collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delta<T> {
    /// The whole collection as of a revision; what is not in it is gone.
    Replace { items: Vec<T>, revision: Revision },
    /// An object came or changed.
    Put(T),
    /// An object went; the revision is that of its deletion.
    Remove { key: Key, revision: Revision },
    /// Nothing changed up to this revision.
    Progress(Revision),
}

/// An event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<T> {
    /// ADDED or MODIFIED.
    Put(T),
    Deleted(T),
    Bookmark {
        revision: Revision,
        initial_events_end: bool,
    },
    /// ERROR with its Status code, 410 when the history asked for is gone.
    Error {
        code: u16,
        message: String,
    },
}

/// What to ask the server next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A watch that begins with the whole collection (`sendInitialEvents`).
    Stream,
    /// A page of a list; an empty token is the first.
    List { continue_token: String },
    /// A watch of what came after a revision.
    Watch { from: Revision },
}

/// What came back.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    Page {
        items: Vec<T>,
        revision: Revision,
        continue_token: String,
    },
    Event(Event<T>),
    /// The watch ended, or never began, for a reason that does not matter to its position.
    Ended,
    /// 410 Gone as a status.
    Gone,
    /// 422: the server does not offer [`Request::Stream`].
    NoStream,
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step<T> {
    pub(crate) delta: Option<Delta<T>>,
    /// The running watch is of no use any more: ask [`Reflector::request`] again.
    pub(crate) ask_again: bool,
}

impl<T> Step<T> {
    const fn quiet() -> Self {
        Self {
            delta: None,
            ask_again: false,
        }
    }

    const fn ask() -> Self {
        Self {
            delta: None,
            ask_again: true,
        }
    }

    const fn of(delta: Delta<T>) -> Self {
        Self {
            delta: Some(delta),
            ask_again: false,
        }
    }
}

/// The position in one remote collection.
#[derive(Debug)]
pub(crate) struct Reflector<T> {
    state: State<T>,
    streams: bool,
}

#[derive(Debug)]
enum State<T> {
    /// Collecting a whole collection: `items` so far, and where the next page begins.
    Filling {
        items: Vec<T>,
        continue_token: String,
    },
    /// Everything up to here was given to the reader.
    Synced(Revision),
}

impl<T: Object> Reflector<T> {
    pub(crate) const fn new() -> Self {
        Self {
            state: Self::empty(),
            streams: true,
        }
    }

    const fn empty() -> State<T> {
        State::Filling {
            items: Vec::new(),
            continue_token: String::new(),
        }
    }

    pub(crate) fn request(&self) -> Request {
        match &self.state {
            State::Filling { .. } if self.streams => Request::Stream,
            State::Filling { continue_token, .. } => Request::List {
                continue_token: continue_token.clone(),
            },
            State::Synced(from) => Request::Watch { from: *from },
        }
    }

    /// Takes an answer in: the position moves, and the reader learns what changed.
    pub(crate) fn step(&mut self, answer: Answer<T>) -> Step<T> {
        match answer {
            Answer::Page {
                items,
                revision,
                continue_token,
            } => self.page(items, revision, continue_token),
            Answer::Event(event) => self.event(event),
            Answer::Ended => {
                self.forget_half_a_stream();
                Step::ask()
            }
            Answer::Gone => {
                self.state = Self::empty();
                Step::ask()
            }
            Answer::NoStream => {
                self.streams = false;
                self.state = Self::empty();
                Step::ask()
            }
        }
    }

    fn page(&mut self, mut page: Vec<T>, revision: Revision, token: String) -> Step<T> {
        let State::Filling {
            items,
            continue_token,
        } = &mut self.state
        else {
            return Step::ask();
        };
        items.append(&mut page);
        *continue_token = token;
        if continue_token.is_empty() {
            self.filled(revision, true)
        } else {
            Step::ask()
        }
    }

    fn filled(&mut self, revision: Revision, ask_again: bool) -> Step<T> {
        let State::Filling { items, .. } =
            std::mem::replace(&mut self.state, State::Synced(revision))
        else {
            return Step::quiet();
        };
        Step {
            delta: Some(Delta::Replace { items, revision }),
            ask_again,
        }
    }

    fn event(&mut self, event: Event<T>) -> Step<T> {
        match (&mut self.state, event) {
            (_, Event::Error { code: 410, .. }) => {
                self.state = Self::empty();
                Step::ask()
            }
            (_, Event::Error { .. }) => {
                self.forget_half_a_stream();
                Step::ask()
            }
            (State::Filling { items, .. }, Event::Put(item)) => {
                items.push(item);
                Step::quiet()
            }
            (
                State::Filling { .. },
                Event::Bookmark {
                    revision,
                    initial_events_end: true,
                },
            ) => self.filled(revision, false),
            // Within the initial events nothing is deleted, and a plain bookmark says nothing.
            (State::Filling { .. }, _) => Step::quiet(),
            (State::Synced(position), event) => live(position, event),
        }
    }

    /// A stream that broke before its bookmark begins anew; pages of a list are kept.
    fn forget_half_a_stream(&mut self) {
        if self.streams && matches!(self.state, State::Filling { .. }) {
            self.state = Self::empty();
        }
    }
}

/// An event behind the initial ones. One from before the position was given already and is left out.
fn live<T: Object>(position: &mut Revision, event: Event<T>) -> Step<T> {
    let (revision, delta) = match event {
        Event::Put(item) => (item.revision(), Delta::Put(item)),
        Event::Deleted(item) => {
            let revision = item.revision();
            (
                revision,
                Delta::Remove {
                    key: item.key(),
                    revision,
                },
            )
        }
        Event::Bookmark { revision, .. } => (revision, Delta::Progress(revision)),
        Event::Error { .. } => return Step::ask(),
    };
    if revision < *position {
        return Step::quiet();
    }
    *position = revision;
    Step::of(delta)
}

/// `{"type":..,"object":..}` with the object left as text until the type is known.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BookmarkObject {
    metadata: ObjectMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorObject {
    code: u16,
    message: String,
}

impl<T: Object> Event<T> {
    /// Decodes one line of a watch.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        let line: Line<'_> = serde_json::from_slice(line)?;
        let object = line.object.get();
        Ok(match line.kind {
            "ADDED" | "MODIFIED" => Self::Put(serde_json::from_str(object)?),
            "DELETED" => Self::Deleted(serde_json::from_str(object)?),
            "BOOKMARK" => {
                let BookmarkObject { metadata } = serde_json::from_str(object)?;
                let revision = Revision::parse(&metadata.resource_version).unwrap_or_default();
                let end = metadata.annotations.get("k8s.io/initial-events-end");
                Self::Bookmark {
                    revision,
                    initial_events_end: end.is_some_and(|value| &**value == "true"),
                }
            }
            _ => {
                let ErrorObject { code, message } = serde_json::from_str(object)?;
                Self::Error { code, message }
            }
        })
    }
}
