//! Makes `api/src/schema/table.txt`, the OpenAPI v3 documents of Kubernetes joined with protobuf tags, and beside it
//! `descriptions.lz4`, what types and fields mean.
//!
//! `cargo run -p api-xtask -- DIRECTORY`, where DIRECTORY holds one OpenAPI v3 document per group-version. The tags are read
//! from the source text of the crate `k8s-pb`, the descriptions from that of `k8s-openapi`, in the versions Cargo.lock names.
//! The same input gives the same bytes.

mod descriptions;
mod openapi;
mod protobuf;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

fn main() -> Result<()> {
    let directory = std::env::args()
        .nth(1)
        .context("usage: api-xtask DIRECTORY")?;
    let schemas = openapi::read(Path::new(&directory))?;
    let messages = protobuf::read(&source("k8s-pb")?)?;
    let text = table::write(&schemas, &messages)?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/schema/table.txt");
    std::fs::write(&target, &text)?;
    println!(
        "{}: {} types, {} bytes",
        target.display(),
        schemas.len(),
        text.len()
    );
    let texts = descriptions::write(&schemas, &source("k8s-openapi")?.join("v1_36"))?;
    let target = target.with_file_name("descriptions.lz4");
    std::fs::write(&target, &texts)?;
    println!("{}: {} bytes", target.display(), texts.len());
    Ok(())
}

/// Where cargo keeps the source of a crate.
fn source(name: &str) -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1"])
        .output()?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages
        .find(|package| package["name"] == name)
        .with_context(|| format!("no {name} in cargo metadata"))?;
    let manifest = package["manifest_path"]
        .as_str()
        .with_context(|| format!("{name} has no manifest path"))?;
    Ok(Path::new(manifest).with_file_name("src"))
}
