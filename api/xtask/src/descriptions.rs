//! What types and fields mean, in the words of Kubernetes: read from the source text of the `k8s-openapi` crate.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::openapi::{Schemas, short_name};
use crate::protobuf::key;

const HEAD: &str = "\
# Descriptions of the OpenAPI documents of Kubernetes 1.36, (c) The Kubernetes Authors, Apache-2.0, as the crate k8s-openapi 0.29.0
# (Apache-2.0) has them. A type is `:name text`, then come its fields, `name text`; a carriage return stands for a newline.
";

/// The texts of one type; that of the type itself is under the empty name.
type Texts = BTreeMap<String, String>;

/// The descriptions of the types in `schemas` and of their fields, compressed as a block of LZ4 behind its length.
///
/// `source` is the directory of one version of Kubernetes in the source of k8s-openapi, such as `src/v1_36`.
pub(crate) fn write(schemas: &Schemas, source: &Path) -> Result<Vec<u8>> {
    let mut types = BTreeMap::new();
    walk(source, &mut types)?;
    let mut text = HEAD.to_owned();
    for (name, schema) in schemas {
        let Some(texts) = types.get(name) else {
            continue;
        };
        writeln!(text, ":{name} {}", texts.get("").map_or("", String::as_str))?;
        let properties = schema.get("properties").and_then(|map| map.as_object());
        for field in properties.into_iter().flat_map(|map| map.keys()) {
            if let Some(description) = texts.get(&key(field)).or_else(|| of_every_kind(field)) {
                writeln!(text, "{field} {description}")?;
            }
        }
    }
    Ok(lz4_flex::block::compress_prepend_size(text.as_bytes()))
}

/// The Rust types of k8s-openapi have these fields as constants.
fn of_every_kind(field: &str) -> Option<&'static String> {
    static TEXTS: std::sync::LazyLock<Texts> = std::sync::LazyLock::new(|| {
        let text = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        Texts::from([
            text(
                "apiVersion",
                "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
            ),
            text(
                "kind",
                "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
            ),
        ])
    });
    TEXTS.get(field)
}

fn walk(directory: &Path, types: &mut BTreeMap<String, Texts>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, types)?;
        } else {
            parse(&std::fs::read_to_string(&path)?, types);
        }
    }
    Ok(())
}

/// A file holds one type, and its head names the definition it was made from. Whatever follows the type is code.
fn parse(source: &str, types: &mut BTreeMap<String, Texts>) {
    let mut lines = source.lines();
    let Some(name) = lines
        .next()
        .and_then(|line| line.strip_prefix("// Generated from definition "))
    else {
        return;
    };
    let mut texts = Texts::new();
    let mut pending: Vec<String> = Vec::new();
    for line in lines {
        if line == "}" {
            break;
        }
        let line = line.trim_start();
        if let Some(comment) = line.strip_prefix("///") {
            pending.push(plain(comment.strip_prefix(' ').unwrap_or(comment)));
        } else if let Some(declared) = line.strip_prefix("pub ") {
            let field = match declared.split_once(':') {
                Some((field, _)) if !declared.starts_with("struct ") => {
                    key(field.trim_start_matches("r#"))
                }
                _ => String::new(),
            };
            texts.insert(field, pending.join("\r"));
            pending.clear();
        }
    }
    texts.retain(|_, text| !text.is_empty());
    types.insert(short_name(name).to_owned(), texts);
}

/// Without the marks of rustdoc: `\<` for `<`, `<https://...>` for a link.
fn plain(comment: &str) -> String {
    let mut text = String::with_capacity(comment.len());
    let mut rest = comment;
    while let Some(at) = rest.find(['\\', '<']) {
        text.push_str(&rest[..at]);
        let found = &rest[at..];
        rest = &found[1..];
        if found.starts_with('\\') && rest.starts_with(['<', '>', '[', ']', '*', '_', '`', '#']) {
            text.push_str(&rest[..1]);
            rest = &rest[1..];
        } else if let (true, Some(end)) = (rest.starts_with("http"), rest.find('>')) {
            text.push_str(&rest[..end]);
            rest = &rest[end + 1..];
        } else {
            text.push_str(&found[..1]);
        }
    }
    text + rest
}
