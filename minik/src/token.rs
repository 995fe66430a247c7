//! `minik token`: join tokens, kept as Secrets that hold no secret, only its hash.

use std::{path::PathBuf, time::Duration};

use agent::client::{Client, Path};
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use rand::Rng;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{admin::Admin, duration::parse_duration, server_command::DATA_DIR};

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "minik.dev/join-token";
const NAME_PREFIX: &str = "join-token-";

/// `minik token ...`
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// Data directory of the server on this host.
    #[arg(long, default_value = DATA_DIR, global = true)]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand, Debug)]
enum TokenCommand {
    /// Create a token that lets hosts join, and print it. It is shown this once.
    Create {
        /// How long it is valid, for example 30m, 24h, 7d.
        #[arg(long, default_value = "24h", value_parser = parse_duration)]
        ttl: Duration,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List the tokens: never their secret parts.
    List,
    /// Revoke a token, by its id or whole.
    Revoke {
        /// The id as `list` shows it, or the token.
        token: String,
    },
}

/// Runs `minik token ...`.
pub(crate) fn run(args: &TokenArgs) -> Result<()> {
    let admin = Admin::read(&args.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let client = admin.client(&admin.server()?)?;
        match &args.command {
            TokenCommand::Create { ttl, description } => {
                println!("{}", create(&client, admin.ca(), *ttl, description).await?);
                Ok(())
            }
            TokenCommand::List => list(&client).await,
            TokenCommand::Revoke { token } => revoke(&client, token).await,
        }
    })
}

/// Creates a token of the cluster with this CA, stores its hash, and returns it.
pub(crate) async fn create(
    client: &Client,
    ca_pem: &str,
    ttl: Duration,
    description: &str,
) -> Result<String> {
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .context("the CA certificate is damaged")?;
    let (id, secret) = (random_word(6), random_word(32));
    let expiration = Timestamp::now()
        .checked_add(ttl)
        .context("--ttl is too long")?;
    let object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": format!("{NAME_PREFIX}{id}"), "namespace": NAMESPACE },
        "type": SECRET_TYPE,
        "stringData": {
            "secret-sha256": hex(&Sha256::digest(&secret)),
            "expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "description": description,
        },
    });
    let _: Value = client
        .create(&secrets().to_string(), &object)
        .await
        .context("store the token's hash")?;
    Ok(format!(
        "minik1.{}.{id}.{secret}",
        hex(&Sha256::digest(&ca))
    ))
}

fn secrets() -> Path {
    Path::core("secrets").namespace(NAMESPACE)
}

/// Lower-case letters and digits, from the operating system's randomness.
fn random_word(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `list` needs of a Secret.
#[derive(Deserialize)]
struct Stored {
    metadata: StoredName,
    data: Text,
}

#[derive(Deserialize)]
struct StoredName {
    name: String,
}

/// The readable values of a token's Secret, in base64.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Text {
    expiration: String,
    description: String,
}

async fn list(client: &Client) -> Result<()> {
    let path = secrets()
        .query("fieldSelector", &format!("type={SECRET_TYPE}"))
        .to_string();
    let stored = client
        .list::<Stored>(&path)
        .await
        .context("list the tokens")?;
    println!("{:<8} {:<21} DESCRIPTION", "ID", "EXPIRES");
    for token in stored.items {
        let id = token.metadata.name.trim_start_matches(NAME_PREFIX);
        println!(
            "{id:<8} {:<21} {}",
            decode(&token.data.expiration),
            decode(&token.data.description)
        );
    }
    Ok(())
}

fn decode(base64: &str) -> String {
    BASE64
        .decode(base64)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

async fn revoke(client: &Client, token: &str) -> Result<()> {
    let id = match token.split('.').collect::<Vec<_>>()[..] {
        [id] | [_, _, id, _] => id,
        _ => bail!("TOKEN is neither an id nor a whole token: `minik token list` shows the ids"),
    };
    let path = secrets().name(&format!("{NAME_PREFIX}{id}")).to_string();
    match client.delete(&path, &json!({})).await {
        Err(error) if error.is_not_found() => {
            bail!("there is no token {id:?}: `minik token list` shows them")
        }
        other => other
            .map(drop)
            .with_context(|| format!("revoke token {id}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_alphabet_and_length_of_tokens() {
        let word = random_word(32);
        assert_eq!(word.len(), 32);
        assert!(
            word.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
            "{word}"
        );
        assert_ne!(word, random_word(32));
        assert_eq!(hex(&[0, 171]), "00ab");
    }
}
