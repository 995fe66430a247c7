//! Doors through which bytes come in from outside, each as a function of those bytes that panics when something is wrong.
//!
//! Two callers: `tests/short_run.rs`, a short run that is always the same, and the programs of `libfuzzer`, which is no member
//! of the workspace because it needs a nightly compiler. Reading order: [`targets`], [`Mutator`].

mod mutator;
pub mod targets;

pub use mutator::Mutator;

/// One door.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes any bytes; panics when it does not hold what it promises.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target {
        name: "apply",
        run: targets::apply::run,
    },
    Target {
        name: "body",
        run: targets::body::run,
    },
    Target {
        name: "conntrack",
        run: targets::conntrack::run,
    },
    Target {
        name: "dns",
        run: targets::dns::run,
    },
    Target {
        name: "field_set",
        run: targets::field_set::run,
    },
    Target {
        name: "netlink",
        run: targets::netlink::run,
    },
    Target {
        name: "patch",
        run: targets::patch::run,
    },
    Target {
        name: "protobuf",
        run: targets::protobuf::run,
    },
    Target {
        name: "selector",
        run: targets::selector::run,
    },
    Target {
        name: "value",
        run: targets::value::run,
    },
];
