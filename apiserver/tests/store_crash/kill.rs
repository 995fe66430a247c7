//! kill -9, again and again, at any moment: while opening, while writing, between two writes.

use std::{
    io::{PipeReader, Read as _},
    path::Path,
    process::Stdio,
};

use crate::{
    Random, number, seed,
    workload::{Book, Engine, Life, MESSAGE_BYTES, Message},
};

const LARGEST: u64 = 200_000;

/// `STORE_KILLS` asks for more than the usual hundred.
#[test]
fn a_hundred_kills_lose_nothing_that_was_acknowledged() {
    kill_often(Engine::Hardened, number("STORE_KILLS", 100));
}

#[test]
fn kills_while_the_file_is_written_anew_lose_nothing() {
    kill_often(Engine::Rewriting, number("STORE_KILLS", 60));
}

fn kill_often(engine: Engine, kills: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = Random(seed());
    let mut book = Book::default();
    for kill in 0..kills {
        // Counted in messages, not in time: half of them fall into the opening and the first writes.
        let after = random.below(if kill % 2 == 0 { 60 } else { 600 });
        live(dir.path(), engine, &mut book, Some(after), random.next());
        if kill % 10 == 9 {
            live(dir.path(), engine, &mut book, None, random.next());
        }
    }
    println!("{kills} kills, {} commits acknowledged", book.acknowledged);
    assert!(
        book.acknowledged > kills,
        "the writers were killed before they wrote anything"
    );
}

/// One life: killed after so many messages, or ended by its own clean stop.
fn live(dir: &Path, engine: Engine, book: &mut Book, kill_after: Option<u64>, seed: u64) {
    let life = Life {
        dir: dir.join("store"),
        engine,
        writes: if kill_after.is_some() { 1 << 32 } else { 3 },
        close: kill_after.is_none(),
        largest: LARGEST,
        seed,
    };
    let (mut messages, input) = std::io::pipe().expect("a pipe");
    let mut child = {
        let mut command = life.command(book);
        command.stdin(Stdio::from(input));
        command.spawn().expect("a child")
    };
    let mut closed = false;
    for count in 0_u64.. {
        if kill_after == Some(count) {
            child.kill().expect("the child was running");
        }
        let Some(message) = receive(&mut messages) else {
            break;
        };
        closed |= message == Message::Closed;
        book.take(message)
            .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
    let status = child.wait().expect("the child's end");
    assert!(
        closed || kill_after.is_some() && !status.success(),
        "the child ended by itself: {status}"
    );
    assert!(
        closed || std::os::unix::process::ExitStatusExt::signal(&status) == Some(9),
        "the child failed: {status}"
    );
}

fn receive(messages: &mut PipeReader) -> Option<Message> {
    let mut bytes = [0; MESSAGE_BYTES];
    messages
        .read_exact(&mut bytes)
        .is_ok()
        .then(|| Message::decode(&bytes))
}
