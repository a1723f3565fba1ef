//! What holds whatever happens in whatever order.

use super::world::pod;
use crate::{
    Action, ImageOutcome, Instance, PodRuntime, ProbeKind, ProbeOutcome, Report, StartFailure,
    backoff, decide,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    /// Answers one of the requests that are open, well or badly.
    Answer { pick: usize, good: bool },
    /// A process ends.
    Exit { pick: usize, code: i32 },
    /// Time passes.
    Pass { seconds: i64 },
    /// The agent is killed and started again.
    Restart,
    /// Somebody deletes the pod.
    Delete { grace_s: i64 },
    /// Its namespaces are lost.
    LoseSandbox,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(pick, good)| Step::Answer { pick, good }),
        3 => (any::<usize>(), prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(pick, code)| Step::Exit { pick, code }),
        3 => (0i64..700).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Restart),
        1 => (1i64..40).prop_map(|grace_s| Step::Delete { grace_s }),
        1 => Just(Step::LoseSandbox),
    ];
    prop::collection::vec(step, 1..120)
}

/// The world as it is, beside what the agent believes.
#[derive(Default)]
struct Truth {
    /// Processes that live: container and attempt.
    live: BTreeMap<String, u32>,
    /// When each container's latest process ended, and how often it was started.
    ended: BTreeMap<String, Timestamp>,
    /// Starts whose end was seen, by container.
    starts: BTreeMap<String, Vec<(Timestamp, Option<Timestamp>)>>,
    open: Vec<Action>,
}

fn check_and_begin(
    pod: &k8s_openapi::api::core::v1::Pod,
    runtime: &mut PodRuntime,
    truth: &mut Truth,
    now: Timestamp,
) -> Result<bool, TestCaseError> {
    for round in 0.. {
        prop_assert!(round < 30, "no rest");
        let plan = decide(pod, runtime, now);
        if plan.actions.is_empty() {
            prop_assert!(
                plan.wake_at.is_none_or(|at| at > now),
                "a plan wakes later, not now"
            );
            runtime.remember(&plan.status);
            return Ok(false);
        }
        let ending = pod.metadata.deletion_timestamp.is_some() || runtime.gone;
        for action in plan.actions {
            match &action {
                Action::Start {
                    container, attempt, ..
                } => {
                    prop_assert!(!ending, "an ending pod starts nothing");
                    prop_assert!(!truth.live.contains_key(container), "two of {container}");
                    let open = truth
                        .open
                        .iter()
                        .any(|a| matches!(a, Action::Start { container: c, .. } if c == container));
                    prop_assert!(!open, "two starts of {container}");
                    let past = truth.starts.entry(container.clone()).or_default();
                    if let (Some((_, Some(_))), Some(ended)) =
                        (past.last(), truth.ended.get(container))
                    {
                        let waited = now.duration_since(*ended).as_secs();
                        // Two quick restarts in a row: the second has waited.
                        if past.len() >= 2 && *attempt >= 2 {
                            let (before_start, before_end) = past[past.len() - 2];
                            let quick = before_end.is_some_and(|end| {
                                ended.duration_since(end).as_secs() <= backoff::RESET_S
                            });
                            let _ = before_start;
                            if quick {
                                prop_assert!(waited >= i64::from(backoff::INITIAL_S));
                            }
                        }
                        prop_assert!(waited >= 0);
                    }
                    truth.open.push(action.clone());
                }
                Action::EnsureImage { .. } | Action::CreateSandbox | Action::PrepareVolumes => {
                    prop_assert!(!ending, "an ending pod prepares nothing");
                    truth.open.push(action.clone());
                }
                Action::DeleteObject | Action::Forget => {
                    prop_assert!(truth.live.is_empty(), "deleted while {:?} live", truth.live);
                    runtime.begin(&action, now);
                    return Ok(true);
                }
                Action::RemoveSandbox => {
                    prop_assert!(truth.live.is_empty());
                    truth.open.push(action.clone());
                }
                Action::RemoveVolumes | Action::Probe { .. } | Action::Hook { .. } => {
                    truth.open.push(action.clone());
                }
                _ => {}
            }
            runtime.begin(&action, now);
        }
    }
    Ok(false)
}

fn answer(action: Action, good: bool, truth: &mut Truth, now: Timestamp) -> Report {
    match action {
        Action::PrepareVolumes if good => Report::VolumesReady,
        Action::PrepareVolumes => Report::VolumesFailed(vec!["no".to_owned()]),
        Action::CreateSandbox if good => Report::SandboxReady {
            ip: "10.42.0.5".to_owned(),
        },
        Action::CreateSandbox => Report::SandboxFailed("no".to_owned()),
        Action::RemoveSandbox => Report::SandboxRemoved,
        Action::RemoveVolumes => Report::VolumesRemoved,
        Action::EnsureImage {
            container, image, ..
        } => Report::Image {
            container,
            image,
            outcome: if good {
                ImageOutcome::Present {
                    reference: "r".to_owned(),
                    id: "i".to_owned(),
                }
            } else {
                ImageOutcome::Failed {
                    reason: "ErrImagePull".to_owned(),
                    message: "no".to_owned(),
                }
            },
        },
        Action::Start {
            container, attempt, ..
        } => {
            if good {
                truth.live.insert(container.clone(), attempt);
                truth
                    .starts
                    .entry(container.clone())
                    .or_default()
                    .push((now, None));
                Report::Started {
                    id: format!("{container}-{attempt}"),
                    container,
                    attempt,
                    at: now,
                }
            } else {
                Report::StartFailed {
                    container,
                    attempt,
                    failure: StartFailure::Create("no".to_owned()),
                }
            }
        }
        Action::Probe {
            container,
            attempt,
            kind,
        } => Report::Probe {
            container,
            attempt,
            kind,
            outcome: if good {
                ProbeOutcome::Success
            } else {
                ProbeOutcome::Failure("no".to_owned())
            },
        },
        Action::Hook {
            container,
            attempt,
            kind,
            ..
        } => Report::HookDone {
            container,
            attempt,
            kind,
            error: (!good).then(|| "no".to_owned()),
        },
        other => unreachable!("{other:?} has no answer"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_runs_twice_and_ending_pods_start_nothing(
        steps in steps(),
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
    ) {
        let mut pod = pod(json!({
            "restartPolicy": policy,
            "initContainers": [
                {"name": "init", "image": "x"},
                {"name": "side", "image": "x", "restartPolicy": "Always"}
            ],
            "containers": [
                {"name": "a", "image": "x",
                 "livenessProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 1},
                 "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}},
                {"name": "b", "image": "x", "readinessProbe": {"tcpSocket": {"port": 1}}}
            ]
        }));
        let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut runtime = PodRuntime::new("192.168.1.2", now);
        let mut truth = Truth::default();
        for step in steps {
            if check_and_begin(&pod, &mut runtime, &mut truth, now)? {
                return Ok(());
            }
            match step {
                Step::Answer { pick, good } => {
                    if truth.open.is_empty() {
                        continue;
                    }
                    let action = truth.open.remove(pick % truth.open.len());
                    let report = answer(action, good, &mut truth, now);
                    runtime.observe(&pod, report, now);
                }
                Step::Exit { pick, code } => {
                    let Some((name, attempt)) =
                        truth.live.iter().nth(pick % truth.live.len().max(1)).map(|(n, a)| (n.clone(), *a))
                    else {
                        continue;
                    };
                    truth.live.remove(&name);
                    truth.ended.insert(name.clone(), now);
                    if let Some(last) = truth.starts.entry(name.clone()).or_default().last_mut() {
                        last.1 = Some(now);
                    }
                    runtime.observe(&pod, Report::Exited {
                        container: name, attempt, exit_code: code, signal: None,
                        oom_killed: false, message: String::new(), at: now,
                    }, now);
                }
                Step::Pass { seconds } => now += SignedDuration::from_secs(seconds),
                Step::Restart => {
                    let kept = serde_json::to_string(&runtime).unwrap();
                    runtime = serde_json::from_str(&kept).unwrap();
                    // Whatever was under way is done by nobody now.
                    truth.open.clear();
                    let live = truth.live.clone();
                    runtime.adopt(|name, attempt| live.get(name) == Some(&attempt));
                    for (name, record) in &runtime.containers {
                        if let Instance::Running { attempt, .. } = &record.instance {
                            prop_assert_eq!(live.get(name), Some(attempt));
                        }
                    }
                }
                Step::Delete { grace_s } => {
                    if pod.metadata.deletion_timestamp.is_none() {
                        pod.metadata.deletion_timestamp = Some(Time(now));
                        pod.metadata.deletion_grace_period_seconds = Some(grace_s);
                    }
                }
                Step::LoseSandbox => {
                    runtime.observe(&pod, Report::SandboxLost, now);
                }
            }
        }
    }

    #[test]
    fn every_wait_is_within_its_bounds(ends in prop::collection::vec(0i64..2000, 1..40)) {
        let mut at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut state = None;
        for gap in ends {
            at += SignedDuration::from_secs(gap);
            let until = backoff::BackOff::until(state.as_ref(), at);
            if let Some(until) = until {
                let wait = until.duration_since(at).as_secs();
                prop_assert!((i64::from(backoff::INITIAL_S)..=i64::from(backoff::MAX_S)).contains(&wait));
            }
            let next = backoff::BackOff::next(state.as_ref(), at);
            prop_assert!((backoff::INITIAL_S..=backoff::MAX_S).contains(&next.delay_s));
            at = until.unwrap_or(at);
            state = Some(next);
        }
    }

    #[test]
    fn a_probe_counts_its_thresholds(outcomes in prop::collection::vec(any::<bool>(), 1..60)) {
        let mut runtime = PodRuntime::new("", Timestamp::UNIX_EPOCH);
        let pod = pod(json!({"containers": [{"name": "a", "image": "x",
            "readinessProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 2, "successThreshold": 3}}]}));
        runtime.containers.entry("a".to_owned()).or_default().instance = Instance::Running {
            attempt: 0, id: "i".to_owned(), started_at: Timestamp::UNIX_EPOCH, sandbox: 0,
            post_start: None, probes: crate::Probes::default(), stopping: None,
        };
        let mut passing = false;
        for (index, outcome) in outcomes.iter().enumerate() {
            let report = Report::Probe {
                container: "a".to_owned(), attempt: 0, kind: ProbeKind::Readiness,
                outcome: if *outcome { ProbeOutcome::Success } else { ProbeOutcome::Failure(String::new()) },
            };
            runtime.observe(&pod, report, Timestamp::UNIX_EPOCH);
            let row = outcomes[..=index].iter().rev().take_while(|o| *o == outcome).count();
            if *outcome && row >= 3 { passing = true; }
            if !*outcome && row >= 2 { passing = false; }
            let Instance::Running { probes, .. } = &runtime.containers["a"].instance else { unreachable!() };
            prop_assert_eq!(probes.readiness.passing, passing);
        }
    }
}
