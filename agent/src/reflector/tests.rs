use proptest::prelude::*;

use super::*;
use api::core::Namespace;

fn object(name: &str, revision: u64) -> Namespace {
    let mut object = Namespace::default();
    object.metadata.name = name.into();
    object.metadata.resource_version = revision.to_string().into();
    object
}

fn bookmark<T>(revision: u64, initial_events_end: bool) -> Answer<T> {
    Answer::Event(Event::Bookmark {
        revision: Revision(revision),
        initial_events_end,
    })
}

fn put(name: &str, revision: u64) -> Answer<Namespace> {
    Answer::Event(Event::Put(object(name, revision)))
}

fn expired() -> Answer<Namespace> {
    Answer::Event(Event::Error {
        code: 410,
        message: "too old".to_owned(),
    })
}

#[test]
fn initial_events_become_one_replacement_at_the_annotated_bookmark() {
    let mut reflector = Reflector::new();
    assert_eq!(reflector.request(), Request::Stream);
    assert_eq!(reflector.step(put("a", 3)), Step::quiet());
    assert_eq!(reflector.step(bookmark(3, false)), Step::quiet());
    assert_eq!(reflector.step(put("b", 5)), Step::quiet());
    let wanted = Delta::Replace {
        items: vec![object("a", 3), object("b", 5)],
        revision: Revision(9),
    };
    assert_eq!(reflector.step(bookmark(9, true)), Step::of(wanted));
    assert_eq!(
        reflector.step(put("a", 11)),
        Step::of(Delta::Put(object("a", 11)))
    );
    assert_eq!(reflector.request(), Request::Watch { from: Revision(11) });
}

#[test]
fn a_server_without_streams_is_listed_page_by_page_and_then_watched() {
    let mut reflector = Reflector::new();
    assert_eq!(reflector.step(Answer::NoStream), Step::ask());
    assert_eq!(
        reflector.request(),
        Request::List {
            continue_token: String::new()
        }
    );
    let page = Answer::Page {
        items: vec![object("a", 3)],
        revision: Revision(7),
        continue_token: "t".to_owned(),
    };
    assert_eq!(reflector.step(page), Step::ask());
    assert_eq!(
        reflector.request(),
        Request::List {
            continue_token: "t".to_owned()
        }
    );
    let page = Answer::Page {
        items: vec![object("b", 4)],
        revision: Revision(7),
        continue_token: String::new(),
    };
    let wanted = Delta::Replace {
        items: vec![object("a", 3), object("b", 4)],
        revision: Revision(7),
    };
    assert_eq!(
        reflector.step(page),
        Step {
            delta: Some(wanted),
            ask_again: true
        }
    );
    assert_eq!(reflector.request(), Request::Watch { from: Revision(7) });
}

#[test]
fn a_stream_that_breaks_before_its_bookmark_begins_anew() {
    let mut reflector = Reflector::new();
    reflector.step(put("a", 3));
    assert_eq!(reflector.step(Answer::Ended), Step::ask());
    assert_eq!(reflector.request(), Request::Stream);
    let wanted = Delta::Replace {
        items: Vec::<Namespace>::new(),
        revision: Revision(9),
    };
    assert_eq!(reflector.step(bookmark(9, true)), Step::of(wanted));
}

#[test]
fn after_410_the_old_state_stays_until_the_fresh_list_replaces_it() {
    for gone in [expired(), Answer::Gone] {
        let mut reflector = Reflector::new();
        reflector.step(bookmark(9, true));
        assert_eq!(
            reflector.step(gone),
            Step::ask(),
            "no delta: readers keep what they have"
        );
        assert_eq!(reflector.request(), Request::Stream);
        reflector.step(put("a", 20));
        let wanted = Delta::Replace {
            items: vec![object("a", 20)],
            revision: Revision(21),
        };
        assert_eq!(reflector.step(bookmark(21, true)), Step::of(wanted));
    }
}

#[test]
fn bookmarks_move_the_position_to_resume_from() {
    let mut reflector = Reflector::<Namespace>::new();
    reflector.step(bookmark(9, true));
    assert_eq!(
        reflector.step(bookmark(40, false)),
        Step::of(Delta::Progress(Revision(40)))
    );
    reflector.step(Answer::Ended);
    assert_eq!(reflector.request(), Request::Watch { from: Revision(40) });
}

#[test]
fn deletions_carry_their_own_revision() {
    let mut reflector = Reflector::new();
    reflector.step(bookmark(9, true));
    let step = reflector.step(Answer::Event(Event::Deleted(object("a", 12))));
    let wanted = Delta::Remove {
        key: Key::new("", "a"),
        revision: Revision(12),
    };
    assert_eq!(step, Step::of(wanted));
}

#[test]
fn lines_are_decoded_by_their_type() {
    let line = br#"{"type":"MODIFIED","object":{"kind":"Namespace","metadata":{"name":"a","resourceVersion":"7","labels":null}}}"#;
    assert_eq!(
        Event::<Namespace>::parse(line).expect("event"),
        Event::Put(object("a", 7))
    );
    let line = br#"{"type":"BOOKMARK","object":{"kind":"Namespace","metadata":{"resourceVersion":"8","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
    assert_eq!(
        Event::<Namespace>::parse(line).expect("event"),
        Event::Bookmark {
            revision: Revision(8),
            initial_events_end: true
        }
    );
    let line = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#;
    let wanted = Event::Error {
        code: 410,
        message: "too old".to_owned(),
    };
    assert_eq!(Event::<Namespace>::parse(line).expect("event"), wanted);
}

proptest! {
    /// Whatever the places where the connection breaks, each change arrives exactly once and in order.
    #[test]
    fn a_watch_resumed_anywhere_sees_every_revision_once(
        changes in 1_u64..60,
        breaks in proptest::collection::vec(0_usize..20, 0..20),
        start in 0_u64..60,
    ) {
        let start = start.min(changes);
        let mut reflector = Reflector::new();
        reflector.step(bookmark(start, true));
        let mut seen = Vec::new();
        let mut breaks = breaks.into_iter();
        while let Request::Watch { from } = reflector.request() {
            if from.0 == changes {
                break;
            }
            let limit = breaks.next().unwrap_or(usize::MAX);
            for revision in (from.0 + 1..=changes).take(limit) {
                match reflector.step(put("a", revision)).delta {
                    Some(Delta::Put(object)) => seen.push(object.revision().0),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            reflector.step(Answer::Ended);
        }
        prop_assert_eq!(seen, (start + 1..=changes).collect::<Vec<_>>());
    }
}
