//! The rows of what the condition says, with time as a value.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn key(name: &str) -> Key {
    ("default".into(), name.into())
}

fn service(revision: u64, fingerprint: u64) -> SeenService {
    SeenService {
        revision: Revision(revision),
        fingerprint,
        has_selector: false,
        condition: None,
        listed: false,
    }
}

/// Two ready nodes that have applied revision 5, and Service `a` of revision 10.
fn two_nodes(now: Instant) -> Tracker {
    let mut tracker = Tracker::default();
    for node in ["node1", "node2"] {
        tracker.put_node(node, true);
        tracker.put_applied(node, Revision(5));
    }
    tracker.put_service(key("a"), &service(10, 1), now);
    tracker
}

#[test]
fn it_is_programmed_when_the_last_ready_node_has_applied_it() {
    let now = Instant::now();
    let mut tracker = two_nodes(now);
    tracker.put_applied("node1", Revision(10));
    assert_eq!(tracker.settle(now), []);
    assert!(tracker.is_waiting());
    tracker.put_applied("node2", Revision(12));
    assert_eq!(
        tracker.settle(now + 3 * MS),
        [(key("a"), Verdict::Programmed)]
    );
    assert!(!tracker.is_waiting());
    assert_eq!(tracker.take_arrived(), [3 * MS]);
    assert_eq!(tracker.settle(now + 4 * MS), [], "it is written once");
}

#[test]
fn a_late_node_is_named_once_patience_is_over() {
    let now = Instant::now();
    let mut tracker = two_nodes(now);
    tracker.put_applied("node1", Revision(10));
    assert_eq!(tracker.next_deadline(now), Some(now + PATIENCE));
    let late = now + PATIENCE;
    let waiting = Verdict::Waiting(vec!["node2".into()]);
    assert_eq!(tracker.settle(late), [(key("a"), waiting)]);
    assert_eq!(
        tracker.settle(late + PATIENCE),
        [],
        "the same is not said twice"
    );
    assert_eq!(
        tracker.next_deadline(late),
        None,
        "only a report can change it"
    );
    tracker.put_applied("node2", Revision(10));
    assert_eq!(
        tracker.settle(late + PATIENCE),
        [(key("a"), Verdict::Programmed)]
    );
}

#[test]
fn a_node_that_is_not_ready_is_not_waited_for() {
    let now = Instant::now();
    let mut tracker = two_nodes(now);
    tracker.put_applied("node1", Revision(10));
    tracker.put_node("node2", false);
    assert_eq!(tracker.settle(now), [(key("a"), Verdict::Programmed)]);
}

#[test]
fn without_a_ready_node_it_says_so() {
    let now = Instant::now();
    let mut tracker = Tracker::default();
    tracker.put_service(key("a"), &service(10, 1), now);
    assert_eq!(tracker.settle(now), []);
    assert_eq!(
        tracker.settle(now + PATIENCE),
        [(key("a"), Verdict::NoNodes)]
    );
    tracker.put_applied("node1", Revision(11));
    tracker.put_node("node1", true);
    assert_eq!(
        tracker.settle(now + PATIENCE),
        [(key("a"), Verdict::Programmed)]
    );
}

#[test]
fn endpoints_that_arrive_in_time_write_nothing() {
    let now = Instant::now();
    let mut tracker = two_nodes(now);
    for node in ["node1", "node2"] {
        tracker.put_applied(node, Revision(10));
    }
    assert_eq!(tracker.settle(now).len(), 1);
    tracker.put_slice(key("a"), Revision(20), now);
    assert_eq!(tracker.settle(now + MS), []);
    for node in ["node1", "node2"] {
        tracker.put_applied(node, Revision(20));
    }
    assert_eq!(tracker.settle(now + 2 * MS), []);
    assert!(!tracker.is_waiting());
    tracker.put_slice(key("a"), Revision(30), now);
    let both = Verdict::Waiting(vec!["node1".into(), "node2".into()]);
    assert_eq!(
        tracker.settle(now + PATIENCE),
        [(key("a"), both)],
        "but late ones do"
    );
}

#[test]
fn a_selector_waits_for_its_slice_also_when_that_came_first() {
    let now = Instant::now();
    let mut tracker = Tracker::default();
    tracker.put_node("node1", true);
    tracker.put_applied("node1", Revision(10));
    let selecting = SeenService {
        has_selector: true,
        ..service(10, 1)
    };
    tracker.put_service(key("a"), &selecting, now);
    assert_eq!(tracker.settle(now), [], "its slice has yet to come");
    tracker.put_slice(key("a"), Revision(11), now);
    assert_eq!(tracker.settle(now), [], "the slice is not applied");
    tracker.put_applied("node1", Revision(11));
    assert_eq!(tracker.settle(now), [(key("a"), Verdict::Programmed)]);

    tracker.put_slice(key("b"), Revision(12), now);
    tracker.put_service(key("b"), &selecting, now);
    tracker.put_applied("node1", Revision(12));
    assert_eq!(tracker.settle(now), [(key("b"), Verdict::Programmed)]);
}

#[test]
fn own_status_writes_start_nothing_and_a_lost_condition_comes_back() {
    let now = Instant::now();
    let mut tracker = two_nodes(now);
    for node in ["node1", "node2"] {
        tracker.put_applied(node, Revision(10));
    }
    assert_eq!(tracker.settle(now).len(), 1);
    let own = SeenService {
        condition: Some(true),
        ..service(11, 1)
    };
    tracker.put_service(key("a"), &own, now);
    assert!(!tracker.is_waiting(), "revision 11 is only the status");
    tracker.put_service(key("a"), &service(12, 1), now);
    assert_eq!(tracker.settle(now), [(key("a"), Verdict::Programmed)]);
}

#[test]
fn a_deleted_service_is_forgotten() {
    let now = Instant::now();
    let mut tracker = two_nodes(now);
    tracker.remove_service(&key("a"));
    assert!(!tracker.is_waiting());
    assert_eq!(tracker.settle(now + PATIENCE), []);
}

#[test]
fn right_after_a_start_nodes_have_time_to_come_back() {
    let start = Instant::now();
    let mut tracker = Tracker::default();
    let known = SeenService {
        condition: Some(true),
        listed: true,
        ..service(10, 1)
    };
    tracker.put_service(key("a"), &known, start);
    tracker.put_node("node1", true);
    assert_eq!(tracker.settle(start + PATIENCE), []);
    assert_eq!(tracker.next_deadline(start), Some(start + LIST_PATIENCE));
    tracker.put_applied("node1", Revision(10));
    assert_eq!(
        tracker.settle(start + PATIENCE),
        [],
        "what it said before still holds"
    );
    assert!(!tracker.is_waiting());
    let took = tracker.take_arrived();
    assert!(took.is_empty(), "nobody knows how long that took: {took:?}");
}
