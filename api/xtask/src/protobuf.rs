//! Protobuf messages, read from the attributes prost-build wrote into `k8s-pb`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// Messages by short name, lower case: `core.v1.servicespec`.
pub(crate) type Messages = BTreeMap<String, Vec<Field>>;

/// A field of a message.
pub(crate) struct Field {
    /// Lower case, without underscores, to be compared with JSON names.
    pub(crate) name: String,
    /// The tag on the wire.
    pub(crate) tag: u32,
    /// The attribute's type: `string`, `int32`, `message`, ...
    pub(crate) kind: String,
    /// The last word of the Rust type, lower case: the message's name.
    pub(crate) type_name: String,
}

/// Reads every `mod.rs` below the crate's source directory.
pub(crate) fn read(source: &Path) -> Result<Messages> {
    let mut messages = Messages::new();
    walk(source, &mut messages)?;
    Ok(messages)
}

fn walk(directory: &Path, messages: &mut Messages) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, messages)?;
        } else if path.ends_with("mod.rs") {
            let module = module_name(directory);
            parse(&module, &std::fs::read_to_string(&path)?, messages)
                .with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The last two directories, as in the schemas' short names: `core.v1`, `util.intstr`.
fn module_name(directory: &Path) -> String {
    let mut parts: Vec<_> = directory
        .iter()
        .rev()
        .take(2)
        .map(|part| part.to_string_lossy())
        .collect();
    parts.reverse();
    parts.join(".")
}

fn parse(module: &str, text: &str, messages: &mut Messages) -> Result<()> {
    let mut message = String::new();
    let mut attribute: Option<String> = None;
    let mut declaration = String::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
    {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            message = format!("{module}.{}", key(rest.trim_end_matches([' ', '{', '}'])));
            messages.entry(message.clone()).or_default();
        } else if let Some(rest) = line.strip_prefix("#[prost(") {
            attribute = Some(rest.to_owned());
            declaration.clear();
        } else if let Some(attribute_text) = &attribute {
            declaration.push_str(line);
            if line.ends_with(',')
                && declaration.matches('<').count() == declaration.matches('>').count()
            {
                let field = field(attribute_text, &declaration)
                    .with_context(|| format!("{message}: {declaration}"))?;
                messages.entry(message.clone()).or_default().push(field);
                attribute = None;
            }
        }
    }
    Ok(())
}

/// `string, optional, tag = "1")]` and `pub name: Option<String>,`.
fn field(attribute: &str, declaration: &str) -> Result<Field> {
    let (_, tag) = attribute.split_once("tag = \"").context("no tag")?;
    let (tag, _) = tag.split_once('"').context("no end of the tag")?;
    let (name, type_text) = declaration
        .trim_start_matches("pub ")
        .split_once(':')
        .context("no type")?;
    let kind = attribute.split([',', ' ']).next().unwrap_or_default();
    let last = type_text
        .split(|c: char| !c.is_alphanumeric())
        .rfind(|word| !word.is_empty());
    Ok(Field {
        name: key(name.trim_start_matches("r#")),
        tag: tag.parse()?,
        kind: kind.to_owned(),
        type_name: key(last.unwrap_or_default()),
    })
}

/// What names are compared by: letters and digits in lower case.
pub(crate) fn key(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_alphanumeric() || *c == '.')
        .map(|c| c.to_ascii_lowercase())
        .collect()
}
