//! How a caller wants something read or written.

use std::{borrow::Cow, time::Duration};

use api::selector::{FieldSelector, LabelSelector};

use super::object::Object;
use crate::store::Revision;

/// The manager of what the server and its controllers write.
const SELF: &str = "minik";

/// Which part of an object a write may change (M10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    #[default]
    Main,
    /// The status, and the labels, annotations and finalizers of the metadata.
    Status,
    /// The binding of a Pod to a node: spec and status in one write.
    Binding,
    /// Whether a CertificateSigningRequest is approved: the conditions in its status.
    Approval,
    /// `spec.finalizers` of a Namespace.
    Finalize,
    /// How many Pods a workload should have.
    Scale,
}

/// Which labels and fields an object must have to be listed or watched.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The label selector.
    pub labels: Option<LabelSelector>,
    /// The field selector.
    pub fields: Option<FieldSelector>,
}

/// How fresh a read must be (R3, R4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// The newest state.
    #[default]
    Newest,
    /// Anything; the newest is what we have.
    Any,
    /// This revision or a later one.
    AtLeast(Revision),
    /// The state as of this revision.
    Exact(Revision),
}

/// A list request.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Which objects.
    pub selection: Selection,
    /// How fresh.
    pub freshness: Freshness,
    /// At most this many; 0 is all.
    pub limit: usize,
    /// Where the previous page ended, as it said.
    pub continue_token: Option<String>,
}

/// What a list found.
#[derive(Clone, Debug)]
pub struct List {
    /// The objects, by namespace and name.
    pub objects: Vec<Object>,
    /// The revision of the snapshot.
    pub revision: Revision,
    /// Where to go on, when there is more.
    pub continue_token: Option<String>,
    /// How many follow, when that is known.
    pub remaining: Option<usize>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchStart {
    /// With an `Added` for each object there is, then the changes (resourceVersion unset or 0).
    #[default]
    State,
    /// With the changes after this revision.
    After(Revision),
    /// With an `Added` for each object of a state at least this new, a bookmark that says so, then the changes (W7).
    Initial(Revision),
}

/// When a watch without events tells how far it has come (W6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bookmarks {
    /// The watcher did not ask for any.
    #[default]
    Never,
    /// As often as this.
    Every(Duration),
    /// As often as this, and at once when somebody waits for nodes to come as far ([`super::Registry::await_applied`]).
    AwaitedOrEvery(Duration),
}

impl Bookmarks {
    /// The longest time between two of them.
    pub(super) fn interval(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Every(interval) | Self::AwaitedOrEvery(interval) => Some(interval),
        }
    }
}

/// A watch request.
#[derive(Clone, Debug)]
pub struct WatchQuery {
    /// Which objects.
    pub selection: Selection,
    /// From where.
    pub start: WatchStart,
    /// When to tell how far the stream has come, if nothing else does.
    pub bookmarks: Bookmarks,
    /// When the stream ends by itself.
    pub timeout: Duration,
}

impl Default for WatchQuery {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            start: WatchStart::default(),
            bookmarks: Bookmarks::default(),
            timeout: Duration::MAX,
        }
    }
}

/// How a create, update or patch is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Everything but storing it (M11).
    pub dry_run: bool,
    /// Who becomes the owner of what is changed (A8).
    pub manager: Cow<'static, str>,
    /// Whether the change looks at `metadata.managedFields`, which objects come without otherwise.
    pub sees_managed_fields: bool,
}

impl Default for WriteOptions {
    /// How the server itself writes.
    fn default() -> Self {
        Self {
            dry_run: false,
            manager: Cow::Borrowed(SELF),
            sees_managed_fields: false,
        }
    }
}

/// What becomes of the objects this one owns (X7). Acted on by the garbage collector, which the two finalizers call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// The owner goes, dependents follow.
    #[default]
    Background,
    /// Dependents go first.
    Foreground,
    /// Dependents stay.
    Orphan,
}

impl Propagation {
    /// Holds back an owner until the dependents that block it are gone.
    pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
    /// Holds back an owner until no dependent names it any more.
    pub const ORPHAN_FINALIZER: &str = "orphan";
    /// Both.
    pub const FINALIZERS: [&str; 2] = [Self::FOREGROUND_FINALIZER, Self::ORPHAN_FINALIZER];

    /// What waits for dependents.
    #[must_use]
    pub fn finalizer(self) -> Option<&'static str> {
        match self {
            Self::Background => None,
            Self::Foreground => Some(Self::FOREGROUND_FINALIZER),
            Self::Orphan => Some(Self::ORPHAN_FINALIZER),
        }
    }
}

/// How a deletion is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds of grace; `None` is the object's own.
    pub grace_secs: Option<i64>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only this version of the object.
    pub resource_version: Option<String>,
    /// What becomes of dependents; `None` is what the object's finalizers say, and in the background without them.
    pub propagation: Option<Propagation>,
    /// Everything but deleting it.
    pub dry_run: bool,
}

/// What a deletion did.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The object as it is now, or as it last was.
    pub object: Object,
    /// Whether it is gone; otherwise finalizers or grace keep it for now.
    pub gone: bool,
}
