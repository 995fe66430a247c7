//! Power cuts: a run is recorded, then the disk is rebuilt as it may be after a cut at any point of it, and opened.

use std::{
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use crate::{
    Random,
    disk::{Call, Cut, Disk, Recording, Unsynced},
    number, seed,
    workload::{self, Book, DEADLINE, Engine, Life, MESSAGE_BYTES, Message},
};

const LARGEST: u64 = 600_000;

/// `STORE_CUTS` asks for more than the usual number.
#[test]
fn the_store_opens_whole_after_cuts_that_lose_everything_unsynced() {
    let cuts = number("STORE_CUTS", 120);
    let broken = cut_often(Engine::Hardened, Unsynced::Lost, cuts);
    assert!(broken.is_empty(), "{} of {cuts}: {broken:#?}", broken.len());
}

#[test]
fn the_store_opens_whole_after_cuts_that_leave_random_pages() {
    let cuts = number("STORE_CUTS", 120);
    let broken = cut_often(Engine::Hardened, Unsynced::SomePages, cuts);
    assert!(broken.is_empty(), "{} of {cuts}: {broken:#?}", broken.len());
}

/// Three of four of these cuts fall into a rewrite of the file.
#[test]
fn the_store_opens_whole_after_cuts_while_its_file_is_written_anew() {
    let cuts = number("STORE_CUTS", 80);
    for unsynced in [Unsynced::Lost, Unsynced::SomePages] {
        let broken = cut_often(Engine::Rewriting, unsynced, cuts);
        assert!(broken.is_empty(), "{} of {cuts}: {broken:#?}", broken.len());
    }
}

/// The tests above mean something: sled as its README shows it does not pass them.
#[test]
fn sled_without_the_hardening_fails_the_same_cuts() {
    for unsynced in [Unsynced::Lost, Unsynced::SomePages] {
        let broken = cut_often(Engine::Plain, unsynced, 20);
        println!("plain sled, {unsynced:?}: {broken:#?}");
        assert!(!broken.is_empty(), "{unsynced:?} found nothing");
    }
}

/// Records one run, cuts it so many times, and says what was wrong each time.
fn cut_often(engine: Engine, unsynced: Unsynced, cuts: u64) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let recording = record(dir.path(), engine);
    let mut random = Random(seed() ^ cuts << 32);
    let first = first_acknowledgement(&recording);
    let rewriting: Vec<usize> = (0..recording.calls.len())
        .filter(|call| recording.calls[*call].is_about(&["sled.copy", "sled.new", "sled.old"]))
        .collect();
    assert_eq!(rewriting.is_empty(), engine != Engine::Rewriting);
    let mut points: Vec<usize> = (0..cuts)
        .map(|cut| match cut % 4 {
            1.. if engine == Engine::Rewriting => rewriting[random.index(0..rewriting.len())] + 1,
            // sled itself promises nothing before the first flush: only the hardened store is cut while it is created.
            0 if engine != Engine::Plain => random.index(0..first),
            _ => random.index(first + 1..recording.calls.len() + 1),
        })
        .collect();
    points.sort_unstable();

    let mut broken = Vec::new();
    let mut disk = Disk::new(&recording);
    let mut book = Book::default();
    let mut done = 0;
    for point in points {
        for call in &recording.calls[done..point] {
            match call {
                Call::Write(path, _, data) if path == "ACKS" => {
                    let promised = book.take(Message::decode(recording.data(data)));
                    promised.expect("while the power was on");
                }
                call => disk.replay(call),
            }
        }
        done = point;
        let rebuilt = dir.path().join("cut");
        let cut = Cut {
            unsynced,
            // Plain sled syncs no directory at all: without this, all of its files would be gone at every cut.
            names_survive: engine == Engine::Plain,
        };
        disk.write(cut, &mut random, &rebuilt);
        if let Err(what) = check(rebuilt.join("store"), book.clone(), engine) {
            broken.push(format!("cut at call {point}: {what}"));
        }
        // A store that hangs keeps its files open; they go with the directory.
        let _ = fs::rename(&rebuilt, dir.path().join(format!("done-{point}")));
        let _ = fs::remove_dir_all(dir.path().join(format!("done-{point}")));
    }
    println!(
        "{unsynced:?}: {cuts} cuts in {} calls, {} commits acknowledged, {} broken",
        recording.calls.len(),
        book.acknowledged,
        broken.len()
    );
    broken
}

fn first_acknowledgement(recording: &Recording) -> usize {
    let acknowledged = |call: &Call| {
        matches!(call, Call::Write(path, _, data) if path == "ACKS"
            && matches!(Message::decode(recording.data(data)), Message::Acknowledged { .. }))
    };
    let first = recording.calls.iter().position(acknowledged);
    first.expect("an acknowledgement")
}

/// Three lives: killed, closed cleanly, killed; each goes on with the files of the one before.
fn record(dir: &Path, engine: Engine) -> Recording {
    let recorder = build_recorder(dir);
    let root = dir.join("recorded");
    fs::create_dir(&root).expect("a directory");
    let log = dir.join("log");
    let mut book = Book::default();
    let mut taken = 0;
    for close in [false, true, false] {
        let life = Life {
            dir: root.join("store"),
            engine,
            writes: 40,
            close,
            largest: LARGEST,
            seed: seed() + taken,
        };
        let acks = root.join("ACKS");
        let input = fs::File::options().create(true).append(true).open(&acks);
        let mut child = life
            .command(&book)
            .env("LD_PRELOAD", &recorder)
            .env("RECORD_ROOT", &root)
            .env("RECORD_LOG", &log)
            .stdin(Stdio::from(input.expect("a file for the messages")))
            .spawn()
            .expect("a child");
        let status = child.wait().expect("the child's end");
        assert!(close == status.success(), "the child failed: {status}");
        let messages = fs::read(&acks).expect("messages");
        for message in messages
            .chunks_exact(MESSAGE_BYTES)
            .skip(usize::try_from(taken).expect("a count"))
        {
            let promised = book.take(Message::decode(message));
            promised.expect("a killed process loses nothing");
            taken += 1;
        }
    }
    Recording::read(&log, &root)
}

fn build_recorder(dir: &Path) -> PathBuf {
    let library = dir.join("recorder.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store_crash/recorder.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .arg(source)
        .status()
        .expect("a C compiler, for the recorder of writes");
    assert!(built.success(), "the recorder does not compile");
    library
}

/// Opens a rebuilt store on a thread of its own: a damaged sled may panic, or never return.
fn check(dir: PathBuf, book: Book, engine: Engine) -> Result<(), String> {
    let (verdict, verdicts) = mpsc::channel();
    thread::spawn(move || {
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let store =
                    workload::open(&dir, engine).map_err(|error| format!("open: {error}"))?;
                workload::check(&store, book, LARGEST).await?;
                store.close().await.map_err(|error| error.to_string())
            })
        }));
        let _ = verdict.send(outcome.unwrap_or_else(|_| Err("it panicked".to_owned())));
    });
    verdicts
        .recv_timeout(DEADLINE)
        .unwrap_or_else(|_| Err("it hangs".to_owned()))
}
