//! The pod's life as tables of what happens and what the agent is asked for.

mod properties;
mod sidecars;
mod world;

use crate::{
    HookKind, ImageOutcome, Outcome, ProbeKind, ProbeOutcome, Report, StartFailure, admit, qos,
};
use serde_json::json;
use world::{World, pod};

#[test]
fn a_pod_starts_and_becomes_ready() {
    let mut world = World::new(pod(json!({
        "containers": [{"name": "app", "image": "nginx", "imagePullPolicy": "IfNotPresent"}]
    })));
    assert_eq!(
        world.begun(),
        [
            "PrepareVolumes",
            "CreateSandbox",
            "EnsureImage app nginx IfNotPresent"
        ]
    );
    assert_eq!(world.waiting("app"), "ContainerCreating");
    world.image_ready("app");
    world.report(Report::VolumesReady);
    assert_eq!(world.begun(), Vec::<String>::new());
    world.sandbox_ready("10.42.0.5");
    assert_eq!(world.begun(), ["Start app 0"]);
    assert_eq!(world.condition("Ready"), "False ContainersNotReady");
    world.started("app", 0);
    assert_eq!(world.begun(), Vec::<String>::new());
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.condition("Ready"), "True ");
    assert_eq!(world.condition("Initialized"), "True ");
    assert_eq!(world.condition("PodReadyToStartContainers"), "True ");
    let status = world.status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.42.0.5"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let app = &status.container_statuses.unwrap()[0];
    assert!(app.ready && app.started == Some(true));
    assert_eq!(app.container_id.as_deref(), Some("trireme://app-0"));
    assert_eq!(
        world.told(),
        [
            "Normal Pulled Container image \"nginx\" already present on machine",
            "Normal Created Created container: app",
            "Normal Started Started container app",
        ]
    );
}

#[test]
fn restarts_wait_ten_seconds_doubling_to_five_minutes_and_are_forgotten_after_ten() {
    let mut world = World::running(pod(json!({
        "containers": [{"name": "app", "image": "nginx", "imagePullPolicy": "IfNotPresent"}]
    })));
    let mut waits = Vec::new();
    for attempt in 0..8 {
        world.advance_s(1);
        world.exited("app", attempt, 1);
        let ended = world.now;
        world.settle(|world| {
            if !waits.is_empty() || attempt > 0 {
                assert_eq!(world.waiting("app"), "CrashLoopBackOff");
            }
        });
        waits.push(world.now.duration_since(ended).as_secs());
        assert_eq!(world.restart_count("app"), attempt + 1);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    world.advance_s(601);
    world.exited("app", 8, 0);
    let ended = world.now;
    world.settle(|_| ());
    assert_eq!(world.now, ended, "ten quiet minutes earn a restart at once");
}

#[test]
fn crash_loop_is_told_in_the_kubelets_words() {
    let mut world = World::running(pod(json!({
        "containers": [{"name": "app", "image": "nginx", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.exited("app", 0, 3);
    world.settle(|_| ());
    world.exited("app", 1, 3);
    world.step();
    let status = world.status();
    let app = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = app.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 10s restarting failed container=app pod=web_default(u1)")
    );
    let last = app
        .last_state
        .as_ref()
        .unwrap()
        .terminated
        .as_ref()
        .unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert!(
        world.told().contains(
            &"Warning BackOff Back-off restarting failed container app in pod web_default(u1)"
                .to_owned()
        )
    );
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_pod_that_never_restarts_ends() {
    for (code, phase) in [(0, "Succeeded"), (2, "Failed")] {
        let mut world = World::running(pod(json!({
            "restartPolicy": "Never",
            "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
        })));
        world.exited("app", 0, code);
        assert_eq!(world.begun(), ["RemoveSandbox"]);
        assert_eq!(world.phase(), phase);
        world.report(Report::SandboxRemoved);
        assert_eq!(world.begun(), ["RemoveVolumes"]);
        world.report(Report::VolumesRemoved);
        assert_eq!(world.begun(), Vec::<String>::new());
        assert_eq!(world.status().pod_ip.as_deref(), Some("10.42.0.5"));
    }
}

#[test]
fn on_failure_restarts_failures_only() {
    let mut world = World::running(pod(json!({
        "restartPolicy": "OnFailure",
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.exited("app", 0, 1);
    world.settle(|_| ());
    world.exited("app", 1, 0);
    world.step();
    assert_eq!(world.phase(), "Succeeded");
    assert_eq!(world.restart_count("app"), 1);
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let mut world = World::new(pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "one", "image": "x", "imagePullPolicy": "IfNotPresent"}],
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.step();
    world.report(Report::VolumesReady);
    world.sandbox_ready("10.42.0.5");
    world.image_ready("one");
    world.step();
    world.started("one", 0);
    world.exited("one", 0, 9);
    assert_eq!(world.begun(), ["RemoveSandbox"]);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.waiting("app"), "PodInitializing");
}

#[test]
fn images_that_cannot_be_pulled_show_the_registrys_words() {
    let mut world = World::new(pod(json!({
        "containers": [{"name": "app", "image": "nosuch:1", "imagePullPolicy": "Always"}]
    })));
    world.step();
    let failed = |world: &mut World| {
        world.report(Report::Image {
            container: "app".to_owned(),
            image: "nosuch:1".to_owned(),
            outcome: ImageOutcome::Failed {
                reason: "ErrImagePull".to_owned(),
                message: "manifest unknown".to_owned(),
            },
        });
        world.step();
    };
    failed(&mut world);
    assert_eq!(world.waiting("app"), "ErrImagePull");
    assert_eq!(world.waiting_message("app"), "manifest unknown");
    world.advance_s(3);
    world.step();
    assert_eq!(world.waiting("app"), "ImagePullBackOff");
    assert_eq!(
        world.waiting_message("app"),
        "Back-off pulling image \"nosuch:1\": ErrImagePull: manifest unknown"
    );
    assert_eq!(
        world.told(),
        [
            "Warning Failed Failed to pull image \"nosuch:1\": manifest unknown",
            "Warning Failed Error: ErrImagePull",
            "Normal BackOff Back-off pulling image \"nosuch:1\"",
            "Warning Failed Error: ImagePullBackOff",
        ]
    );
    let mut waits = Vec::new();
    for _ in 0..7 {
        let failed_at = world.now;
        while world.last_begun() != ["EnsureImage app nosuch:1 Always"] {
            world.wake();
        }
        waits.push(world.now.duration_since(failed_at).as_secs());
        failed(&mut world);
    }
    // Three seconds of the first wait had passed already.
    assert_eq!(waits, [7, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn configuration_that_does_not_resolve_is_tried_again() {
    let mut world = World::new(pod(json!({
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.step();
    world.report(Report::VolumesReady);
    world.sandbox_ready("10.42.0.5");
    world.image_ready("app");
    assert_eq!(world.begun(), ["Start app 0"]);
    world.report(Report::StartFailed {
        container: "app".to_owned(),
        attempt: 0,
        failure: StartFailure::Config("configmap \"nosuch\" not found".to_owned()),
    });
    assert_eq!(world.begun(), Vec::<String>::new());
    assert_eq!(world.waiting("app"), "CreateContainerConfigError");
    assert_eq!(
        world.waiting_message("app"),
        "configmap \"nosuch\" not found"
    );
    assert_eq!(world.restart_count("app"), 0);
    world.report(Report::TryAgain);
    assert_eq!(world.begun(), ["Start app 0"]);
    world.started("app", 0);
    world.step();
    assert_eq!(world.condition("Ready"), "True ");
    assert_eq!(world.restart_count("app"), 0);
}

#[test]
fn a_program_that_cannot_start_counts_as_an_exit_with_128() {
    let mut world = World::new(pod(json!({
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.step();
    world.report(Report::VolumesReady);
    world.sandbox_ready("10.42.0.5");
    world.image_ready("app");
    world.step();
    for attempt in 0..2 {
        world.report(Report::StartFailed {
            container: "app".to_owned(),
            attempt,
            failure: StartFailure::Run {
                id: format!("app-{attempt}"),
                message: "exec: \"nosuch\": executable file not found in $PATH".to_owned(),
            },
        });
        world.step();
        if attempt == 0 {
            assert_eq!(world.waiting("app"), "RunContainerError");
            world.image_ready("app");
            assert_eq!(world.begun(), ["Start app 1"]);
        }
    }
    assert_eq!(world.waiting("app"), "CrashLoopBackOff");
    let status = world.status();
    let app = &status.container_statuses.as_ref().unwrap()[0];
    let last = app
        .last_state
        .as_ref()
        .unwrap()
        .terminated
        .as_ref()
        .unwrap();
    assert_eq!(
        (last.exit_code, last.reason.as_deref()),
        (128, Some("StartError"))
    );
}

#[test]
fn deletion_runs_the_hook_then_asks_then_kills_then_deletes() {
    let mut world = World::running(pod(json!({
        "terminationGracePeriodSeconds": 5,
        "containers": [{
            "name": "app", "image": "x", "imagePullPolicy": "IfNotPresent",
            "lifecycle": {"preStop": {"exec": {"command": ["/bin/stop"]}}}
        }]
    })));
    world.delete(5);
    assert_eq!(
        world.begun(),
        ["Terminate 5", "Stop app 5 PodEnds", "Hook app PreStop"]
    );
    world.advance_s(2);
    world.report(Report::HookDone {
        container: "app".to_owned(),
        attempt: 0,
        kind: HookKind::PreStop,
        error: None,
    });
    assert_eq!(world.begun(), ["Signal app SIGTERM 3"]);
    assert_eq!(world.phase(), "Running");
    world.wake();
    assert_eq!(world.last_begun(), ["Signal app SIGKILL 0"]);
    assert_eq!(
        world
            .now
            .duration_since(world.deleted_at.unwrap())
            .as_secs(),
        5
    );
    world.exited("app", 0, 137);
    assert_eq!(world.begun(), ["RemoveSandbox"]);
    world.report(Report::SandboxRemoved);
    assert_eq!(world.begun(), ["RemoveVolumes"]);
    world.report(Report::VolumesRemoved);
    assert_eq!(world.begun(), ["DeleteObject"]);
    assert_eq!(world.phase(), "Failed");
    world.report(Report::DeleteFailed);
    assert_eq!(world.begun(), Vec::<String>::new());
    world.wake();
    assert_eq!(world.last_begun(), ["DeleteObject"]);
    world.report(Report::Deleted);
    assert_eq!(world.begun(), ["Forget"]);
}

#[test]
fn a_forced_deletion_leaves_a_second() {
    let mut world = World::running(pod(json!({
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.report(Report::Deleted);
    assert_eq!(
        world.begun(),
        ["Terminate 1", "Stop app 1 PodEnds", "Signal app SIGTERM 1"]
    );
    world.wake();
    assert_eq!(world.last_begun(), ["Signal app SIGKILL 0"]);
}

#[test]
fn a_second_deletion_with_less_grace_shortens_the_first() {
    let mut world = World::running(pod(json!({
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.delete(30);
    world.step();
    world.advance_s(4);
    world.delete(2);
    world.step();
    world.wake();
    assert_eq!(world.last_begun(), ["Signal app SIGKILL 0"]);
    assert_eq!(
        world
            .now
            .duration_since(world.deleted_at.unwrap())
            .as_secs(),
        2
    );
}

/// Between the plan that stops and the one that signals some time passes; the grace is not rounded
/// down by it.
#[test]
fn the_grace_period_is_whole_however_late_the_signal_is() {
    let mut world = World::running(pod(json!({
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    let deleted = world.now;
    world.delete(2);
    // Terminate, stop and signal are decided one after the other.
    for _ in 0..4 {
        let plan = crate::decide(&world.pod, &world.runtime, world.now);
        for action in &plan.actions {
            world.runtime.begin(action, world.now);
        }
        world.now += jiff::SignedDuration::from_millis(3);
    }
    world.wake();
    assert_eq!(world.last_begun(), ["Signal app SIGKILL 0"]);
    assert!(world.now.duration_since(deleted).as_millis() >= 2000);
}

#[test]
fn a_start_that_is_under_way_is_awaited_and_then_stopped() {
    let mut world = World::new(pod(json!({
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.step();
    world.report(Report::VolumesReady);
    world.sandbox_ready("10.42.0.5");
    world.image_ready("app");
    world.step();
    world.delete(30);
    assert_eq!(world.begun(), ["Terminate 30"]);
    world.started("app", 0);
    assert_eq!(
        world.begun(),
        ["Stop app 30 PodEnds", "Signal app SIGTERM 30"]
    );
}

#[test]
fn liveness_kills_and_restarts_after_the_threshold() {
    let mut world = World::running(pod(json!({
        "containers": [{
            "name": "app", "image": "x", "imagePullPolicy": "IfNotPresent",
            "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 5, "failureThreshold": 3,
                               "initialDelaySeconds": 7, "terminationGracePeriodSeconds": 4}
        }]
    })));
    let began = world.now;
    for n in 0..3 {
        world.wake();
        assert_eq!(world.last_begun(), ["Probe app Liveness"]);
        assert_eq!(world.now.duration_since(began).as_secs(), 7 + 5 * n);
        world.probed(
            "app",
            0,
            ProbeKind::Liveness,
            ProbeOutcome::Failure("refused".to_owned()),
        );
        world.step();
    }
    assert_eq!(
        world.last_begun(),
        ["Stop app 4 Liveness", "Signal app SIGTERM 4"]
    );
    assert_eq!(
        &world.told()[..],
        [
            "Warning Unhealthy Liveness probe failed: refused",
            "Warning Unhealthy Liveness probe failed: refused",
            "Warning Unhealthy Liveness probe failed: refused",
            "Normal Killing Container app failed liveness probe, will be restarted",
        ]
    );
    world.exited("app", 0, 143);
    world.settle(|_| ());
    assert_eq!(world.restart_count("app"), 1);
}

#[test]
fn readiness_follows_its_thresholds_and_waits_for_startup() {
    let mut world = World::running(pod(json!({
        "containers": [{
            "name": "app", "image": "x", "imagePullPolicy": "IfNotPresent",
            "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1},
            "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 2, "successThreshold": 2, "failureThreshold": 2}
        }]
    })));
    assert_eq!(world.last_begun(), ["Probe app Startup"]);
    world.probed(
        "app",
        0,
        ProbeKind::Startup,
        ProbeOutcome::Failure("no".to_owned()),
    );
    world.wake();
    assert_eq!(world.last_begun(), ["Probe app Startup"]);
    assert_eq!(world.started_flag("app"), Some(false));
    world.probed("app", 0, ProbeKind::Startup, ProbeOutcome::Success);
    assert_eq!(world.begun(), ["Probe app Readiness"]);
    assert_eq!(world.started_flag("app"), Some(true));
    let mut seen = Vec::new();
    for outcome in [true, true, false, false, true, true] {
        let outcome = if outcome {
            ProbeOutcome::Success
        } else {
            ProbeOutcome::Failure("no".to_owned())
        };
        world.probed("app", 0, ProbeKind::Readiness, outcome);
        world.step();
        seen.push(world.condition("Ready").starts_with("True"));
        world.wake();
        assert_eq!(world.last_begun(), ["Probe app Readiness"]);
    }
    assert_eq!(seen, [false, true, true, false, false, true]);
}

#[test]
fn transition_times_move_only_with_the_condition() {
    let mut world = World::running(pod(json!({
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    let first = world.status();
    world.advance_s(100);
    world.step();
    assert_eq!(
        world.status(),
        first,
        "nothing happened, so nothing is reported"
    );
}

#[test]
fn a_changed_image_replaces_the_container_whatever_the_policy() {
    let mut world = World::running(pod(json!({
        "restartPolicy": "Never",
        "containers": [{"name": "app", "image": "x:1", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.pod.spec.as_mut().unwrap().containers[0].image = Some("x:2".to_owned());
    assert_eq!(
        world.begun(),
        ["Stop app 30 ImageChanged", "Signal app SIGTERM 30"]
    );
    world.exited("app", 0, 143);
    assert_eq!(world.begun(), ["EnsureImage app x:2 IfNotPresent"]);
    assert_eq!(world.phase(), "Running");
    world.image_ready("app");
    assert_eq!(world.begun(), ["Start app 1"]);
    world.started("app", 1);
    assert_eq!(world.begun(), Vec::<String>::new());
    world.exited("app", 1, 0);
    world.step();
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn a_deadline_ends_the_pod() {
    let mut world = World::running(pod(json!({
        "activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 3,
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.wake();
    assert_eq!(world.last_begun()[0], "Terminate 3 DeadlineExceeded");
    world.exited("app", 0, 143);
    world.step();
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.status().reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_lost_sandbox_is_made_again_and_init_runs_again() {
    let mut world = World::running(pod(json!({
        "initContainers": [{"name": "one", "image": "x", "imagePullPolicy": "IfNotPresent"}],
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.exited("app", 0, 137);
    world.report(Report::SandboxLost);
    world.step();
    world.sandbox_ready("10.42.0.9");
    world.image_ready("one");
    world.step();
    assert_eq!(world.last_begun(), ["Start one 1"]);
    world.started("one", 1);
    world.exited("one", 1, 0);
    world.image_ready("app");
    world.settle(|_| ());
    assert_eq!(world.restart_count("app"), 1);
    assert_eq!(world.status().pod_ip.as_deref(), Some("10.42.0.9"));
}

#[test]
fn adoption_starts_nothing_again() {
    let mut world = World::running(pod(json!({
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent",
                        "readinessProbe": {"tcpSocket": {"port": 80}}}]
    })));
    world.probed("app", 0, ProbeKind::Readiness, ProbeOutcome::Success);
    world.step();
    let before = world.status();
    let kept = serde_json::to_string(&world.runtime).unwrap();
    world.runtime = serde_json::from_str(&kept).unwrap();
    world.runtime.adopt(|_, _| true);
    assert_eq!(world.begun(), Vec::<String>::new());
    assert_eq!(world.status(), before);
}

#[test]
fn a_pod_refused_by_the_node_fails_without_containers() {
    let node = serde_json::from_value(json!({
        "metadata": {"name": "n1", "labels": {"disk": "ssd"}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}}
    }))
    .unwrap();
    let one = |spec: serde_json::Value| pod(spec);
    let big =
        one(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1500m"}}}]}));
    assert_eq!(admit::admit(&node, &[], &big), Ok(()));
    let refused = admit::admit(&node, &[&big], &big).unwrap_err();
    assert_eq!(refused.reason, "OutOfcpu");
    assert_eq!(
        refused.message,
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"
    );
    let picky = one(json!({"nodeSelector": {"disk": "hdd"}, "containers": [{"name": "a"}]}));
    assert_eq!(
        admit::admit(&node, &[], &picky).unwrap_err().reason,
        "NodeAffinity"
    );
    let small = one(json!({"containers": [{"name": "a"}]}));
    assert_eq!(
        admit::admit(&node, &[&small, &small], &small)
            .unwrap_err()
            .reason,
        "OutOfpods"
    );

    let mut world = World::new(picky);
    world.runtime.outcome = Some(Outcome {
        phase: "Failed".to_owned(),
        reason: "NodeAffinity".to_owned(),
        message: "no".to_owned(),
    });
    assert_eq!(world.begun(), ["Terminate 30 NodeAffinity"]);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.status().container_statuses, None);
}

#[test]
fn a_pod_that_the_api_calls_failed_is_not_started() {
    let mut ended = pod(json!({"containers": [{"name": "app", "image": "x"}]}));
    ended.status = serde_json::from_value(json!({"phase": "Failed", "reason": "Evicted"})).unwrap();
    let mut world = World::new(ended);
    assert_eq!(world.begun(), ["Terminate 30 Evicted"]);
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn post_start_failure_stops_the_container() {
    let mut world = World::running(pod(json!({
        "containers": [{
            "name": "app", "image": "x", "imagePullPolicy": "IfNotPresent",
            "lifecycle": {"postStart": {"exec": {"command": ["/nosuch"]}}}
        }]
    })));
    assert_eq!(world.last_begun(), ["Hook app PostStart"]);
    assert_eq!(world.condition("Ready"), "False ContainersNotReady");
    world.report(Report::HookDone {
        container: "app".to_owned(),
        attempt: 0,
        kind: HookKind::PostStart,
        error: Some("no such file".to_owned()),
    });
    assert_eq!(world.begun(), ["Signal app SIGTERM 30"]);
}

#[test]
fn quality_of_service() {
    let of = |resources: serde_json::Value| {
        qos::class(&pod(
            json!({"containers": [{"name": "a", "resources": resources}]}),
        ))
    };
    assert_eq!(of(json!({})), "BestEffort");
    assert_eq!(
        of(json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
        "Guaranteed"
    );
    assert_eq!(
        of(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}})
        ),
        "Guaranteed"
    );
    assert_eq!(of(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(of(json!({"limits": {"memory": "1Gi"}})), "Burstable");
}

#[test]
fn oom_is_named() {
    let mut world = World::running(pod(json!({
        "restartPolicy": "Never",
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.report(Report::Exited {
        container: "app".to_owned(),
        attempt: 0,
        exit_code: 137,
        signal: Some(9),
        oom_killed: true,
        message: "last words".to_owned(),
        at: world.now,
    });
    world.step();
    let status = world.status();
    let ended = status.container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!(ended.reason.as_deref(), Some("OOMKilled"));
    assert_eq!(ended.message.as_deref(), Some("last words"));
    assert_eq!(ended.exit_code, 137);
    assert!(!world.begun().iter().any(|a| a.starts_with("Start")));
}
