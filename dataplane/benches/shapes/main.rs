//! Our ruleset beside others on the same inputs, in one run: a single static `dnat` rule, and a chain per Service, the shape of
//! kube-proxy's nftables mode. What loading and a change cost the kernel, its memory, the first packet of a connection, whole
//! connections. Every ruleset lives in network namespaces of its own. Needs root and `nft`.
//!
//! Prints tables and a JSON line for each row. `cargo bench -p dataplane --bench shapes [-- --chains SERVICES]`: chains take the
//! kernel the square of their number; by default 1 000 and 10 000 are loaded, 100 in each transaction.

mod chains;
mod figures;
mod net;
mod ours;
mod syn;

use std::{collections::BTreeSet, time::Instant};

use self::{figures::*, net::Net, syn::Flows};

/// Endpoints of each Service.
const ENDPOINTS: u32 = 10;
const ROUNDS: usize = 12;
/// First packets sent to a ruleset in a round.
const PACKETS: usize = 8_192;
const CONNECTIONS: u32 = 1_000;
const CHANGES: u32 = 11;

/// One ruleset in its router.
struct Candidate {
    name: String,
    services: u32,
    net: Net,
    load: Cost,
    change: Option<Cost>,
    memory_mb: f64,
}

fn main() {
    net::leave_the_machines_namespace();
    let mut chains = BTreeSet::from([1_000, 10_000]);
    let mut args = std::env::args().skip_while(|arg| arg != "--chains");
    if let Some(wanted) = args.nth(1) {
        let wanted = wanted.parse().expect("--chains takes a number of Services");
        chains = BTreeSet::from([wanted]);
    }
    let mut candidates = vec![
        Candidate::fixed("static dnat", chains::STATIC_DNAT),
        Candidate::fixed("static dnat, masquerade", chains::STATIC_MASQUERADE),
    ];
    candidates.extend([1, 1_000, 10_000, 30_000].map(Candidate::ours));
    candidates.extend(chains.into_iter().map(Candidate::chains));
    report_control(&candidates);
    report_packets(&candidates);
    report_connections(&candidates);
}

impl Candidate {
    /// The least that a Service can cost.
    fn fixed(name: &str, ruleset: &str) -> Candidate {
        Candidate::load(name, 1, |net| (net.run(|| chains::nft(ruleset)), None))
    }

    fn ours(services: u32) -> Candidate {
        Candidate::load("minik", services, |net| net.run(|| ours::load(services)))
    }

    fn chains(services: u32) -> Candidate {
        Candidate::load("chain per Service", services, |net| {
            net.run(|| chains::load(services))
        })
    }

    fn load(
        name: &str,
        services: u32,
        load: impl FnOnce(&Net) -> (Cost, Option<Cost>),
    ) -> Candidate {
        let net = Net::new();
        let before = kernel_memory_mb();
        let (load, change) = load(&net);
        let name = if services == 1 {
            name.to_owned()
        } else {
            format!("{name} {services} x {ENDPOINTS}")
        };
        Candidate {
            name,
            services,
            load,
            change,
            memory_mb: kernel_memory_mb() - before,
            net,
        }
    }
}

fn report_control(candidates: &[Candidate]) {
    println!(
        "\nLoading, one endpoint changed in ms (CPU; nft's own too, where it does it), kernel memory"
    );
    println!(
        "{:>28}{:>22}{:>22}{:>16}",
        "", "load ms (CPU)", "change ms (CPU)", "memory MB"
    );
    for candidate in candidates {
        let Candidate {
            name,
            load,
            change,
            memory_mb,
            ..
        } = candidate;
        let change = change.unwrap_or_default();
        println!(
            "{name:>28}{:>22}{:>22}{memory_mb:>16.1}",
            load.to_string(),
            change.to_string()
        );
        json(
            "control",
            candidate,
            &[
                ("load_ms", load.elapsed),
                ("load_cpu_ms", load.cpu),
                ("change_ms", change.elapsed),
                ("change_cpu_ms", change.cpu),
                ("kernel_memory_mb", *memory_mb),
            ],
        );
    }
}

/// Rounds go over all rulesets in turn, so that what else the machine does meets all of them; of each round the tenth percentile
/// counts, of the rounds the lower quartile.
fn report_packets(candidates: &[Candidate]) {
    let cases: Vec<(&Candidate, &str, Flows)> = candidates
        .iter()
        .flat_map(|candidate| {
            let hot = (candidate, "hot", Flows::to_one(candidate.services));
            let spread = (candidate.services > 1)
                .then(|| (candidate, "spread", Flows::to_all(candidate.services)));
            [Some(hot), spread].into_iter().flatten()
        })
        .collect();
    let mut times = vec![Vec::new(); cases.len()];
    for round in 0..ROUNDS {
        for ((candidate, _, flows), times) in cases.iter().zip(&mut times) {
            let per_packet = candidate.net.send_first_packets(flows, round, PACKETS);
            if round > 0 {
                times.push(percentile(per_packet, 10));
            }
            candidate.net.forget_flows();
        }
    }
    let figures: Vec<f64> = times
        .into_iter()
        .map(|times| percentile(times, 25))
        .collect();
    println!(
        "\nFirst packet of a connection: to one Service, or to a random one of all; us, and more than one static dnat"
    );
    for ((candidate, which, _), figure) in cases.iter().zip(&figures) {
        let more = figure - figures[0];
        println!(
            "{:>28}{which:>8}{figure:>10.3} us{more:>+10.3} us{:>8.2} x",
            candidate.name,
            figure / figures[0]
        );
        json(
            which,
            candidate,
            &[("first_packet_us", *figure), ("over_dnat_us", more)],
        );
    }
}

fn report_connections(candidates: &[Candidate]) {
    let mut rates = vec![Vec::new(); candidates.len()];
    for candidate in candidates {
        candidate.net.serve();
    }
    for round in 0..ROUNDS {
        for (candidate, rates) in candidates.iter().zip(&mut rates) {
            let start = Instant::now();
            candidate.net.connect(candidate.services, CONNECTIONS);
            if round > 0 {
                rates.push(f64::from(CONNECTIONS) / start.elapsed().as_secs_f64());
            }
        }
    }
    let figures: Vec<f64> = rates
        .into_iter()
        .map(|rates| percentile(rates, 75))
        .collect();
    println!("\nConnections per second, one after the other, to random Services");
    for (candidate, figure) in candidates.iter().zip(&figures) {
        let ratio = figure / figures[0];
        println!("{:>28}{figure:>12.0} /s{ratio:>8.2} x", candidate.name);
        json(
            "connections",
            candidate,
            &[("per_second", *figure), ("to_dnat", ratio)],
        );
    }
}

fn json(what: &str, candidate: &Candidate, fields: &[(&str, f64)]) {
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!(",\"{name}\":{value:.4}"))
        .collect();
    let Candidate { name, services, .. } = candidate;
    println!(
        "{{\"bench\":\"shapes\",\"what\":\"{what}\",\"ruleset\":\"{name}\",\"services\":{services}{fields}}}"
    );
}
