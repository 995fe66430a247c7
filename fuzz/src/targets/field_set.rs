//! Sets of field paths as `fieldsV1`.

use api::schema::apply::{FieldSet, Managers};

/// A set, or two on a line each: written and read again they are the same, and the laws of sets hold.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = Managers::read_all(text);
    let mut lines = text.splitn(2, '\n');
    let mut read = || FieldSet::from_json(lines.next()?).ok();
    let Some(a) = read() else { return };
    let b = read().unwrap_or_default();
    let again = FieldSet::from_json(&a.to_json()).expect("it can be read again");
    assert_eq!(again, a, "read again");
    let _ = a.paths();
    let (both, all) = (a.intersection(&b), a.union(&b));
    assert!(
        all.contains_all(&a) && all.contains_all(&b),
        "a union has both"
    );
    assert!(
        a.contains_all(&both) && b.contains_all(&both),
        "an intersection is in both"
    );
    assert!(
        a.difference(&a).is_empty(),
        "nothing separates a set from itself"
    );
    assert!(
        !a.difference(&b).intersects(&b),
        "a difference has nothing of what was taken away"
    );
    assert_eq!(
        a.difference(&b).union(&both),
        a,
        "what was taken away was in both"
    );
}
