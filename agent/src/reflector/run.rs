//! The asking part: requests, retries, and deltas handed on in batches.

use std::time::Duration;

use tokio::{sync::mpsc, time::sleep};

use super::{Answer, Delta, Event, Reflector, Request};
use crate::{
    backoff::Backoff,
    client::{Client, ClientError, List, Path, WatchLines},
    objects::{Object, Revision},
};

/// Objects per page of a list: bounds the size of one answer in memory.
const PAGE_LIMIT: &str = "500";

/// Follows a collection for ever and sends every difference, in order. Ends when nobody listens.
///
/// After a lost connection it resumes where it was; after a 410 it lists anew and sends one [`Delta::Replace`].
pub(crate) async fn run<T: Object>(
    client: Client,
    path: Path,
    deltas: mpsc::Sender<Vec<Delta<T>>>,
) {
    let mut reflector = Reflector::new();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut fruitless = 0;
    while !deltas.is_closed() {
        match ask(&client, &path, &mut reflector, &deltas).await {
            Ok(true) => {
                backoff.reset();
                fruitless = 0;
            }
            // One such answer is no failure: a 410 leads to a fresh list at once. Several in a row are a sick server.
            Ok(false) => {
                fruitless += 1;
                if fruitless > 1 {
                    sleep(backoff.fail()).await;
                }
            }
            Err(error) => {
                let delay = backoff.fail();
                tracing::warn!(%path, %error, delay_ms = delay.as_millis() as u64, "watch failed; trying again");
                sleep(delay).await;
            }
        }
    }
}

/// Makes one request and takes in its answer; true when the answer had anything in it.
async fn ask<T: Object>(
    client: &Client,
    path: &Path,
    reflector: &mut Reflector<T>,
    deltas: &mpsc::Sender<Vec<Delta<T>>>,
) -> Result<bool, ClientError> {
    match reflector.request() {
        Request::List { continue_token } => {
            match client.list(&list_path(path, &continue_token)).await {
                Ok(page) => {
                    let delta = reflector.step(page_answer(page)).delta;
                    send(deltas, delta.into_iter().collect()).await;
                    Ok(true)
                }
                Err(error) if error.is_gone() => {
                    reflector.step(Answer::Gone);
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        }
        request => match client.watch(&watch_path(path, &request)).await {
            Ok(lines) => follow(path, reflector, lines, deltas).await,
            Err(error) if error.is_gone() => {
                reflector.step(Answer::Gone);
                Ok(false)
            }
            Err(error) if error.is_unprocessable() && request == Request::Stream => {
                reflector.step(Answer::NoStream);
                Ok(false)
            }
            Err(error) => Err(error),
        },
    }
}

/// Reads a watch to its end, handing on everything that arrived together as one batch. True when there was anything.
async fn follow<T: Object>(
    path: &Path,
    reflector: &mut Reflector<T>,
    mut lines: WatchLines,
    deltas: &mpsc::Sender<Vec<Delta<T>>>,
) -> Result<bool, ClientError> {
    let mut fruitful = false;
    loop {
        let first = match lines.next().await {
            Ok(Some(line)) => line,
            ended => {
                reflector.step(Answer::Ended);
                return ended.map(|_| fruitful);
            }
        };
        let mut batch = Vec::new();
        let mut line = Some(first);
        let mut ask_again = false;
        while let Some(text) = line.take().filter(|_| !ask_again) {
            if let Some(event) = parse(path, &text) {
                let step = reflector.step(Answer::Event(event));
                batch.extend(step.delta);
                ask_again = step.ask_again;
            }
            line = lines.buffered();
        }
        fruitful |= !batch.is_empty();
        send(deltas, batch).await;
        if ask_again {
            return Ok(fruitful);
        }
    }
}

/// An object that cannot be read is left out: the others must not wait for it.
fn parse<T: Object>(path: &Path, line: &[u8]) -> Option<Event<T>> {
    match Event::parse(line) {
        Ok(Event::Error { code, message }) => {
            tracing::info!(%path, code, message, "the server ended a watch");
            Some(Event::Error { code, message })
        }
        Ok(event) => Some(event),
        Err(error) => {
            tracing::error!(%path, %error, "an object cannot be read and is left out");
            None
        }
    }
}

/// A closed channel means that the agent stops; [`run`] sees it too.
async fn send<T>(deltas: &mpsc::Sender<Vec<Delta<T>>>, batch: Vec<Delta<T>>) {
    if !batch.is_empty() {
        let _ = deltas.send(batch).await;
    }
}

fn page_answer<T>(page: List<T>) -> Answer<T> {
    Answer::Page {
        items: page.items,
        revision: Revision::parse(&page.metadata.resource_version).unwrap_or_default(),
        continue_token: page.metadata.continue_token,
    }
}

fn list_path(path: &Path, continue_token: &str) -> String {
    let path = path.clone().query("limit", PAGE_LIMIT);
    if continue_token.is_empty() {
        path.to_string()
    } else {
        path.query("continue", continue_token).to_string()
    }
}

fn watch_path(path: &Path, request: &Request) -> String {
    let path = path
        .clone()
        .query("watch", "true")
        .query("allowWatchBookmarks", "true");
    match request {
        Request::Watch { from } => path.query("resourceVersion", &from.to_string()),
        _ => path
            .query("sendInitialEvents", "true")
            .query("resourceVersionMatch", "NotOlderThan"),
    }
    .to_string()
}
