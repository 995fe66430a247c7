//! The embedded store on an engine or a disk that fails, and under load: what was acknowledged stays, what was refused is not
//! seen, and whoever asks gets an answer in words.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use apiserver::store::{
    Backend, Durability, EmbeddedStore, Expect, ListOptions, Operation, Outcome, Revision,
    StoreError, Watch, WatchItem, Write,
    engine::{KvEngine, MemoryEngine, Op, Visit},
};
use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

const DEADLINE: Duration = Duration::from_secs(60);

fn put_for(key: &str, value: impl Into<Bytes>, ttl: Option<Duration>) -> Write {
    let operation = Operation::Put {
        value: value.into(),
        ttl,
    };
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expect: Expect::Any,
        operation,
    }
}

fn put(key: &str, value: impl Into<Bytes>) -> Write {
    put_for(key, value, None)
}

fn all() -> Range<Bytes> {
    Bytes::from_static(b"/")..Bytes::from_static(b"0")
}

async fn commit(store: &EmbeddedStore, write: Write) -> Result<Revision, StoreError> {
    match store.commit(vec![write], Durability::Strict).await? {
        Outcome::Committed { revision, .. } => Ok(revision),
        conflict => panic!("{conflict:?}"),
    }
}

async fn value(store: &EmbeddedStore, key: &str) -> Option<Bytes> {
    let record = store.get(key.as_bytes(), None).await.expect("get");
    record.map(|record| record.value.clone())
}

/// Where the engine fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// The batch is not taken.
    Apply,
    /// The batch is taken, but not all that was taken is safe.
    Barrier,
}

/// How it tells.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Errno(i32),
    Panic,
}

/// What becomes of a batch that was taken but is not known to be safe.
#[derive(Clone, Copy, Debug)]
enum Unsafe {
    Lost,
    Kept,
}

/// A disk under a failing engine, as it will be found after a restart.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<DiskState>>);

#[derive(Default)]
struct DiskState {
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
    taken: Vec<Op>,
    fault: Option<(Point, Manner, Unsafe)>,
    calls_after_failure: usize,
    failed: bool,
}

impl Disk {
    fn fail_at(&self, point: Point, manner: Manner, fate: Unsafe) {
        self.0.lock().expect("lock").fault = Some((point, manner, fate));
    }

    /// The machine is well again; whether what was not safe has survived was decided before.
    fn mend(&self) {
        let mut disk = self.0.lock().expect("lock");
        disk.fault = None;
        disk.failed = false;
        disk.taken.clear();
    }

    fn calls_after_failure(&self) -> usize {
        self.0.lock().expect("lock").calls_after_failure
    }

    fn call(&self, point: Point, ops: Vec<Op>) -> Result<(), StoreError> {
        let mut disk = self.0.lock().expect("lock");
        disk.calls_after_failure += usize::from(disk.failed);
        disk.taken.extend(ops);
        let fault = disk.fault.filter(|(at, _, _)| *at == point);
        if fault.is_none() && point == Point::Apply {
            return Ok(());
        }
        if !matches!(fault, Some((_, _, Unsafe::Lost))) {
            for op in std::mem::take(&mut disk.taken) {
                match op {
                    Op::Put(key, value) => disk.keys.insert(key, value),
                    Op::Delete(key) => disk.keys.remove(&key),
                };
            }
        }
        let Some((_, manner, _)) = fault else {
            return Ok(());
        };
        disk.failed = true;
        drop(disk);
        match manner {
            Manner::Errno(errno) => Err(StoreError::Io {
                operation: "write",
                path: "/data".into(),
                source: io::Error::from_raw_os_error(errno),
            }),
            Manner::Panic => panic!("the engine cannot go on"),
        }
    }
}

impl KvEngine for Disk {
    fn apply(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        self.call(Point::Apply, ops)
    }

    fn barrier(&self) -> Result<(), StoreError> {
        self.call(Point::Barrier, Vec::new())
    }

    fn scan(&self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let disk = self.0.lock().expect("lock");
        disk.keys
            .iter()
            .try_for_each(|(key, value)| visit(key, value))
    }
}

const NO_SPACE: Manner = Manner::Errno(28);
const IO_ERROR: Manner = Manner::Errno(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_or_sync_loses_nothing_acknowledged_and_shows_nothing_refused() {
    for point in [Point::Apply, Point::Barrier] {
        for (manner, words) in [
            (NO_SPACE, "No space left"),
            (IO_ERROR, "Input/output error"),
            (Manner::Panic, "the engine cannot go on"),
        ] {
            for fate in [Unsafe::Lost, Unsafe::Kept] {
                println!("{point:?} {manner:?} {fate:?}");
                fail_and_restart(point, manner, fate, words).await;
            }
        }
    }
}

async fn fail_and_restart(point: Point, manner: Manner, fate: Unsafe, words: &str) {
    let disk = Disk::default();
    let store = EmbeddedStore::with_engine(disk.clone(), None).expect("open");
    let acknowledged = commit(&store, put("/kept", "safe"))
        .await
        .expect("a healthy disk");
    let mut watch = store.watch(all(), acknowledged).await.expect("watch");
    disk.fail_at(point, manner, fate);

    // Many at once: all of them are refused, with the reason, and nobody waits for ever.
    let mut writers = JoinSet::new();
    for number in 0..32 {
        let store = store.clone();
        writers.spawn(async move { commit(&store, put(&format!("/refused/{number}"), "x")).await });
    }
    writers.spawn({
        let store = store.clone();
        async move { commit(&store, put("/kept", "refused")).await }
    });
    let results = timeout(DEADLINE, writers.join_all())
        .await
        .expect("every writer gets an answer");
    for result in results {
        let error = result.expect_err("the disk has failed");
        assert!(error.to_string().contains(words), "{error}");
    }
    let failure = timeout(DEADLINE, store.failed()).await.expect("it is told");
    assert!(failure.0.contains(words), "{failure:?}");

    // Later writes are refused too; what was acknowledged can still be read, and nothing else can.
    let later = commit(&store, put("/later", "x")).await;
    let error = later.expect_err("nothing is accepted any more");
    assert!(error.to_string().contains(words), "{error}");
    assert_eq!(value(&store, "/kept").await.as_deref(), Some(&b"safe"[..]));
    let listed = store.list(all(), ListOptions::default()).await;
    let listed = listed.expect("list");
    assert_eq!((listed.records.len(), listed.revision), (1, acknowledged));
    let seen = timeout(DEADLINE, watch.next()).await.expect("it ends");
    assert!(seen.is_err(), "a refused write was seen: {seen:?}");
    // A failed flush is never tried again: the kernel has forgotten what it could not write.
    drop((store, watch));
    assert_eq!(disk.calls_after_failure(), 0);

    disk.mend();
    let store = EmbeddedStore::with_engine(disk, None).expect("open again");
    let kept = value(&store, "/kept").await;
    let kept = kept.as_deref().expect("what was acknowledged is there");
    match fate {
        Unsafe::Lost => assert_eq!(kept, b"safe"),
        // Its writer was told that nobody knows.
        Unsafe::Kept => assert!(kept == b"safe" || kept == b"refused"),
    }
    // A revision that the refused writes may have had in mind is not given out again.
    assert!(store.current() > Revision(acknowledged.0 + 33));
    let next = commit(&store, put("/later", "y"))
        .await
        .expect("it is well");
    assert!(next > acknowledged);
    assert!(matches!(
        store.watch(all(), acknowledged).await,
        Err(StoreError::Compacted { .. })
    ));
}

/// A deadlock of the engine would end this test by its deadline: sled has some, which the adapter steps around.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_never_wait_for_each_other_for_ever() {
    const WRITERS: usize = 64;
    const WRITES: usize = 40;
    let dir = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(dir.path()).expect("open");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for write in 0..WRITES {
                // Now and then a value that needs several segments.
                let size = if write % 16 == writer % 16 {
                    400_000
                } else {
                    2_000
                };
                let key = format!("/{writer}/{}", write % 8);
                let byte = u8::try_from(write).expect("small");
                commit(&store, put(&key, vec![byte; size])).await?;
            }
            Ok::<_, StoreError>(())
        });
    }
    let results = timeout(DEADLINE, writers.join_all())
        .await
        .expect("no writer waits for ever");
    results.into_iter().for_each(|result| {
        result.expect("every write is acknowledged");
    });
    timeout(DEADLINE, store.close())
        .await
        .expect("closing does not hang")
        .expect("close");
    drop(store);
    let store = EmbeddedStore::open(dir.path()).expect("open again");
    for writer in 0..WRITERS {
        for key in 0..8 {
            let last = (0..WRITES)
                .rfind(|write| write % 8 == key)
                .expect("a write");
            let value = value(&store, &format!("/{writer}/{key}")).await;
            let byte = value.and_then(|value| value.first().copied());
            assert_eq!(byte.map(usize::from), Some(last), "/{writer}/{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_goes_on_over_a_restart() {
    let engine = MemoryEngine::default();
    let open = || EmbeddedStore::with_engine(engine.clone(), None).expect("open");
    let store = open();
    let soon = Some(Duration::from_millis(300));
    for write in [
        put_for("/goes", "x", soon),
        put_for("/stays", "x", Some(Duration::from_secs(3600))),
        put_for("/renewed", "x", soon),
        put("/renewed", "for ever"),
    ] {
        commit(&store, write).await.expect("commit");
    }
    store.close().await.expect("close");
    drop(store);

    let store = open();
    let mut watch = store.watch(all(), store.current()).await.expect("watch");
    // However long the restart took: the end is an ordinary event, after it.
    let WatchItem::Events(events) = timeout(DEADLINE, watch.next())
        .await
        .expect("the key goes in time")
        .expect("the watch goes on")
    else {
        panic!("no events")
    };
    let [event] = &events[..] else {
        panic!("one key goes: {events:?}")
    };
    assert_eq!((&event.key[..], &event.current), (&b"/goes"[..], &None));
    assert_eq!(value(&store, "/goes").await, None);
    assert!(value(&store, "/stays").await.is_some());
    // The next writes come after every expiry that is due.
    commit(&store, put("/other", "x")).await.expect("commit");
    assert!(value(&store, "/renewed").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_never_reads_is_cut_and_holds_little_memory() {
    const VALUE_BYTES: usize = 1_000_000;
    const WRITES: usize = 1_500;
    const WATCHERS: usize = 20;
    let store = EmbeddedStore::with_engine(MemoryEngine::default(), None).expect("open");
    let start = store.current();
    let mut stuck = Vec::new();
    for _ in 0..WATCHERS {
        stuck.push(store.watch(all(), start).await.expect("watch"));
    }
    // Each has taken something once, so it is not only the ones that never began.
    commit(&store, put("/k", vec![0; VALUE_BYTES]))
        .await
        .expect("commit");
    let mut held = Vec::new();
    for watch in &mut stuck {
        held.push(next(watch.as_mut()).await.expect("the first event"));
    }
    let before = resident_bytes();
    let mut most = before;
    for number in 0..WRITES {
        let byte = u8::try_from(number % 256).expect("a byte");
        commit(&store, put("/k", vec![byte; VALUE_BYTES]))
            .await
            .expect("commit");
        most = most.max(resident_bytes());
    }
    let (grown, written) = (most.saturating_sub(before), WRITES * VALUE_BYTES);
    assert!(
        grown < written / 3,
        "{grown} bytes more in memory after {written} were written past stuck watchers"
    );
    for watch in &mut stuck {
        let error = next(watch.as_mut()).await.expect_err("it was cut");
        assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    }
    // One that reads late, but in time, gets its changes in pieces of bounded size.
    let mut late = store
        .watch(all(), Revision(store.current().0 - 20))
        .await
        .expect("watch");
    let WatchItem::Events(events) = next(late.as_mut()).await.expect("events") else {
        panic!("no events")
    };
    assert!((1..10).contains(&events.len()), "{} at once", events.len());
}

async fn next(watch: &mut dyn Watch) -> Result<WatchItem, StoreError> {
    timeout(DEADLINE, watch.next())
        .await
        .expect("an answer comes in time")
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: usize = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("pages");
    pages * 4096
}
