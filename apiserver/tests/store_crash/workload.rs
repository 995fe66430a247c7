//! The process that is killed, and the book kept of what it was promised.
//!
//! Each writer owns its keys and counts their writes. A write is a transaction over two keys that must never disagree;
//! every fifth one deletes both. Before a commit the child says `Begin`, after it `Acknowledged`, and for each event of its
//! watch `Event`; after opening it says what it found (`Found`, for every key) and goes on from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Write as _,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use apiserver::store::{
    Backend, Durability, EmbeddedStore, Expect, ListOptions, Operation, Outcome, Revision,
    StoreError, Watch, WatchItem, Write,
    engine::{Growth, KvEngine, Op, SledEngine, Visit},
};
use bytes::Bytes;

use crate::{Random, number};

const WRITERS: u64 = 4;
const KEYS_PER_WRITER: u64 = 6;
pub(crate) const MESSAGE_BYTES: usize = 32;

/// What the child says: a kind and three numbers, one `write` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The store was opened at this revision.
    Opened { revision: u64 },
    /// After opening, a key was at this count; `None` is absent.
    Found { key: u64, count: Option<u64> },
    /// Every key has been reported.
    AllFound,
    /// A commit is about to be sent.
    Begin { key: u64, count: u64 },
    /// It was acknowledged; revision 0 when it had nothing to change.
    Acknowledged { key: u64, count: u64, revision: u64 },
    /// A relaxed commit was acknowledged: it may be lost, its revision may not return.
    Relaxed { revision: u64 },
    /// A watcher saw this revision.
    Event { revision: u64 },
    /// The watch of an earlier life was refused: it begins again after a list at this revision.
    Compacted { revision: u64 },
    /// The watch of an earlier life goes on.
    Resumed,
    /// The store was closed cleanly.
    Closed,
    /// Asks the recorder to kill this process.
    Kill,
}

impl Message {
    pub(crate) fn encode(self) -> [u8; MESSAGE_BYTES] {
        let numbers = match self {
            Self::Opened { revision } => [b'O'.into(), revision, 0, 0],
            Self::Found { key, count } => [b'F'.into(), key, count.map_or(0, |n| n + 1), 0],
            Self::AllFound => [b'D'.into(), 0, 0, 0],
            Self::Begin { key, count } => [b'B'.into(), key, count, 0],
            Self::Acknowledged {
                key,
                count,
                revision,
            } => [b'A'.into(), key, count, revision],
            Self::Relaxed { revision } => [b'L'.into(), revision, 0, 0],
            Self::Event { revision } => [b'E'.into(), revision, 0, 0],
            Self::Compacted { revision } => [b'C'.into(), revision, 0, 0],
            Self::Resumed => [b'R'.into(), 0, 0, 0],
            Self::Closed => [b'Q'.into(), 0, 0, 0],
            Self::Kill => [b'K'.into(), 0, 0, 0],
        };
        let mut bytes = [0; MESSAGE_BYTES];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let at = |place: usize| {
            u64::from_le_bytes(bytes[place * 8..][..8].try_into().expect("eight bytes"))
        };
        match u8::try_from(at(0)).expect("a kind") {
            b'O' => Self::Opened { revision: at(1) },
            b'F' => Self::Found {
                key: at(1),
                count: at(2).checked_sub(1),
            },
            b'D' => Self::AllFound,
            b'B' => Self::Begin {
                key: at(1),
                count: at(2),
            },
            b'A' => Self::Acknowledged {
                key: at(1),
                count: at(2),
                revision: at(3),
            },
            b'L' => Self::Relaxed { revision: at(1) },
            b'E' => Self::Event { revision: at(1) },
            b'C' => Self::Compacted { revision: at(1) },
            b'R' => Self::Resumed,
            b'Q' => Self::Closed,
            b'K' => Self::Kill,
            kind => panic!("unknown message {kind}"),
        }
    }
}

/// What is known of one key: the last count that was confirmed, and those begun since.
#[derive(Clone, Debug, Default)]
struct Known {
    confirmed: Option<u64>,
    begun: Vec<u64>,
}

/// What the store has promised so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    keys: BTreeMap<u64, Known>,
    /// The highest revision anyone has seen.
    pub(crate) highest: u64,
    /// The highest revision that the watcher has seen.
    pub(crate) watched: u64,
    /// Since its last list it has seen these revisions, and has still to see those.
    listed: u64,
    seen: BTreeSet<u64>,
    unseen: BTreeSet<u64>,
    pub(crate) acknowledged: u64,
}

impl Book {
    /// Takes a message in; an error is a broken promise.
    pub(crate) fn take(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Opened { revision } if revision < self.highest => {
                return Err(format!(
                    "opened at {revision}, but {} was seen",
                    self.highest
                ));
            }
            Message::Opened { revision } => self.highest = revision,
            Message::Found { key, count } => self.found(key, count)?,
            Message::Begin { key, count } => self.keys.entry(key).or_default().begun.push(count),
            Message::Acknowledged {
                key,
                count,
                revision,
            } => {
                self.keys.insert(
                    key,
                    Known {
                        confirmed: Some(count),
                        begun: Vec::new(),
                    },
                );
                self.highest = self.highest.max(revision);
                self.acknowledged += 1;
                if revision > self.listed && !self.seen.contains(&revision) {
                    self.unseen.insert(revision);
                }
                self.nothing_missed()?;
            }
            Message::Relaxed { revision } => self.highest = self.highest.max(revision),
            Message::Event { revision } => self.event(revision)?,
            Message::Compacted { revision } => {
                (self.listed, self.watched) = (revision, revision);
                self.seen.clear();
                self.unseen.clear();
            }
            Message::AllFound | Message::Resumed | Message::Closed | Message::Kill => {}
        }
        Ok(())
    }

    fn found(&mut self, key: u64, count: Option<u64>) -> Result<(), String> {
        let known = self.keys.entry(key).or_default();
        let possible: Vec<Option<u64>> = known
            .begun
            .iter()
            .map(|count| Some(*count))
            .chain([known.confirmed])
            .filter(|possible| possible.filter(|count| !deletes(*count)) == count)
            .collect();
        match possible.first() {
            None => Err(format!(
                "key {key}: found {count:?}, wanted one of {known:?}"
            )),
            Some(settled) => {
                *known = Known {
                    confirmed: *settled,
                    begun: Vec::new(),
                };
                Ok(())
            }
        }
    }

    /// The watcher sees every revision once and in order, so nothing acknowledged below it may be unseen.
    fn event(&mut self, revision: u64) -> Result<(), String> {
        if revision <= self.watched {
            return Err(format!("event {revision} after {}", self.watched));
        }
        self.watched = revision;
        self.highest = self.highest.max(revision);
        self.seen.insert(revision);
        self.unseen.remove(&revision);
        self.nothing_missed()
    }

    fn nothing_missed(&self) -> Result<(), String> {
        match self.unseen.first() {
            Some(missed) if *missed < self.watched => Err(format!(
                "the watch reached {} and missed {missed}",
                self.watched
            )),
            _ => Ok(()),
        }
    }

    fn next_count(&self, key: u64) -> u64 {
        self.keys.get(&key).map_or(1, |known| {
            known
                .begun
                .iter()
                .copied()
                .chain(known.confirmed)
                .max()
                .unwrap_or(0)
                + 1
        })
    }

    /// The counts at which a child continues, as an argument for it.
    pub(crate) fn counts(&self) -> String {
        let counts: Vec<_> = (0..WRITERS * KEYS_PER_WRITER)
            .map(|key| self.next_count(key).to_string())
            .collect();
        counts.join(",")
    }
}

fn deletes(count: u64) -> bool {
    count.is_multiple_of(5)
}

fn key(key: u64, half: char) -> Bytes {
    format!("/registry/pods/default/{key:03}/{half}").into()
}

/// Half text, half noise, of a size and content that follow from key and count.
fn value(key: u64, count: u64, largest: u64) -> Bytes {
    let mut random = Random(key << 32 | count);
    let size = match random.below(16) {
        0 => 20_000 + random.below(largest.saturating_sub(20_000)),
        _ => 2_000 + random.below(18_000),
    };
    let mut bytes = [key.to_le_bytes(), count.to_le_bytes()].concat();
    while bytes.len() < usize::try_from(size).expect("a size") {
        bytes.extend_from_slice(&random.next().to_le_bytes());
        bytes.extend_from_slice(b"app=MyApp");
    }
    bytes.into()
}

/// Reads every key back: bit-exact, and both halves alike.
pub(crate) async fn read_back(store: &EmbeddedStore, largest: u64) -> Result<Vec<Message>, String> {
    let mut found = vec![Message::Opened {
        revision: store.current().0,
    }];
    for number in 0..WRITERS * KEYS_PER_WRITER {
        let mut halves = Vec::new();
        for half in ['a', 'b'] {
            let record = store.get(&key(number, half), None).await;
            let record = record.map_err(|error| error.to_string())?;
            halves.push(record.map(|record| record.value.clone()));
        }
        if halves[0] != halves[1] {
            return Err(format!("key {number}: half a transaction"));
        }
        let count = halves[0]
            .as_ref()
            .map(|bytes| u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")));
        if halves[0] != count.map(|count| value(number, count, largest)) {
            return Err(format!(
                "key {number}: the value of count {count:?} is damaged"
            ));
        }
        found.push(Message::Found { key: number, count });
    }
    found.push(Message::AllFound);
    Ok(found)
}

/// A rebuilt store, opened: must agree with the book, go on above every revision seen, and not resume a lost history.
pub(crate) async fn check(
    store: &EmbeddedStore,
    mut book: Book,
    largest: u64,
) -> Result<(), String> {
    let seen = book.highest;
    for message in read_back(store, largest).await? {
        book.take(message)?;
    }
    match store.watch(everything(), Revision(book.watched)).await {
        Err(StoreError::Compacted { .. }) => {}
        Ok(_) if store.current().0 == book.watched => {}
        other => {
            return Err(format!(
                "a watch from {} gave {:?}",
                book.watched,
                other.map(|_| ())
            ));
        }
    }
    let write = Write {
        key: Bytes::from_static(b"/after"),
        expect: Expect::Any,
        operation: Operation::Put {
            value: Bytes::from_static(b"the cut"),
            ttl: None,
        },
    };
    match store.commit(vec![write], Durability::Strict).await {
        Ok(Outcome::Committed { revision, .. }) if revision.0 > seen => Ok(()),
        other => Err(format!("after {seen} a write gave {other:?}")),
    }
}

fn everything() -> std::ops::Range<Bytes> {
    Bytes::from_static(b"/registry/")..Bytes::from_static(b"/registry0")
}

/// How a child runs.
/// What keeps the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// sled as its README shows it.
    Plain,
    /// The product's.
    Hardened,
    /// The product's, which takes its file to have grown too large at every start.
    Rewriting,
}

impl Engine {
    fn number(self) -> u64 {
        match self {
            Self::Plain => 0,
            Self::Hardened => 1,
            Self::Rewriting => 2,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) dir: PathBuf,
    pub(crate) engine: Engine,
    /// Transactions per writer before the end.
    pub(crate) writes: u64,
    /// End with `close`, else by asking to be killed.
    pub(crate) close: bool,
    pub(crate) largest: u64,
    pub(crate) seed: u64,
}

impl Life {
    /// The command that lives it; its standard input takes the messages.
    pub(crate) fn command(&self, book: &Book) -> Command {
        let executable = std::env::current_exe().expect("the path of this test");
        let mut command = Command::new(executable);
        command
            .args(["--ignored", "--exact", "workload::child", "--nocapture"])
            .env("STORE_CHILD_DIR", &self.dir)
            .env("STORE_CHILD_ENGINE", self.engine.number().to_string())
            .env("STORE_CHILD_WRITES", self.writes.to_string())
            .env("STORE_CHILD_CLOSE", u64::from(self.close).to_string())
            .env("STORE_CHILD_LARGEST", self.largest.to_string())
            .env("STORE_CHILD_SEED", self.seed.to_string())
            .env("STORE_CHILD_COUNTS", book.counts())
            .env("STORE_CHILD_WATCHED", book.watched.to_string())
            .stdout(std::process::Stdio::null());
        command
    }

    fn from_environment() -> Self {
        let text = std::env::var_os("STORE_CHILD_DIR").expect("run by the tests of this file");
        Self {
            dir: PathBuf::from(text),
            engine: match number("STORE_CHILD_ENGINE", 1) {
                0 => Engine::Plain,
                1 => Engine::Hardened,
                _ => Engine::Rewriting,
            },
            writes: number("STORE_CHILD_WRITES", 0),
            close: number("STORE_CHILD_CLOSE", 0) == 1,
            largest: number("STORE_CHILD_LARGEST", 0),
            seed: number("STORE_CHILD_SEED", 0),
        }
    }
}

/// Opens the store with the engine asked for.
pub(crate) fn open(dir: &Path, engine: Engine) -> Result<EmbeddedStore, StoreError> {
    match engine {
        Engine::Plain => EmbeddedStore::with_engine(PlainSled::open(dir), None),
        Engine::Hardened => EmbeddedStore::open(dir),
        Engine::Rewriting => {
            let always = Growth {
                file_bytes: 0,
                times_live: 0,
            };
            let engine = SledEngine::open_with(dir, always)?;
            EmbeddedStore::with_engine(engine, Some(dir.to_owned()))
        }
    }
}

/// sled as its README shows it: default options, `flush` and nothing else. Here to show that the tests would notice.
struct PlainSled(sled::Db);

impl PlainSled {
    fn open(dir: &Path) -> Self {
        Self(sled::open(dir.join("sled")).expect("sled opens"))
    }
}

impl KvEngine for PlainSled {
    fn apply(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.insert(key, value),
                Op::Delete(key) => batch.remove(key),
            }
        }
        self.0.apply_batch(batch).expect("sled applies");
        Ok(())
    }

    fn barrier(&self) -> Result<(), StoreError> {
        self.0.flush().expect("sled flushes");
        Ok(())
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for entry in self.0.iter() {
            let (key, value) = entry.expect("sled reads");
            visit(&key, &value)?;
        }
        Ok(())
    }
}

type Reporter = Arc<Mutex<File>>;

fn report(to: &Reporter, message: Message) {
    let mut file = to.lock().expect("no reporter panics");
    file.write_all(&message.encode())
        .expect("the parent listens");
}

#[test]
#[ignore = "the entry of the processes that the other tests start and kill"]
fn child() {
    let life = Life::from_environment();
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let reporter = Arc::new(Mutex::new(File::from(input.expect("standard input"))));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(live(life, reporter));
}

async fn live(life: Life, reporter: Reporter) {
    let store = open(&life.dir, life.engine).expect("the store opens");
    for message in read_back(&store, life.largest)
        .await
        .expect("the store is whole")
    {
        report(&reporter, message);
    }
    let watch = resume_watch(&store, &reporter).await;
    let watching = tokio::spawn(follow(watch, Arc::clone(&reporter)));
    let counts = std::env::var("STORE_CHILD_COUNTS").expect("counts");
    let counts: Vec<u64> = counts
        .split(',')
        .map(|n| n.parse().expect("a count"))
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let counts =
                counts[usize::try_from(writer * KEYS_PER_WRITER).expect("small")..].to_vec();
            let random = Random(life.seed ^ writer << 48);
            tokio::spawn(write(
                store.clone(),
                Arc::clone(&reporter),
                (writer, life.writes, life.largest),
                counts,
                random,
            ))
        })
        .collect();
    for writer in writers {
        writer.await.expect("the writer ends");
    }
    watching.abort();
    if life.close {
        store.close().await.expect("the store closes");
        report(&reporter, Message::Closed);
    } else {
        report(&reporter, Message::Kill);
        std::future::pending::<()>().await;
    }
}

async fn write(
    store: EmbeddedStore,
    reporter: Reporter,
    (writer, writes, largest): (u64, u64, u64),
    mut counts: Vec<u64>,
    mut random: Random,
) {
    for _ in 0..writes {
        let own = random.below(KEYS_PER_WRITER);
        let number = writer * KEYS_PER_WRITER + own;
        let next = &mut counts[usize::try_from(own).expect("small")];
        let count = *next;
        *next += 1;
        report(&reporter, Message::Begin { key: number, count });
        let operation = |count| match deletes(count) {
            true => Operation::Delete,
            false => Operation::Put {
                value: value(number, count, largest),
                ttl: None,
            },
        };
        let transaction = ['a', 'b'].map(|half| Write {
            key: key(number, half),
            expect: Expect::Any,
            operation: operation(count),
        });
        let revision = committed(&store, transaction.into(), Durability::Strict).await;
        report(
            &reporter,
            Message::Acknowledged {
                key: number,
                count,
                revision,
            },
        );
        if random.below(4) == 0 {
            let renewal = Write {
                key: format!("/registry/leases/{writer}").into(),
                expect: Expect::Any,
                operation: Operation::Put {
                    value: count.to_string().into(),
                    ttl: None,
                },
            };
            let revision = committed(&store, vec![renewal], Durability::Relaxed).await;
            report(&reporter, Message::Relaxed { revision });
        }
    }
}

async fn committed(store: &EmbeddedStore, writes: Vec<Write>, durability: Durability) -> u64 {
    let deleting = writes
        .iter()
        .all(|write| write.operation == Operation::Delete);
    match store.commit(writes, durability).await {
        Ok(Outcome::Committed { previous, .. })
            if deleting && previous.iter().all(Option::is_none) =>
        {
            0
        }
        Ok(Outcome::Committed { revision, .. }) => revision.0,
        other => panic!("a write without conditions gave {other:?}"),
    }
}

/// Goes on where the watcher of the last life stopped, or as a client does when that history is gone: list, then watch.
async fn resume_watch(store: &EmbeddedStore, reporter: &Reporter) -> Box<dyn Watch> {
    let last = Revision(number("STORE_CHILD_WATCHED", 0));
    if let Ok(watch) = store.watch(everything(), last).await {
        report(reporter, Message::Resumed);
        return watch;
    }
    let listed = store.list(everything(), ListOptions::default()).await;
    let listed = listed.expect("a list").revision;
    report(reporter, Message::Compacted { revision: listed.0 });
    let watch = store.watch(everything(), listed).await;
    watch.expect("a watch from the list's revision")
}

async fn follow(mut watch: Box<dyn Watch>, reporter: Reporter) {
    let mut last = 0;
    loop {
        match watch.next().await {
            Ok(WatchItem::Events(events)) => {
                for event in events {
                    // The two halves of a transaction share a revision.
                    if event.revision.0 != last {
                        last = event.revision.0;
                        report(&reporter, Message::Event { revision: last });
                    }
                }
            }
            Ok(WatchItem::Progress(_)) => {}
            Err(error) => panic!("the watch ended: {error}"),
        }
    }
}

/// How long a child or an opening may take before it counts as hung.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
