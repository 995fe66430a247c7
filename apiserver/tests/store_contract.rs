//! The store's contract, one suite for every back end. The numbers are those of etcd's behaviour as Kubernetes uses it:
//! C01 revisions, C02 create, C03 compare and swap, C04 delete, C05 old revisions, C06 pages, C07 order, C08 linearizable,
//! C09 list then watch, C10 events, C11 replay, C12 compaction, C13 living keys, C14 progress, C15 TTL, C16 sizes,
//! C17 future watches, C18 many watchers.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use apiserver::store::{
    Backend, Durability, EmbeddedStore, Event, Expect, ListOptions, Operation, Outcome, Revision,
    StoreError, Watch, WatchItem, Write, engine::MemoryEngine,
};
use bytes::Bytes;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

fn put(key: &str, value: impl Into<Bytes>, expect: Expect) -> Write {
    let operation = Operation::Put {
        value: value.into(),
        ttl: None,
    };
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expect,
        operation,
    }
}

fn delete(key: &str, expect: Expect) -> Write {
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expect,
        operation: Operation::Delete,
    }
}

fn range(prefix: &str) -> Range<Bytes> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    Bytes::copy_from_slice(prefix.as_bytes())..end.into()
}

async fn commit(store: &dyn Backend, writes: Vec<Write>) -> Outcome {
    store
        .commit(writes, Durability::Strict)
        .await
        .expect("the store accepts the commit")
}

async fn committed(store: &dyn Backend, write: Write) -> Revision {
    match commit(store, vec![write]).await {
        Outcome::Committed { revision, .. } => revision,
        conflict => panic!("{conflict:?}"),
    }
}

async fn events(watch: &mut dyn Watch, count: usize) -> Vec<Event> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match timeout(DEADLINE, watch.next())
            .await
            .expect("events come in time")
            .expect("the watch goes on")
        {
            WatchItem::Events(events) => seen.extend(events.iter().map(|event| (**event).clone())),
            WatchItem::Progress(_) => {}
        }
    }
    seen
}

async fn c01_to_c04_writes(store: &dyn Backend) {
    let first = committed(store, put("/a/1", "x", Expect::Absent)).await;
    let refused = commit(store, vec![put("/a/1", "y", Expect::Absent)]).await;
    assert!(
        matches!(
            refused,
            Outcome::Conflict {
                index: 0,
                current: Some(_),
                ..
            }
        ),
        "{refused:?}"
    );
    let second = committed(store, put("/a/1", "y", Expect::Modified(first))).await;
    assert_eq!(
        second,
        Revision(first.0 + 1),
        "a refused write takes no revision"
    );
    let record = store
        .get(b"/a/1", None)
        .await
        .expect("get")
        .expect("the key is there");
    assert_eq!(
        (
            record.created,
            record.modified,
            record.version,
            &record.value[..]
        ),
        (first, second, 2, &b"y"[..])
    );
    let Outcome::Committed {
        revision: third,
        previous,
    } = commit(store, vec![delete("/a/1", Expect::Modified(second))]).await
    else {
        panic!("the delete was refused")
    };
    assert_eq!(
        (third, previous),
        (Revision(second.0 + 1), vec![Some(record)])
    );
    let again = committed(store, put("/a/1", "z", Expect::Absent)).await;
    let record = store
        .get(b"/a/1", None)
        .await
        .expect("get")
        .expect("the key is there");
    assert_eq!((record.created, record.version), (again, 1));
    // A transaction is all or nothing, at one revision.
    let both = vec![
        put("/a/2", "x", Expect::Absent),
        put("/a/1", "w", Expect::Modified(first)),
    ];
    assert!(matches!(
        commit(store, both).await,
        Outcome::Conflict { index: 1, .. }
    ));
    assert_eq!(store.get(b"/a/2", None).await.expect("get"), None);
    let both = vec![
        put("/a/2", "x", Expect::Absent),
        put("/a/1", "w", Expect::Modified(again)),
    ];
    assert!(matches!(
        commit(store, both).await,
        Outcome::Committed { .. }
    ));
    let one = store
        .get(b"/a/1", None)
        .await
        .expect("get")
        .expect("there")
        .modified;
    assert_eq!(
        one,
        store
            .get(b"/a/2", None)
            .await
            .expect("get")
            .expect("there")
            .modified
    );
}

async fn c05_to_c08_reads(store: &dyn Backend) {
    let old = committed(store, put("/g/b", "old", Expect::Absent)).await;
    committed(store, put("/g/b", "new", Expect::Any)).await;
    for key in ["/g/a", "/g/c", "/g0", "/ga", "/g"] {
        committed(store, put(key, "x", Expect::Absent)).await;
    }
    let then = store
        .get(b"/g/b", Some(old))
        .await
        .expect("get")
        .expect("there");
    assert_eq!(&then.value[..], b"old");
    let future = Revision(store.current().0 + 1);
    assert!(matches!(
        store.get(b"/g/b", Some(future)).await,
        Err(StoreError::Future { .. })
    ));
    let first = store
        .list(
            range("/g/"),
            ListOptions {
                limit: 2,
                ..ListOptions::default()
            },
        )
        .await
        .expect("list");
    assert_eq!((first.records.len(), first.remaining), (2, 1));
    // What happens between two pages is not seen by the second.
    committed(store, delete("/g/c", Expect::Any)).await;
    committed(store, put("/g/d", "x", Expect::Absent)).await;
    let from = [&first.records[1].key[..], b"\0"].concat();
    let options = ListOptions {
        at: Some(first.revision),
        from: Some(from.into()),
        limit: 2,
        ..ListOptions::default()
    };
    let second = store.list(range("/g/"), options).await.expect("list");
    let keys: Vec<_> = first
        .records
        .iter()
        .chain(&second.records)
        .map(|record| record.key.clone())
        .collect();
    assert_eq!(keys, ["/g/a", "/g/b", "/g/c"]);
    assert_eq!((second.remaining, second.revision), (0, first.revision));
}

async fn c09_to_c14_watches(store: &dyn Backend) {
    committed(store, put("/w/0", "x", Expect::Absent)).await;
    let listed = store
        .list(range("/w/"), ListOptions::default())
        .await
        .expect("list")
        .revision;
    let mut wanted = Vec::new();
    for number in 1..20 {
        wanted.push(committed(store, put(&format!("/w/{number}"), "x", Expect::Absent)).await);
        committed(store, put(&format!("/other/{number}"), "x", Expect::Absent)).await;
    }
    wanted.push(committed(store, delete("/w/0", Expect::Any)).await);
    let mut watch = store.watch(range("/w/"), listed).await.expect("watch");
    let seen = events(&mut *watch, wanted.len()).await;
    assert_eq!(
        seen.iter().map(|event| event.revision).collect::<Vec<_>>(),
        wanted
    );
    let last = seen.last().expect("events");
    assert!(
        last.current.is_none()
            && last
                .previous
                .as_ref()
                .is_some_and(|record| record.key == "/w/0")
    );
    assert!(watch.progress() >= *wanted.last().expect("revisions"));
    // Live, without a seam.
    let live = committed(store, put("/w/live", "x", Expect::Absent)).await;
    assert_eq!(events(&mut *watch, 1).await[0].revision, live);

    let compacted = Revision(live.0 - 2);
    store.compact(compacted).await.expect("compact");
    assert!(matches!(
        store.watch(range("/w/"), listed).await,
        Err(StoreError::Compacted { .. })
    ));
    assert!(matches!(
        store.get(b"/w/1", Some(listed)).await,
        Err(StoreError::Compacted { .. })
    ));
    assert!(
        store
            .get(b"/w/1", Some(compacted))
            .await
            .expect("get at the compacted revision")
            .is_some()
    );
    assert!(matches!(
        store.compact(listed).await,
        Err(StoreError::Compacted { .. })
    ));
    assert!(matches!(
        store.compact(Revision(live.0 + 100)).await,
        Err(StoreError::Future { .. })
    ));
    let living = store
        .list(range("/w/"), ListOptions::default())
        .await
        .expect("list")
        .records
        .len();
    assert_eq!(living, 20, "compaction removes no living key");
}

async fn c15_ttl(store: &dyn Backend) {
    let short = |key: &str| Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expect: Expect::Absent,
        operation: Operation::Put {
            value: "x".into(),
            ttl: Some(Duration::from_millis(50)),
        },
    };
    let mut watch = store
        .watch(range("/ttl/"), store.current())
        .await
        .expect("watch");
    commit(store, vec![short("/ttl/goes"), short("/ttl/stays")]).await;
    committed(store, put("/ttl/stays", "y", Expect::Any)).await;
    let seen = events(&mut *watch, 4).await;
    assert_eq!(
        (&seen[3].key[..], seen[3].current.is_none()),
        (&b"/ttl/goes"[..], true)
    );
    assert!(store.get(b"/ttl/stays", None).await.expect("get").is_some());
}

async fn c16_sizes(store: &dyn Backend) {
    for size in [0, 1, 24 << 10, (24 << 10) + 1, 1_400_000, 100] {
        let value = vec![7; size];
        committed(store, put("/size", value.clone(), Expect::Any)).await;
        assert_eq!(
            store
                .get(b"/size", None)
                .await
                .expect("get")
                .expect("there")
                .value,
            value
        );
    }
    let refused = store
        .commit(
            vec![put("/size", vec![0; 1_600_000], Expect::Any)],
            Durability::Strict,
        )
        .await;
    assert!(
        matches!(refused, Err(StoreError::TooLarge { .. })),
        "{refused:?}"
    );
    committed(store, put("/size", "still fine", Expect::Any)).await;
}

async fn c17_future_watch(store: &dyn Backend) {
    let future = Revision(store.current().0 + 2);
    let mut watch = store.watch(range("/f/"), future).await.expect("watch");
    let mut last = Revision(0);
    for number in 0..4 {
        last = committed(store, put(&format!("/f/{number}"), "x", Expect::Absent)).await;
    }
    let seen = events(&mut *watch, 2).await;
    assert_eq!(
        seen.iter()
            .map(|event| event.revision.0)
            .collect::<Vec<_>>(),
        [last.0 - 1, last.0]
    );
}

async fn c03_c18_concurrency(store: EmbeddedStore) {
    let base = committed(&store, put("/c/counter", "0", Expect::Absent)).await;
    let mut watchers = Vec::new();
    for _ in 0..20 {
        let mut watch = store.watch(range("/c/"), base).await.expect("watch");
        watchers.push(tokio::spawn(async move { events(&mut *watch, 33).await }));
    }
    let racers: Vec<_> = (0..32)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                committed(&store, put(&format!("/c/{number}"), "x", Expect::Absent)).await;
                commit(&store, vec![put("/c/counter", "1", Expect::Modified(base))]).await
            })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        won += usize::from(matches!(
            racer.await.expect("the racer ends"),
            Outcome::Committed { .. }
        ));
    }
    assert_eq!(won, 1, "exactly one of 32 concurrent updates wins");
    let mut sequences = BTreeSet::new();
    for watcher in watchers {
        let seen = watcher.await.expect("the watcher ends");
        assert!(seen.is_sorted_by_key(|event| event.revision));
        sequences.insert(
            seen.iter()
                .map(|event| event.key.clone())
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(sequences.len(), 1, "all watchers see the same sequence");
}

async fn all(store: EmbeddedStore) {
    c01_to_c04_writes(&store).await;
    c05_to_c08_reads(&store).await;
    c09_to_c14_watches(&store).await;
    c15_ttl(&store).await;
    c16_sizes(&store).await;
    c17_future_watch(&store).await;
    c03_c18_concurrency(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_engine_keeps_the_contract() {
    all(EmbeddedStore::with_engine(MemoryEngine::default(), None).expect("open")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sled_engine_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(dir.path()).expect("open");
    all(store.clone()).await;
    let blobs = std::fs::read_dir(dir.path().join("sled/blobs"))
        .expect("list blobs")
        .count();
    assert_eq!(blobs, 0, "sled never syncs what it moves to blobs/");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_continues_and_an_unclean_one_skips_revisions() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(dir.path()).expect("open");
    committed(&store, put("/k", vec![1; 100_000], Expect::Absent)).await;
    let current = store.current();
    assert!(matches!(
        EmbeddedStore::open(dir.path()),
        Err(StoreError::Locked { .. })
    ));
    store.close().await.expect("close");
    assert!(
        store
            .commit(vec![put("/k", "x", Expect::Any)], Durability::Strict)
            .await
            .is_err()
    );
    let store = reopen(dir.path()).await;
    assert_eq!(store.current(), current);
    let relaxed = store
        .commit(vec![put("/r", "x", Expect::Any)], Durability::Relaxed)
        .await
        .expect("commit");
    assert!(matches!(relaxed, Outcome::Committed { revision, .. } if revision > current));
    let seen = store.current();
    drop(store);
    // Dropped without `close`: the committer still writes its tail, and marks the end as clean.
    let store = reopen(dir.path()).await;
    assert_eq!(store.current(), seen);
    assert_eq!(
        store
            .get(b"/k", None)
            .await
            .expect("get")
            .expect("there")
            .value
            .len(),
        100_000
    );
    assert!(store.get(b"/r", None).await.expect("get").is_some());
}

/// The committer of a dropped store ends on its own thread, and its lock with it.
async fn reopen(dir: &std::path::Path) -> EmbeddedStore {
    let opening = async {
        loop {
            match EmbeddedStore::open(dir) {
                Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
                other => return other.expect("open"),
            }
        }
    };
    timeout(DEADLINE, opening)
        .await
        .expect("the lock is released")
}
