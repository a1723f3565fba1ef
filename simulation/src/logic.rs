//! State and decisions alone: no servers, no network, no time but what is passed in.
//!
//! In: a seed. It makes random commands, which the state machine and a naive model apply; and clusters in which the
//! real scheduler and controllers work on views that lag, lose and repeat events, with a crash after each write that
//! a run without crashes made. Out: a trace, and a verdict: store and model agree; rollouts stay within their bounds
//! at each step, no pod is bound twice, no node overcommitted; everything converges, and then nothing is written.

use std::fmt::Write as _;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use sha2::{Digest, Sha256};
use trireme_model::kinds;
use trireme_reference::cluster::World;
use trireme_reference::cluster::invariants::{
    Bounds, bound_once, not_overcommitted, within_bounds,
};
use trireme_reference::store::Naive;
use trireme_state::{Command, Compare, MemoryView, Operation, Transition, Txn};

use crate::runner::Outcome;

/// Stores of a seed, and commands applied to each: comparing looks at every revision from every other.
const STORES: u64 = 20;
const COMMANDS: u64 = 80;
/// Few keys, some with zero bytes and common prefixes, so that they meet.
const KEYS: [&str; 8] = ["a", "a\0", "a\0b", "ab", "b", "b\u{1}", "c", "ca"];
/// Runs of one cluster, each crashing after another write.
const CRASH_POINTS: u64 = 60;

#[derive(Default)]
struct Tally {
    trace: String,
    commands: u64,
    decisions: u64,
    writes: u64,
    crashes: u64,
    runs: u64,
    violations: Vec<String>,
}

impl Tally {
    fn note(&mut self, what: &str) {
        // Writing to a string cannot fail.
        writeln!(self.trace, "{what}").ok();
    }

    fn hold(&mut self, property: &str, result: Result<(), String>) {
        if let Err(why) = result {
            self.note(&format!("violation {property}: {why}"));
            self.violations.push(format!("{property}: {why}"));
        }
    }

    fn count(&mut self, what: &str, world: &World) {
        let mut hash = Sha256::new();
        for ((kind, key), object) in &world.objects {
            hash.update(format!("{} {key:?} {object}\n", kind.storage));
        }
        let hash: String = hash
            .finalize()
            .iter()
            .take(8)
            .map(|it| format!("{it:02x}"))
            .collect();
        self.note(&format!(
            "{what}: {} decisions, {} writes, {} refused, state {hash}",
            world.decisions, world.writes, world.refused
        ));
        self.runs += 1;
        self.decisions += world.decisions;
        self.writes += world.writes;
        self.crashes += world.crashes;
    }
}

pub fn run(seed: u64) -> Outcome {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for _ in 0..STORES {
        store(&mut random, &mut tally);
    }
    let rollout = Rollout::choose(&mut random);
    tally.note(&format!("{rollout:?}"));
    let without = rollout.run(None, &mut tally);
    // Each write, or as many as there is patience for.
    let stride = without.div_ceil(CRASH_POINTS).max(1);
    for writes in (1..=without).step_by(stride as usize) {
        rollout.run(Some(writes), &mut tally);
    }
    for _ in 0..4 {
        scheduling(&mut random, &mut tally);
    }
    Outcome {
        trace: tally.trace,
        simulated_ms: 0,
        counts: vec![
            ("decisions", tally.decisions),
            ("commands", tally.commands),
            ("runs of a cluster", tally.runs),
            ("writes", tally.writes),
            ("crashes", tally.crashes),
        ],
        violations: tally.violations,
    }
}

fn key(random: &mut ChaCha8Rng) -> Bytes {
    Bytes::from_static(KEYS[random.random_range(0..KEYS.len())].as_bytes())
}

/// At most one write of each key.
fn operations(random: &mut ChaCha8Rng) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    for _ in 0..random.random_range(0..4) {
        let key = key(random);
        let taken = operations.iter().any(|operation| match operation {
            Operation::Put { key: other, .. } | Operation::Delete { key: other } => *other == key,
            Operation::Get { .. } => false,
        });
        operations.push(match random.random_range(0..7) {
            0..4 if !taken => Operation::Put {
                key,
                value: Bytes::copy_from_slice(&[random.random()]),
            },
            4..6 if !taken => Operation::Delete { key },
            _ => Operation::Get { key },
        });
    }
    operations
}

fn command(random: &mut ChaCha8Rng) -> Command {
    if random.random_bool(0.08) {
        let revision = random.random_range(0..COMMANDS);
        return Command::Compact { revision };
    }
    let compare = (0..random.random_range(0..2)).map(|_| {
        let key = key(random);
        if random.random_bool(0.5) {
            let equals = random.random_range(0..6);
            Compare::ModRevision { key, equals }
        } else {
            Compare::Exists { key }
        }
    });
    let compare = compare.collect();
    Command::Txn(Txn {
        compare,
        success: operations(random),
        failure: operations(random),
    })
}

/// A store beside its model, one command at a time; and the same commands in batches.
fn store(random: &mut ChaCha8Rng, tally: &mut Tally) {
    let (mut view, mut batched, mut naive) =
        (MemoryView::new(), MemoryView::new(), Naive::default());
    let mut left = COMMANDS;
    while left > 0 {
        let batch = left.min(random.random_range(1..8));
        left -= batch;
        let mut mutations = Vec::new();
        let applied = (|| {
            let mut transition = Transition::new(&batched)?;
            for _ in 0..batch {
                let command = command(random);
                let applied = trireme_state::apply(&view, &command)?;
                view.write(applied.mutations);
                transition.apply(&command)?;
                naive.apply(&command);
            }
            mutations = transition.finish();
            Ok::<(), trireme_state::StateError>(())
        })();
        tally.hold("commands apply", applied.map_err(|it| it.to_string()));
        batched.write(mutations);
        tally.commands += batch;
    }
    let compared = naive.compare(&view, b"a", b"z");
    tally.hold("the store is what its model is", compared);
    let same = view == batched;
    let same = same.then_some(()).ok_or("the stores differ".to_owned());
    tally.hold("batches do not matter", same);
    tally.note(&format!("store at {}", naive.revision()));
}

/// Deployments that roll from version to version.
#[derive(Debug)]
struct Rollout {
    seed: u64,
    apps: Vec<(String, Bounds)>,
    versions: u64,
    /// Between two versions.
    steps: u64,
    lost_per_mille: u64,
    repeated_per_mille: u64,
}

impl Rollout {
    fn choose(random: &mut ChaCha8Rng) -> Rollout {
        let apps = random.random_range(1..=2);
        let apps = (0..apps).map(|number| {
            let replicas = random.random_range(1..=6);
            let surge = random.random_range(0..=2);
            let least = i64::from(surge == 0);
            let unavailable = random.random_range(least..=2).min(replicas);
            let bounds = Bounds {
                replicas,
                surge,
                unavailable,
            };
            (format!("app-{number}"), bounds)
        });
        let apps = apps.collect();
        Rollout {
            seed: random.random(),
            apps,
            versions: random.random_range(1..=3),
            steps: random.random_range(0..=200),
            lost_per_mille: random.random_range(0..=20),
            repeated_per_mille: random.random_range(0..=100),
        }
    }

    /// Runs to the end, crashing after so many writes of the rollout; answers the writes that it took.
    fn run(&self, crash_after: Option<u64>, tally: &mut Tally) -> u64 {
        let mut world = World::new(self.seed);
        world.lost_per_mille = self.lost_per_mille;
        world.repeated_per_mille = self.repeated_per_mille;
        world.add_namespace("default");
        for node in ["n1", "n2", "n3"] {
            world.add_node(node, "64", "64Gi");
        }
        for (app, bounds) in &self.apps {
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate":
                {"maxSurge": bounds.surge, "maxUnavailable": bounds.unavailable}});
            world.add_deployment(app, bounds.replicas as i32, strategy);
        }
        world.settle();
        world.crash_after = crash_after;
        let before = world.writes;
        let mut broken = Ok(());
        let check = |world: &World, broken: &mut Result<(), String>| {
            let bounds = self.apps.iter();
            let kept = bounds
                .map(|(app, bounds)| within_bounds(world, app, *bounds))
                .chain([bound_once(world), not_overcommitted(world)])
                .collect::<Result<(), String>>();
            if broken.is_ok() {
                *broken = kept;
            }
        };
        for version in 1..=self.versions {
            for (app, _) in &self.apps {
                world.edit(kinds::DEPLOYMENT, app, |it| {
                    it["spec"]["template"]["spec"]["containers"][0]["image"] =
                        json!(format!("web:v{version}"));
                });
            }
            for _ in 0..self.steps {
                world.step();
                check(&world, &mut broken);
            }
        }
        world.settle_with(|world| check(world, &mut broken));
        let writes = world.writes - before;
        let at = crash_after.map_or("no crash".to_owned(), |at| {
            format!("a crash after write {at}")
        });
        tally.hold(&format!("a rollout with {at}"), broken);
        let wanted: i64 = self.apps.iter().map(|(_, bounds)| bounds.replicas).sum();
        let last = format!("web:v{}", self.versions);
        let new = world
            .active_pods()
            .into_iter()
            .filter(|pod| pod["spec"]["containers"][0]["image"] == last.as_str());
        let (new, ready) = (new.count() as i64, world.ready_pods() as i64);
        let converged = if new == wanted && ready == wanted {
            Ok(())
        } else {
            Err(format!("{new} of {wanted} pods are new and {ready} ready"))
        };
        tally.hold(&format!("convergence with {at}"), converged);
        world.assert_fixpoint();
        tally.count(&at, &world);
        writes
    }
}

/// Pods that come faster than nodes have room for.
fn scheduling(random: &mut ChaCha8Rng, tally: &mut Tally) {
    let mut world = World::new(random.random());
    world.lost_per_mille = random.random_range(0..=20);
    world.repeated_per_mille = random.random_range(0..=100);
    world.add_namespace("default");
    for number in 0..random.random_range(1..6) {
        let cores: u32 = random.random_range(1..=3);
        world.add_node(&format!("n{number}"), &cores.to_string(), "4Gi");
    }
    let mut broken = Ok(());
    let check = |world: &World, broken: &mut Result<(), String>| {
        if broken.is_ok() {
            *broken = bound_once(world).and_then(|()| not_overcommitted(world));
        }
    };
    for number in 0..random.random_range(1..40) {
        let cpu = format!("{}m", 100 * random.random_range(1..=8));
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{number}"), "namespace": "default", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "web:1",
                "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}]},
        });
        let created = world.create(kinds::POD, pod);
        tally.hold(
            "a pod of a new name",
            created.map_err(|refusal| format!("{refusal:?}")),
        );
        for _ in 0..random.random_range(0..6) {
            world.step();
            check(&world, &mut broken);
        }
        if random.random_bool(0.05) {
            world.crash();
        }
    }
    world.settle_with(|world| check(world, &mut broken));
    tally.hold("scheduling", broken);
    world.assert_fixpoint();
    tally.count("scheduling", &world);
}
