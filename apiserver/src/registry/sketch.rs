//! Which labels an object may have, in 64 bits: a Bloom filter (Bloom 1970), so that a list passes by what a label selector
//! surely leaves out without reading it. 300 000 objects are passed by in the time it takes to touch each.
//!
//! Two bits for each key and two for each pair of key and value. One bit says that the sketch is made.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use api::{
    meta::StringMap,
    selector::{LabelSelector, Operator},
};

/// Set in every sketch: an object without labels has one too.
const MADE: u64 = 1;

/// The sketch of an object with these labels.
pub(super) fn of(labels: &StringMap) -> u64 {
    labels.iter().fold(MADE, |sketch, (key, value)| {
        sketch | bits(key, None) | bits(key, Some(value))
    })
}

/// The bits that every object has which this selector selects.
pub(super) fn required(selector: &LabelSelector) -> u64 {
    let requirements = selector.requirements().iter();
    requirements.fold(0, |sketch, requirement| {
        let key = &requirement.key;
        sketch
            | match &requirement.operator {
                Operator::In(values) => match &**values {
                    [value] => bits(key, None) | bits(key, Some(value)),
                    _ => bits(key, None),
                },
                Operator::Exists | Operator::GreaterThan(_) | Operator::LessThan(_) => {
                    bits(key, None)
                }
                Operator::NotIn(_) | Operator::DoesNotExist => 0,
            }
    })
}

/// Two of the bits above the lowest.
fn bits(key: &str, value: Option<&str>) -> u64 {
    // Its keys are fixed: the same in every process and at every call.
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    let hash = hasher.finish();
    let bit = |part: u64| 1 << (1 + part % 63);
    bit(hash & 0xffff_ffff) | bit(hash >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requirement() -> impl Strategy<Value = String> {
        let key = prop::sample::select(vec!["a", "b", "c"]);
        let value = prop::sample::select(vec!["1", "2", "3"]);
        let form = prop::sample::select(vec![
            "K=V",
            "K!=V",
            "K in (V)",
            "K in (V,2)",
            "K notin (V)",
            "K",
            "!K",
            "K>V",
            "K<V",
        ]);
        (key, value, form).prop_map(|(key, value, form)| form.replace('K', key).replace('V', value))
    }

    proptest! {
        /// It may take in what is left out, but never the other way round.
        #[test]
        fn nothing_that_is_selected_is_passed_by(
            labels in prop::collection::btree_map("[abc]", "[123]", 0..4),
            requirements in prop::collection::vec(requirement(), 1..4),
        ) {
            let labels: StringMap = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
            let selector: LabelSelector = requirements.join(",").parse().expect("a selector");
            let required = required(&selector);
            prop_assert!(!selector.matches(&labels) || of(&labels) & required == required);
        }
    }

    #[test]
    fn most_of_what_is_left_out_is_passed_by() {
        let selector: LabelSelector = "app=nothing".parse().expect("a selector");
        let required = required(&selector);
        let passed = (0..10_000)
            .filter(|number| {
                let labels = [
                    ("app", format!("a{number}")),
                    ("tier", format!("t{number}")),
                ];
                let labels = labels.map(|(key, value)| (key.into(), value.into()));
                of(&labels.into_iter().collect()) & required != required
            })
            .count();
        assert!(passed > 9_500, "{passed} of 10000");
    }

    #[test]
    fn an_object_without_labels_has_a_sketch() {
        assert_ne!(of(&StringMap::new()), 0);
    }
}
