//! A container's log on its way to the server.

use std::{io, sync::Arc, time::Duration};

use api::tunnel::Logs;
use jiff::Timestamp;
use runtime::logs::{Filter, OutputStream, Reader};
use tokio::task::spawn_blocking;

use super::{
    Node, Refusal,
    body::{Outbound, Sender},
    follow::Follow,
};

/// How much is read before it is sent.
const BATCH_BYTES: usize = 128 << 10;

pub(super) async fn serve(node: &Arc<Node>, wanted: Logs) -> Result<Outbound, Refusal> {
    let node = Arc::clone(node);
    let (reader, filter, follow) = spawn_blocking(move || open(&node, &wanted))
        .await
        .expect("reading a log does not panic")?;
    let (sender, body) = Outbound::new();
    tokio::spawn(pump(reader, filter, follow, sender));
    Ok(body)
}

fn open(node: &Node, wanted: &Logs) -> Result<(Reader, Filter, Option<Follow>), Refusal> {
    let pod = &wanted.pod;
    let not_here = || {
        let what = format!("the log of container {}", wanted.container);
        Refusal::not_here(&what, pod, &node.name)
    };
    let names = (&*pod.namespace, &*pod.name, &*pod.uid);
    let dir = node.runtime.container_logs(names, &wanted.container);
    let dir = dir.filter(|dir| dir.is_dir()).ok_or_else(not_here)?;
    // First the watch, then the look: nothing is written unseen in between.
    let follow = if wanted.follow {
        let pod = node.runtime.pod(&pod.uid).ok();
        let follow = Follow::new(&dir, pod.as_ref(), &wanted.container, wanted.attempt);
        Some(follow?)
    } else {
        None
    };
    let mut reader = match Reader::open(&dir, wanted.attempt) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_here()),
        other => other?,
    };
    if let Some(records) = wanted.tail_lines {
        reader.seek_tail(records)?;
    }
    Ok((reader, filter(wanted), follow))
}

fn filter(wanted: &Logs) -> Filter {
    let ago = wanted
        .since_seconds
        .and_then(|secs| u64::try_from(secs).ok());
    let ago = ago.and_then(|secs| Timestamp::now().checked_sub(Duration::from_secs(secs)).ok());
    let limit = wanted.limit_bytes;
    Filter {
        timestamps: wanted.timestamps,
        since: wanted.since_time.map(|time| time.timestamp()).or(ago),
        stream: match wanted.stream.as_deref() {
            Some("stdout") => Some(OutputStream::Stdout),
            Some("stderr") => Some(OutputStream::Stderr),
            _ => None,
        },
        left_bytes: limit.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        ..Filter::default()
    }
}

/// Sends what is there, and what comes, until the container has ended or nobody reads any more.
async fn pump(mut reader: Reader, mut filter: Filter, follow: Option<Follow>, to: Sender) {
    let mut follow = follow;
    loop {
        let read = spawn_blocking(move || {
            let batch = batch(&mut reader, &mut filter);
            (reader, filter, batch)
        });
        let (batch, at_end);
        (reader, filter, batch) = read.await.expect("reading a log does not panic");
        match batch {
            Ok((text, end)) => {
                at_end = end;
                if !text.is_empty() && to.send(Ok(text.into())).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let _ = to.send(Err(error)).await;
                return;
            }
        }
        if filter.is_full() {
            return;
        }
        if !at_end {
            continue;
        }
        let Some(following) = &mut follow else { return };
        let goes_on = tokio::select! {
            goes_on = following.changed() => goes_on,
            () = to.closed() => return,
        };
        if !goes_on {
            // What was written before the container's end became known is still to be read.
            follow = None;
        }
    }
}

/// Some of what is there, and whether that was all.
fn batch(reader: &mut Reader, filter: &mut Filter) -> io::Result<(Vec<u8>, bool)> {
    let (mut records, mut text) = (Vec::new(), Vec::new());
    while text.len() < BATCH_BYTES {
        records.clear();
        if !reader.read(&mut records)? {
            return Ok((text, true));
        }
        filter.show(&records, &mut text);
        if filter.is_full() {
            break;
        }
    }
    Ok((text, false))
}
