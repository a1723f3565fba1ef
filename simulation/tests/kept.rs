//! Kept seeds must show the bug that they were kept for while it is put back, and hold without it.

use std::process::{Command, Output};

/// Three of the first eight seeds find it: 0, 4 and 6.
const LEADER_RESTORE_WITHIN: &str = "5";

/// Each of the proxies' planted bugs is found by one of the first so many seeds.
const PROXY_BUGS_WITHIN: &str = "20";

fn world(arguments: &[&str]) -> Output {
    simulation("world", arguments)
}

fn simulation(kind: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulation"))
        .arg(kind)
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

fn seeds(name: &str) -> Vec<String> {
    let path = format!("{}/seeds/{name}.seeds", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let seeds: Vec<String> = lines
        .map(|line| line.split(':').next().unwrap().trim().to_owned())
        .collect();
    assert!(!seeds.is_empty(), "no seeds in {name}");
    seeds
}

#[test]
fn kept_seeds_show_the_restored_leader() {
    for seed in seeds("leader_restore") {
        let output = world(&["--seed", &seed, "--planted", "leader_restore"]);
        let said = said(&output);
        assert!(
            !output.status.success(),
            "seed {seed} no longer shows it: {said}"
        );
        assert!(
            said.contains("VIOLATES the same state at the same index")
                || said.contains("VIOLATES no acknowledged write is lost"),
            "seed {seed} shows something else: {said}"
        );
        // Without the bug the same seed holds.
        let output = world(&["--seed", &seed]);
        assert!(output.status.success(), "{}", self::said(&output));
    }
}

#[test]
fn the_restored_leader_is_found_in_a_few_seeds() {
    let output = world(&[
        "--planted",
        "leader_restore",
        "--within",
        LEADER_RESTORE_WITHIN,
    ]);
    assert!(output.status.success(), "{}", said(&output));
}

/// What is left of a failing world fails by itself, with the command that is printed.
#[test]
fn a_failing_world_is_shrunk() {
    let seed = &seeds("leader_restore")[0];
    let planted = ["--seed", seed, "--planted", "leader_restore"];
    let output = world(&[&planted[..], &["--shrink"]].concat());
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    let command = said.lines().last().unwrap();
    let arguments: Vec<&str> = command.split_whitespace().skip(2).collect();
    let kept = arguments
        .iter()
        .find_map(|it| it.strip_prefix("--only-faults="));
    assert!(kept.is_some_and(|it| it.split(',').count() < 10), "{said}");
    let again = world(&arguments);
    assert!(!again.status.success(), "{command}: {}", self::said(&again));
}

#[test]
fn seeds_that_found_bugs_hold() {
    for kind in ["world", "proxy"] {
        for seed in seeds(kind) {
            let output = simulation(kind, &["--seed", &seed]);
            assert!(output.status.success(), "{}", said(&output));
        }
    }
}

#[test]
fn every_planted_bug_of_proxies_is_found_in_a_few_seeds() {
    let output = simulation(
        "proxy",
        &["--planted", "all", "--within", PROXY_BUGS_WITHIN],
    );
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output).matches(": found by seed").count(), 9);
}

#[test]
fn a_seed_gives_one_trace() {
    for kind in ["proxy", "logic"] {
        let output = simulation(kind, &["--seeds", "0..2", "--twice"]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let output = world(&["--seeds", "0..2", "--twice"]);
    assert!(output.status.success(), "{}", said(&output));
    let other = world(&["--seed", "1", "--trace"]);
    let trace_of = |output: &Output| {
        let text = said(output);
        let line = text.lines().find(|line| line.starts_with("seed 1:"));
        line.and_then(|line| line.split("trace ").nth(1))
            .map(|rest| rest.split(' ').next().unwrap_or_default().to_owned())
    };
    assert!(trace_of(&output).is_some());
    assert_eq!(trace_of(&output), trace_of(&other));
}
