//! What types and fields mean, for people: the texts of `kubectl explain`.
//!
//! They are a megabyte, and rarely asked for: `descriptions.lz4` is unpacked when a document is made, and not kept. Its first
//! lines say where the texts are from.

use std::collections::HashMap;

/// The texts, unpacked.
pub(super) struct Descriptions(String);

/// The same, by type.
pub(super) struct ByType<'a>(HashMap<&'a str, Texts<'a>>);

/// The texts of one type.
#[derive(Clone, Copy, Default)]
pub(super) struct Texts<'a> {
    own: &'a str,
    fields: &'a str,
}

impl Descriptions {
    pub(super) fn unpack() -> Self {
        let packed = include_bytes!("descriptions.lz4");
        let text = lz4_flex::block::decompress_size_prepended(packed)
            .expect("the generator packed it the same way");
        Self(String::from_utf8(text).expect("the generator packed text"))
    }

    pub(super) fn by_type(&self) -> ByType<'_> {
        let sections = self.0.split("\n:").skip(1);
        ByType(sections.map(read_section).collect())
    }
}

fn read_section(section: &str) -> (&str, Texts<'_>) {
    let (head, fields) = section.split_once('\n').unwrap_or((section, ""));
    let (name, own) = head.split_once(' ').unwrap_or((head, ""));
    (name, Texts { own, fields })
}

impl<'a> ByType<'a> {
    /// The texts of a type, by its short name; none where nothing is known.
    pub(super) fn of(&self, name: &str) -> Texts<'a> {
        self.0.get(name).copied().unwrap_or_default()
    }
}

impl Texts<'_> {
    /// What the type is.
    pub(super) fn own(self) -> Option<String> {
        written(self.own)
    }

    /// What a field means.
    pub(super) fn field(self, name: &str) -> Option<String> {
        let mut lines = self.fields.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        written(found?)
    }
}

/// A carriage return stands for a newline.
fn written(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.replace('\r', "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types;

    #[test]
    fn fields_are_described_but_those_of_lists_and_of_json_schemas() {
        let descriptions = Descriptions::unpack();
        let texts = descriptions.by_type();
        let container = texts.of("core.v1.Container");
        assert!(
            container
                .own()
                .unwrap()
                .starts_with("A single application container")
        );
        let image = container.field("image").unwrap();
        assert!(
            image.starts_with("Container image name. More info: https://"),
            "{image}"
        );
        assert_eq!(container.field("imag"), None);
        let fields = types()
            .iter()
            .flat_map(|of| of.fields.iter().map(move |field| (of, field)));
        let silent = |(of, field): &(&crate::schema::Type, &crate::schema::Field)| {
            texts.of(of.name).field(&field.name).is_none()
        };
        let (silent, told): (Vec<_>, Vec<_>) = fields.partition(silent);
        assert!(
            told.len() > 6 * silent.len(),
            "{} of {}",
            silent.len(),
            told.len()
        );
    }
}
