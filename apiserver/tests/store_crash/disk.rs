//! A disk rebuilt from a recording (`recorder.c`), as it may look after the power was cut at some point of it.
//!
//! The rules are POSIX's, not a file system's: a file's content and size are safe once a sync that began after them has
//! returned, a name once its directory was synced. Everything else is lost, or survives in part and in any order.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Range,
    path::Path,
};

use crate::Random;

const PAGE: usize = 4096;

/// One recorded call. Paths are relative to the recorded root.
#[derive(Debug)]
pub(crate) enum Call {
    Create(String),
    Mkdir(String),
    Truncate(String, usize),
    /// Path, offset, and where in the recording the bytes are.
    Write(String, usize, Range<usize>),
    Rename(String, String),
    Unlink(String),
    SyncBegin(String, u64),
    SyncEnd(u64),
}

impl Call {
    /// Whether it changes, names or syncs something below one of these directories of the store.
    pub(crate) fn is_about(&self, directories: &[&str]) -> bool {
        let (Self::Create(path)
        | Self::Mkdir(path)
        | Self::Truncate(path, _)
        | Self::Write(path, ..)
        | Self::Rename(path, _)
        | Self::Unlink(path)
        | Self::SyncBegin(path, _)) = self
        else {
            return false;
        };
        let mut names = path.split('/').skip(1);
        names.any(|name| directories.contains(&name))
    }
}

/// Everything one or more processes did, in order.
pub(crate) struct Recording {
    bytes: Vec<u8>,
    pub(crate) calls: Vec<Call>,
}

impl Recording {
    pub(crate) fn read(log: &Path, root: &Path) -> Self {
        let bytes = fs::read(log).expect("the recording");
        let root = root.to_str().expect("a UTF-8 path");
        let mut calls = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let head: Vec<u64> = bytes[at..at + 32]
                .chunks_exact(8)
                .map(|number| u64::from_le_bytes(number.try_into().expect("eight bytes")))
                .collect();
            let [path_len, data_len] =
                [head[2], head[3]].map(|n| usize::try_from(n).expect("a length"));
            let data = at + 32 + path_len..at + 32 + path_len + data_len;
            let relative = |range: Range<usize>| {
                let path = std::str::from_utf8(&bytes[range]).expect("a UTF-8 path");
                path[root.len()..].trim_start_matches('/').to_owned()
            };
            let path = relative(at + 32..data.start);
            at = data.end;
            let number = usize::try_from(head[1]).expect("a number");
            calls.push(match u8::try_from(head[0]).expect("a kind") {
                b'c' => Call::Create(path),
                b'd' => Call::Mkdir(path),
                b't' => Call::Truncate(path, number),
                b'w' => Call::Write(path, number, data),
                b'r' => Call::Rename(path, relative(data)),
                b'u' => Call::Unlink(path),
                b'b' => Call::SyncBegin(path, head[1]),
                b'e' => Call::SyncEnd(head[1]),
                kind => panic!("unknown record {kind}"),
            });
        }
        Self { bytes, calls }
    }

    pub(crate) fn data(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }
}

/// What survives of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// Nothing.
    Lost,
    /// Of each directory the first so many changes; of each file's size likewise; of each page of 4 KiB the first so many
    /// writes, each number at random.
    SomePages,
}

/// What a cut leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) unsynced: Unsynced,
    /// Every name survives, as if the file system's journal had just been committed.
    pub(crate) names_survive: bool,
}

type Id = usize;

enum Node {
    File {
        durable: Vec<u8>,
        pending: Vec<FileChange>,
    },
    Directory {
        now: BTreeMap<String, Id>,
        durable: BTreeMap<String, Id>,
        pending: Vec<NameChange>,
    },
}

#[derive(Clone)]
enum FileChange {
    Size(usize),
    Write(usize, Range<usize>),
}

#[derive(Clone)]
enum NameChange {
    Link(String, Id),
    Unlink(String),
    Rename(String, String),
}

/// The files as the processes see them, and as much of them as is safe.
pub(crate) struct Disk<'a> {
    recording: &'a Recording,
    nodes: Vec<Node>,
    /// A sync that has begun: its node, and how many of its changes it covers.
    syncing: HashMap<u64, (Id, usize)>,
}

const ROOT: Id = 0;

impl<'a> Disk<'a> {
    /// An empty directory.
    pub(crate) fn new(recording: &'a Recording) -> Self {
        Self {
            recording,
            nodes: vec![directory()],
            syncing: HashMap::new(),
        }
    }

    /// Does what the call did.
    pub(crate) fn replay(&mut self, call: &'a Call) {
        match call {
            Call::Create(path) => self.link(path, file()),
            Call::Mkdir(path) => self.link(path, directory()),
            Call::Unlink(path) => {
                let (parent, name) = self.parent(path);
                self.rename_entries(parent, NameChange::Unlink(name.to_owned()));
            }
            Call::Rename(from, to) => {
                let (parent, old) = self.parent(from);
                let (same, new) = self.parent(to);
                assert_eq!(parent, same, "a rename stays in its directory");
                self.rename_entries(parent, NameChange::Rename(old.to_owned(), new.to_owned()));
            }
            Call::Truncate(path, size) => self.change(path, FileChange::Size(*size)),
            Call::Write(path, offset, data) => {
                self.change(path, FileChange::Write(*offset, data.clone()));
            }
            Call::SyncBegin(path, token) => {
                let id = self.find(path);
                let covered = match &self.nodes[id] {
                    Node::File { pending, .. } => pending.len(),
                    Node::Directory { pending, .. } => pending.len(),
                };
                self.syncing.insert(*token, (id, covered));
            }
            Call::SyncEnd(token) => self.synced(*token),
        }
    }

    fn synced(&mut self, token: u64) {
        let (id, covered) = self.syncing.remove(&token).expect("the sync has begun");
        let covered = match &mut self.nodes[id] {
            Node::File { durable, pending } => {
                // A second sync that ended meanwhile has taken some of them already, and left less to count.
                let covered = covered.min(pending.len());
                for change in pending.drain(..covered) {
                    match change {
                        FileChange::Size(size) => durable.resize(size, 0),
                        FileChange::Write(at, data) => {
                            write(durable, at, self.recording.data(&data))
                        }
                    }
                }
                covered
            }
            Node::Directory {
                durable, pending, ..
            } => {
                let covered = covered.min(pending.len());
                for change in pending.drain(..covered) {
                    change.apply(durable);
                }
                covered
            }
        };
        for (other, still) in self.syncing.values_mut() {
            if *other == id {
                *still = still.saturating_sub(covered);
            }
        }
    }

    /// Writes the files as they would be found if the power went now.
    pub(crate) fn write(&self, cut: Cut, random: &mut Random, to: &Path) {
        self.write_directory(ROOT, cut, random, to);
    }

    fn write_directory(&self, id: Id, cut: Cut, random: &mut Random, to: &Path) {
        let Node::Directory {
            durable, pending, ..
        } = &self.nodes[id]
        else {
            unreachable!("a directory")
        };
        fs::create_dir_all(to).expect("a directory");
        let mut entries = durable.clone();
        let changes = match cut.names_survive {
            true => pending.len(),
            false => survivors(pending.len(), cut.unsynced, random),
        };
        for change in &pending[..changes] {
            change.apply(&mut entries);
        }
        for (name, id) in entries {
            match &self.nodes[id] {
                Node::Directory { .. } => {
                    self.write_directory(id, cut, random, &to.join(name));
                }
                Node::File { durable, pending } => {
                    let content = self.survived(durable, pending, cut.unsynced, random);
                    fs::write(to.join(name), content).expect("a file");
                }
            }
        }
    }

    fn survived(
        &self,
        durable: &[u8],
        pending: &[FileChange],
        unsynced: Unsynced,
        random: &mut Random,
    ) -> Vec<u8> {
        let mut content = durable.to_vec();
        if unsynced == Unsynced::Lost || pending.is_empty() {
            return content;
        }
        let sized = survivors(pending.len(), unsynced, random);
        let mut size = content.len();
        let mut pages: HashMap<usize, usize> = HashMap::new();
        for (index, change) in pending.iter().enumerate() {
            match change {
                FileChange::Size(new) if index < sized => {
                    content.resize(*new, 0);
                    size = *new;
                }
                FileChange::Size(_) => {}
                FileChange::Write(at, data) => {
                    let data = self.recording.data(data);
                    if index < sized {
                        size = size.max(at + data.len());
                    }
                    for (at, piece) in by_page(*at, data) {
                        let kept = *pages
                            .entry(at / PAGE)
                            .or_insert_with(|| survivors(pending.len(), unsynced, random));
                        if index < kept {
                            write(&mut content, at, piece);
                        }
                    }
                }
            }
        }
        // Bytes beyond the size that reached the disk are on it, but nobody finds them.
        content.resize(size, 0);
        content
    }

    fn link(&mut self, path: &str, node: Node) {
        let (parent, name) = self.parent(path);
        let id = self.nodes.len();
        self.nodes.push(node);
        self.rename_entries(parent, NameChange::Link(name.to_owned(), id));
    }

    fn rename_entries(&mut self, parent: Id, change: NameChange) {
        match &mut self.nodes[parent] {
            Node::Directory { now, pending, .. } => {
                change.apply(now);
                pending.push(change);
            }
            Node::File { .. } => unreachable!("a directory"),
        }
    }

    fn change(&mut self, path: &str, change: FileChange) {
        let id = self.find(path);
        match &mut self.nodes[id] {
            Node::File { pending, .. } => pending.push(change),
            Node::Directory { .. } => unreachable!("a file"),
        }
    }

    fn parent<'p>(&self, path: &'p str) -> (Id, &'p str) {
        match path.rsplit_once('/') {
            Some((parent, name)) => (self.find(parent), name),
            None => (ROOT, path),
        }
    }

    fn find(&self, path: &str) -> Id {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(ROOT, |id, name| match &self.nodes[id] {
            Node::Directory { now, .. } => *now
                .get(name)
                .unwrap_or_else(|| panic!("{path} was recorded before its creation")),
            Node::File { .. } => unreachable!("a directory"),
        })
    }
}

impl NameChange {
    fn apply(&self, entries: &mut BTreeMap<String, Id>) {
        match self {
            Self::Link(name, id) => {
                entries.insert(name.clone(), *id);
            }
            Self::Unlink(name) => {
                entries.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(id) = entries.remove(from) {
                    entries.insert(to.clone(), id);
                }
            }
        }
    }
}

fn file() -> Node {
    Node::File {
        durable: Vec::new(),
        pending: Vec::new(),
    }
}

fn directory() -> Node {
    Node::Directory {
        now: BTreeMap::new(),
        durable: BTreeMap::new(),
        pending: Vec::new(),
    }
}

/// How many of so many changes survive: none, or half the time all but chance decides.
fn survivors(changes: usize, unsynced: Unsynced, random: &mut Random) -> usize {
    let all = u64::try_from(changes).expect("a count");
    match unsynced {
        Unsynced::Lost => 0,
        Unsynced::SomePages if random.below(2) == 0 => 0,
        Unsynced::SomePages => usize::try_from(random.below(all + 1)).expect("a count"),
    }
}

fn by_page(at: usize, data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let start = at + done;
        let len = (PAGE - start % PAGE).min(data.len() - done);
        let piece = &data[done..done + len];
        done += len;
        (len > 0).then_some((start, piece))
    })
}

fn write(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}
