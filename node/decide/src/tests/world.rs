//! A driver for one pod without any world behind it: what was begun is listed, what happened is
//! reported by the test.

use crate::{
    Action, EventRecord, EventType, ImageOutcome, PodRuntime, ProbeKind, ProbeOutcome, Report,
    decide,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// A pod `default/web` with uid `u1`.
pub fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u1", "generation": 1},
        "spec": spec
    }))
    .unwrap()
}

pub struct World {
    pub pod: Pod,
    pub runtime: PodRuntime,
    pub now: Timestamp,
    pub deleted_at: Option<Timestamp>,
    wake_at: Option<Timestamp>,
    begun: Vec<String>,
    told: Vec<EventRecord>,
    status: PodStatus,
}

impl World {
    pub fn new(pod: Pod) -> Self {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        World {
            runtime: PodRuntime::new("192.168.1.2", now),
            pod,
            now,
            deleted_at: None,
            wake_at: None,
            begun: Vec::new(),
            told: Vec::new(),
            status: PodStatus::default(),
        }
    }

    /// A pod whose containers were all started (init containers ended well), with no event told.
    pub fn running(pod: Pod) -> Self {
        let mut world = World::new(pod);
        world.step();
        world.report(Report::VolumesReady);
        world.sandbox_ready("10.42.0.5");
        for found in crate::containers(&world.pod.clone()) {
            world.step();
            let name = &found.container.name;
            world.image_ready(name);
            world.step();
            world.started(name, 0);
            if found.class == crate::ContainerClass::Init {
                world.exited(name, 0, 0);
            }
        }
        world.step();
        world.told.clear();
        world
    }

    /// Decides and begins until nothing more is asked for.
    pub fn step(&mut self) {
        self.begun.clear();
        for round in 0.. {
            assert!(
                round < 20,
                "the plan does not come to rest: {:?}",
                self.begun
            );
            let plan = decide(&self.pod, &self.runtime, self.now);
            assert_eq!(
                plan,
                decide(&self.pod, &self.runtime, self.now),
                "a plan is a function"
            );
            for action in &plan.actions {
                self.runtime.begin(action, self.now);
                match action {
                    Action::Event(event) => self.told.push(event.clone()),
                    Action::BackOffTold { .. } => {}
                    _ => self.begun.push(describe(action)),
                }
            }
            self.runtime.remember(&plan.status);
            let rest = plan.actions.is_empty();
            let last = matches!(plan.actions.last(), Some(Action::Forget));
            self.status = plan.status;
            self.wake_at = plan.wake_at;
            if rest || last {
                break;
            }
        }
    }

    pub fn begun(&mut self) -> Vec<String> {
        self.step();
        self.begun.clone()
    }

    pub fn last_begun(&self) -> &[String] {
        &self.begun
    }

    pub fn told(&self) -> Vec<String> {
        let line = |event: &EventRecord| {
            let kind = match event.event_type {
                EventType::Normal => "Normal",
                EventType::Warning => "Warning",
            };
            format!("{kind} {} {}", event.reason, event.message)
        };
        self.told.iter().map(line).collect()
    }

    pub fn report(&mut self, report: Report) {
        let events = self.runtime.observe(&self.pod, report, self.now);
        self.told.extend(events);
    }

    pub fn sandbox_ready(&mut self, ip: &str) {
        self.report(Report::SandboxReady { ip: ip.to_owned() });
    }

    /// Answers an image request, if there is one, that the image is present.
    pub fn image_ready(&mut self, name: &str) {
        self.step();
        let image = crate::containers(&self.pod)
            .into_iter()
            .find(|c| c.container.name == name)
            .and_then(|c| c.container.image)
            .unwrap_or_default();
        self.report(Report::Image {
            container: name.to_owned(),
            image: image.clone(),
            outcome: ImageOutcome::Present {
                reference: format!("docker.io/library/{image}"),
                id: "sha256:1".to_owned(),
            },
        });
    }

    pub fn started(&mut self, name: &str, attempt: u32) {
        self.report(Report::Started {
            container: name.to_owned(),
            attempt,
            id: format!("{name}-{attempt}"),
            at: self.now,
        });
    }

    pub fn exited(&mut self, name: &str, attempt: u32, exit_code: i32) {
        self.report(Report::Exited {
            container: name.to_owned(),
            attempt,
            exit_code,
            signal: (exit_code > 128).then_some(exit_code - 128),
            oom_killed: false,
            message: String::new(),
            at: self.now,
        });
    }

    pub fn probed(&mut self, name: &str, attempt: u32, kind: ProbeKind, outcome: ProbeOutcome) {
        self.report(Report::Probe {
            container: name.to_owned(),
            attempt,
            kind,
            outcome,
        });
    }

    pub fn delete(&mut self, grace_s: i64) {
        self.deleted_at = Some(self.now);
        let at = self.now + SignedDuration::from_secs(grace_s);
        self.pod.metadata.deletion_timestamp = Some(Time(at));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace_s);
    }

    pub fn advance_s(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Lets time pass to when the plan asked to be made again.
    pub fn wake(&mut self) {
        self.step();
        self.now = self.wake_at.expect("nothing is waited for");
        self.step();
    }

    /// Answers images and starts until everything that is to run, runs.
    pub fn settle(&mut self, mut each: impl FnMut(&World)) {
        for _ in 0..100 {
            self.step();
            let asked: Vec<String> = self.begun.clone();
            if asked.is_empty() {
                match self.wake_at {
                    Some(at) => {
                        each(self);
                        self.now = at;
                        continue;
                    }
                    None => return,
                }
            }
            for line in asked {
                let words: Vec<&str> = line.split(' ').collect();
                match words[..] {
                    ["EnsureImage", name, ..] => self.image_ready_now(name),
                    ["Start", name, attempt] => self.started(name, attempt.parse().unwrap()),
                    _ => {}
                }
            }
        }
    }

    fn image_ready_now(&mut self, name: &str) {
        self.report(Report::Image {
            container: name.to_owned(),
            image: String::new(),
            outcome: ImageOutcome::Present {
                reference: "r".to_owned(),
                id: "sha256:1".to_owned(),
            },
        });
    }

    pub fn status(&self) -> PodStatus {
        self.status.clone()
    }

    pub fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or_default()
    }

    fn container(&self, name: &str) -> ContainerStatus {
        let lists = [
            &self.status.init_container_statuses,
            &self.status.container_statuses,
        ];
        let all = lists.into_iter().flatten().flatten();
        all.into_iter()
            .find(|s| s.name == name)
            .cloned()
            .unwrap_or_else(|| panic!("no status of {name}"))
    }

    pub fn waiting(&self, name: &str) -> String {
        let state = self.container(name).state.unwrap_or_default();
        state.waiting.and_then(|w| w.reason).unwrap_or_default()
    }

    pub fn waiting_message(&self, name: &str) -> String {
        let state = self.container(name).state.unwrap_or_default();
        state.waiting.and_then(|w| w.message).unwrap_or_default()
    }

    pub fn restart_count(&self, name: &str) -> u32 {
        u32::try_from(self.container(name).restart_count).unwrap()
    }

    pub fn started_flag(&self, name: &str) -> Option<bool> {
        self.container(name).started
    }

    pub fn condition(&self, name: &str) -> String {
        let all = self.status.conditions.iter().flatten();
        all.into_iter()
            .find(|c| c.type_ == name)
            .map(|c| format!("{} {}", c.status, c.reason.clone().unwrap_or_default()))
            .unwrap_or_default()
    }
}

fn describe(action: &Action) -> String {
    match action {
        Action::PrepareVolumes => "PrepareVolumes".to_owned(),
        Action::CreateSandbox => "CreateSandbox".to_owned(),
        Action::EnsureImage {
            container,
            image,
            policy,
        } => format!("EnsureImage {container} {image} {policy}"),
        Action::Start {
            container, attempt, ..
        } => format!("Start {container} {attempt}"),
        Action::Hook {
            container, kind, ..
        } => format!("Hook {container} {kind:?}"),
        Action::Probe {
            container, kind, ..
        } => format!("Probe {container} {kind:?}"),
        Action::Stop {
            container,
            reason,
            grace_s,
            ..
        } => format!("Stop {container} {grace_s} {reason:?}"),
        Action::Signal {
            container,
            signal,
            grace_s,
            ..
        } => format!("Signal {container} {signal} {grace_s}"),
        Action::Terminate { grace_s, outcome } => match outcome {
            Some(outcome) => format!("Terminate {grace_s} {}", outcome.reason),
            None => format!("Terminate {grace_s}"),
        },
        Action::RemoveSandbox => "RemoveSandbox".to_owned(),
        Action::RemoveVolumes => "RemoveVolumes".to_owned(),
        Action::DeleteObject => "DeleteObject".to_owned(),
        Action::Forget => "Forget".to_owned(),
        Action::Event(_) | Action::BackOffTold { .. } => String::new(),
    }
}
