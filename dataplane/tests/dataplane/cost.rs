//! What a change costs the kernel, counted in operations, and what is there between two of its transactions.

use std::{collections::BTreeMap, net::SocketAddr};

use dataplane::{
    Dataplane, Verified,
    kernel::{Fake, Kernel},
    model::{Change, Desired, Family, Fate, Frontend, Protocol},
    plan::{Action, Operation, plan},
    ruleset::{
        ConnectionState, Data, Field, Hook, Landing, Origin, Packet, Rule, Ruleset, Set, Statement,
        Table, Verdict, World, sets,
    },
};

use crate::common::{self, balance, with_affinity};

const THREE: [&str; 3] = ["10.244.0.1:80", "10.244.0.2:80", "10.244.0.3:80"];

fn compiled(desired: &Desired) -> Ruleset {
    Ruleset::compile(desired, &Ruleset::default())
}

fn open(desired: &Desired) -> Dataplane<Fake> {
    let mut dataplane = Dataplane::open(Fake::default()).expect("open");
    dataplane.replace(desired).expect("replace");
    dataplane
}

/// Gives a frontend a fate; returns what the kernel had to do.
fn update(
    dataplane: &mut Dataplane<Fake>,
    frontend: Frontend,
    fate: Option<Fate>,
) -> Vec<Operation> {
    dataplane.kernel_mut().commits.clear();
    let change = Change {
        frontends: [(frontend, fate)].into(),
        ..Change::default()
    };
    dataplane.update(&change).expect("update");
    dataplane.kernel_mut().commits.concat()
}

/// So many Services of some endpoints.
fn many_services(count: u16, endpoints: &[&str]) -> Desired {
    let service = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let frontend = common::address(&format!("10.96.{high}.{low}"), Protocol::Tcp, 80);
        (frontend, common::balance(endpoints))
    };
    Desired {
        frontends: (0..count).map(service).collect(),
        ..Desired::default()
    }
}

/// Some 2000 elements hold the kernel for less than 50 ms, whatever is done to them.
#[test]
fn every_change_is_made_in_short_transactions() {
    let others = [
        "10.244.0.7:80",
        "10.244.0.8:80",
        "10.244.0.9:80",
        "10.244.0.10:80",
    ];
    let states = [
        many_services(0, &THREE),
        many_services(8000, &THREE),
        many_services(8000, &others),
        many_services(8000, &others[..1]),
        many_services(1, &others[..1]),
    ]
    .map(|desired| compiled(&desired));
    for pair in states.windows(2) {
        let transactions = plan(&pair[0], &pair[1]).transactions;
        let counts: Vec<usize> = transactions
            .iter()
            .map(|operations| operations.iter().map(touched).sum())
            .collect();
        let most = counts.iter().max().expect("something changes");
        assert!(
            *most <= 2048,
            "{most} elements in one of {} transactions",
            counts.len()
        );
        assert!(counts.len() > 1);
    }
}

fn touched(operation: &Operation) -> usize {
    match &operation.action {
        Action::Elements { delete, add, .. } => delete.len() + add.len(),
        _ => 0,
    }
}

/// However many Services come at once: nothing that is there is touched, and no transaction holds the kernel for long.
#[test]
fn growth_only_adds_and_in_short_transactions() {
    let plan = plan(
        &compiled(&many_services(1, &THREE)),
        &compiled(&many_services(20_000, &THREE)),
    );
    for operations in &plan.transactions {
        let mut added = 0;
        for operation in operations {
            match &operation.action {
                Action::Elements { delete, add, .. } if delete.is_empty() => added += add.len(),
                Action::Elements { .. } | Action::DeleteTable | Action::DeleteSet { .. } => {
                    panic!("{operation:?}")
                }
                _ => {}
            }
        }
        assert!(added <= 2048, "{added} elements in one transaction");
    }
}

/// Goes the planned way from one ruleset to the other; after each transaction every Service has its endpoint.
fn without_a_miss(from: &Ruleset, to: &Ruleset, services: u16) {
    let mut kernel = Fake {
        ruleset: from.clone(),
        ..Fake::default()
    };
    let transactions = plan(from, to).transactions;
    assert!(transactions.len() > 3);
    for operations in transactions {
        let elements: usize = operations.iter().map(touched).sum();
        assert!(elements <= 2048, "{elements} elements in one transaction");
        kernel.commit(&operations, None).expect("accepted");
        for service in [0, 1, services / 2, services - 1] {
            let [high, low] = service.to_be_bytes();
            let packet = Packet {
                origin: Origin::Link,
                protocol: Protocol::Tcp,
                source: SocketAddr::from(([192, 0, 2, 9], 40_000)),
                destination: SocketAddr::from(([10, 96, high, low], 80)),
            };
            let landing =
                kernel
                    .ruleset
                    .trace(&packet, ConnectionState::New, &mut World::default());
            let Landing::Delivered { to, .. } = landing else {
                panic!("{packet:?}: {landing:?}")
            };
            assert_eq!(to.to_string(), THREE[0]);
        }
    }
    assert_eq!(&kernel.ruleset, to);
}

/// Another version looks Services up in a map of another name: it is filled before the rules look there.
#[test]
fn another_version_takes_over_in_short_transactions_without_a_miss() {
    let right = compiled(&many_services(6000, &THREE[..1]));
    let names = BTreeMap::from([(sets::SERVICES.into(), "older-picks".into())]);
    let mut other = right.clone();
    for (family, table) in &mut other.tables {
        *table = table.clone().with_sets_renamed(*family, &names);
    }
    assert_ne!(right, other);
    without_a_miss(&other, &right, 6000);
    without_a_miss(&right, &other, 6000);
}

#[test]
fn maps_of_another_make_are_replaced_in_short_transactions_without_a_miss() {
    let right = compiled(&many_services(6000, &THREE[..1]));
    let other = common::of_another_make(&right);
    assert_ne!(right, other);
    without_a_miss(&other, &right, 6000);
    // Half way somebody was killed: what stood in is used again.
    let way = plan(&other, &right).transactions;
    for done in [1, way.len() / 3, way.len() / 2, way.len() * 2 / 3] {
        let mut kernel = Fake {
            ruleset: other.clone(),
            ..Fake::default()
        };
        for operations in &way[..done] {
            kernel.commit(operations, None).expect("accepted");
        }
        without_a_miss(&kernel.ruleset, &right, 6000);
    }
}

/// The kernel keeps a set as long as a rule names it, and the rules of a chain that hangs elsewhere go with that chain.
#[test]
fn a_base_chain_moves_before_the_sets_that_it_named_go() {
    let right = compiled(&many_services(3, &THREE));
    let mut other = right.clone();
    let table = other.tables.get_mut(&Family::V4).expect("a table");
    let kind = table.sets[sets::ACTIVE].kind.clone();
    table.sets.insert("older".into(), Set::new(kind));
    let named = Statement::InSet {
        key: vec![Field::DestinationAddress],
        set: "older".into(),
    };
    let chain = table.chains.get_mut("nat-prerouting").expect("a chain");
    chain.rules.push(Rule::new(Family::V4, vec![named]));
    let base = chain.base.as_mut().expect("a base chain");
    base.hook = Hook::Postrouting;
    let mut kernel = Fake {
        ruleset: other.clone(),
        ..Fake::default()
    };
    for operations in plan(&other, &right).transactions {
        kernel.commit(&operations, None).expect("accepted");
    }
    assert_eq!(kernel.ruleset, right);
}

/// A stranger's rule under our name would make a loop as soon as an element leads there.
#[test]
fn what_cannot_be_repaired_step_by_step_is_made_anew() {
    let desired = many_services(6000, &THREE[..1]);
    let mut dataplane = open(&desired);
    let right = dataplane.kernel_mut().ruleset.clone();
    let kernel = dataplane.kernel_mut();
    let table = kernel.ruleset.tables.get_mut(&Family::V4).expect("a table");
    for set in table.sets.values_mut() {
        set.elements.clear();
    }
    let jump = Statement::Verdict(Verdict::Jump("services".into()));
    let rule = Rule::new(Family::V4, vec![jump]);
    table.chains.get_mut("lb-1-0").expect("a chain").rules = vec![rule];
    kernel.generation += 1;
    assert_eq!(dataplane.verify().expect("verify"), Verified::Repaired);
    assert_eq!(dataplane.kernel_mut().ruleset, right);
    assert_eq!(dataplane.verify().expect("verify"), Verified::Intact);
}

fn adds_verdict(operation: &Operation) -> bool {
    match &operation.action {
        Action::Elements { add, .. } => {
            add.iter().any(|(_, data)| matches!(data, Data::Verdict(_)))
        }
        _ => false,
    }
}

/// A verdict that is added makes the kernel look at all of them.
#[test]
fn a_number_of_endpoints_that_was_there_before_adds_no_verdict() {
    let mut dataplane = open(&many_services(3, &THREE));
    let frontends = [
        common::address("10.96.0.1", Protocol::Tcp, 80),
        common::address("198.51.100.7", Protocol::Tcp, 80),
        common::node_port(Family::V4, 30_080),
    ];
    for frontend in frontends {
        let fates = [
            balance(&THREE),
            balance(&THREE[..2]),
            common::local(&THREE[..1], &THREE),
            common::local(&[], &THREE[..2]),
            common::from(&["192.0.2.0/24"], balance(&THREE[1..])),
            Fate::Reject,
        ];
        let mut verdicts = Vec::new();
        for _ in 0..2 {
            let operations = fates
                .iter()
                .flat_map(|fate| update(&mut dataplane, frontend, Some(fate.clone())));
            verdicts.push(operations.filter(adds_verdict).count());
        }
        assert_ne!(verdicts[0], 0, "a chain for each number");
        assert_eq!(verdicts[1], 0, "{frontend:?}");
    }
}

/// Looks for clients to remember, by the first rule of each chain.
fn looks_for_clients(dataplane: &mut Dataplane<Fake>) -> [bool; 3] {
    let table: &Table = &dataplane.kernel_mut().ruleset.tables[&Family::V4];
    ["record-input", "record-postrouting", "affinity-record"]
        .map(|chain| !table.chains[chain].rules.is_empty())
}

#[test]
fn clients_are_looked_for_only_while_a_service_remembers_its_own() {
    let mut dataplane = open(&many_services(3, &THREE));
    assert_eq!(looks_for_clients(&mut dataplane), [false; 3]);
    let first = common::address("10.96.0.1", Protocol::Tcp, 80);
    let second = common::node_port(Family::V4, 30_080);
    let remembered = || Some(with_affinity(balance(&THREE), 60));
    let rules = |operations: &[Operation]| {
        let is_rule = |operation: &&Operation| matches!(operation.action, Action::AddRule { .. });
        operations.iter().filter(is_rule).count()
    };
    let came = update(&mut dataplane, first, remembered());
    assert_eq!(looks_for_clients(&mut dataplane), [true; 3]);
    assert!(
        came.iter().map(touched).sum::<usize>() < 20,
        "only its own elements: {came:?}"
    );
    update(&mut dataplane, second, remembered());
    update(&mut dataplane, first, Some(balance(&THREE)));
    assert_eq!(looks_for_clients(&mut dataplane), [true; 3]);
    let again = update(&mut dataplane, first, remembered());
    assert_eq!(rules(&again), 2, "addresses beside NodePorts: {again:?}");
    update(&mut dataplane, first, None);
    update(&mut dataplane, second, None);
    assert_eq!(looks_for_clients(&mut dataplane), [false; 3]);
}
