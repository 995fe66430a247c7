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
    while !deltas.is_closed() {
        match ask(&client, &path, &mut reflector, &deltas, &mut backoff).await {
            Ok(()) => {}
            Err(error) => {
                let delay = backoff.fail();
                tracing::warn!(%path, %error, delay_ms = delay.as_millis() as u64, "watch failed; trying again");
                sleep(delay).await;
            }
        }
    }
}

async fn ask<T: Object>(
    client: &Client,
    path: &Path,
    reflector: &mut Reflector<T>,
    deltas: &mpsc::Sender<Vec<Delta<T>>>,
    backoff: &mut Backoff,
) -> Result<(), ClientError> {
    match reflector.request() {
        Request::List { continue_token } => {
            match client.list(&list_path(path, &continue_token)).await {
                Ok(page) => {
                    backoff.reset();
                    let delta = reflector.step(page_answer(page)).delta;
                    send(deltas, delta.into_iter().collect()).await;
                    Ok(())
                }
                Err(error) if error.is_gone() => {
                    reflector.step(Answer::Gone);
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
        request => match client.watch(&watch_path(path, &request)).await {
            Ok(lines) => follow(path, reflector, lines, deltas, backoff).await,
            Err(error) if error.is_gone() => {
                reflector.step(Answer::Gone);
                Ok(())
            }
            Err(error) if error.is_unprocessable() && request == Request::Stream => {
                reflector.step(Answer::NoStream);
                Ok(())
            }
            Err(error) => Err(error),
        },
    }
}

/// Reads a watch to its end, handing on everything that arrived together as one batch.
async fn follow<T: Object>(
    path: &Path,
    reflector: &mut Reflector<T>,
    mut lines: WatchLines,
    deltas: &mpsc::Sender<Vec<Delta<T>>>,
    backoff: &mut Backoff,
) -> Result<(), ClientError> {
    loop {
        let next = match lines.next().await {
            Ok(Some(line)) => line,
            ended => {
                reflector.step(Answer::Ended);
                return ended.map(drop);
            }
        };
        let mut batch = Vec::new();
        let mut line = Some(next);
        let mut ask_again = false;
        while let Some(text) = line.take().filter(|_| !ask_again) {
            let event = Event::parse(&text).map_err(|source| ClientError::Json {
                path: path.to_string(),
                source,
            })?;
            if let Event::Error { code, message } = &event {
                tracing::info!(%path, code, message, "the server ended a watch");
            }
            let step = reflector.step(Answer::Event(event));
            batch.extend(step.delta);
            ask_again = step.ask_again;
            line = lines.buffered();
        }
        if !batch.is_empty() {
            backoff.reset();
        }
        send(deltas, batch).await;
        if ask_again {
            return Ok(());
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
