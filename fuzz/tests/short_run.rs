//! Every target on its corpus and on a few thousand mutations of it, the same in each run: none panics, hangs or takes memory
//! out of proportion.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use fuzz::{Mutator, TARGETS, Target};

const MUTATIONS: usize = 3_000;
const SEED: u64 = 20_260_101;
/// What a target gets for all its inputs, hundreds of times what they take: an input that it does not come back from is found so.
const DEADLINE: Duration = Duration::from_secs(300);
/// Bytes that one input may take at a time, and in addition for each of its own.
const MEMORY: (usize, usize) = (32 << 20, 4096);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which knows how much a thread has held at most.
struct Counting;

#[expect(
    unsafe_code,
    reason = "an allocator is unsafe by its interface; this one only counts"
)]
// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.get().wrapping_add(layout.size());
        HELD.set(held);
        MOST.set(MOST.get().max(held));
        // SAFETY: as promised to this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: as promised to this function.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[test]
fn no_input_crashes_hangs_or_takes_memory_out_of_proportion() {
    thread::scope(|scope| {
        for target in TARGETS {
            scope.spawn(move || exercise(target));
        }
    });
}

#[test]
fn every_target_is_a_program_for_libfuzzer_too() {
    for target in TARGETS {
        let program = format!("libfuzzer/src/bin/{}.rs", target.name);
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&program));
        let text = text.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            text.contains(&format!("targets::{}::run", target.name)),
            "{program}"
        );
    }
}

/// Runs a target on a thread of its own, and tells the input at which it stopped.
fn exercise(target: Target) {
    let corpus = corpus(target.name);
    let (say, heard) = mpsc::channel::<Vec<u8>>();
    let runner = thread::Builder::new().stack_size(8 << 20).spawn(move || {
        let mut mutator = Mutator::new(SEED);
        let mutations = (0..MUTATIONS).map(|_| mutator.next(&corpus));
        let inputs: Vec<_> = corpus.iter().cloned().chain(mutations).collect();
        for input in inputs {
            let _ = say.send(input.clone());
            HELD.set(0);
            MOST.set(0);
            (target.run)(&input);
            let most = MEMORY.0 + MEMORY.1 * input.len();
            assert!(
                MOST.get() <= most,
                "{} bytes for {}",
                MOST.get(),
                input.len()
            );
        }
    });
    let runner = runner.expect("a thread");
    let deadline = std::time::Instant::now() + DEADLINE;
    let mut last = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match heard.recv_timeout(left) {
            Ok(input) => last = input,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("{} does not come back from {}", target.name, shown(&last))
            }
        }
    }
    assert!(
        runner.join().is_ok(),
        "{} does not stand {}",
        target.name,
        shown(&last)
    );
}

/// As text where it is text, always as a Rust literal.
fn shown(input: &[u8]) -> String {
    format!("b\"{}\"", input.escape_ascii())
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths
        .iter()
        .map(|path| fs::read(path).expect("a file"))
        .collect()
}
