//! Init containers with `restartPolicy: Always` (KEP-753).

use super::world::{World, pod};
use crate::{ProbeKind, ProbeOutcome, Report};
use serde_json::json;

#[test]
fn init_containers_run_in_order_and_sidecars_stay() {
    let mut world = World::new(pod(json!({
        "initContainers": [
            {"name": "one", "image": "x", "imagePullPolicy": "IfNotPresent"},
            {"name": "mesh", "image": "x", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always"},
            {"name": "two", "image": "x", "imagePullPolicy": "IfNotPresent"}
        ],
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.step();
    world.report(Report::VolumesReady);
    world.sandbox_ready("10.42.0.5");
    assert_eq!(world.waiting("app"), "PodInitializing");
    world.image_ready("one");
    assert_eq!(world.begun(), ["Start one 0"]);
    world.started("one", 0);
    assert_eq!(world.begun(), Vec::<String>::new());
    assert_eq!(world.phase(), "Pending");
    world.exited("one", 0, 0);
    assert_eq!(world.begun(), ["EnsureImage mesh x IfNotPresent"]);
    world.image_ready("mesh");
    world.step();
    world.started("mesh", 0);
    assert_eq!(world.begun(), ["EnsureImage two x IfNotPresent"]);
    assert_eq!(
        world.condition("Initialized"),
        "False ContainersNotInitialized"
    );
    world.image_ready("two");
    world.step();
    world.started("two", 0);
    world.exited("two", 0, 0);
    assert_eq!(world.begun(), ["EnsureImage app x IfNotPresent"]);
    world.image_ready("app");
    world.step();
    world.started("app", 0);
    world.step();
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.condition("Ready"), "True ");
    // A sidecar comes back; init containers do not.
    world.exited("mesh", 0, 0);
    assert_eq!(world.begun(), ["EnsureImage mesh x IfNotPresent"]);
    assert_eq!(world.phase(), "Running");
}

#[test]
fn sidecars_end_after_the_application() {
    let mut world = World::running(pod(json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "a", "image": "x", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always"},
            {"name": "b", "image": "x", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always"}
        ],
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.exited("app", 0, 0);
    world.step();
    assert_eq!(
        world.phase(),
        "Running",
        "not before the sidecars have ended"
    );
    assert_eq!(
        world.last_begun(),
        ["Stop b 30 PodEnds", "Signal b SIGTERM 30"]
    );
    world.exited("b", 0, 143);
    assert_eq!(world.begun(), ["Stop a 30 PodEnds", "Signal a SIGTERM 30"]);
    world.exited("a", 0, 143);
    assert_eq!(world.begun(), ["RemoveSandbox"]);
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn a_sidecar_gates_the_application_by_its_startup_probe_and_the_pod_by_its_readiness() {
    let mut world = World::new(pod(json!({
        "initContainers": [
            {"name": "mesh", "image": "x", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always",
             "startupProbe": {"httpGet": {"port": 15021}, "periodSeconds": 1},
             "readinessProbe": {"httpGet": {"port": 15021}, "periodSeconds": 1, "failureThreshold": 1}}
        ],
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.step();
    world.report(Report::VolumesReady);
    world.sandbox_ready("10.42.0.5");
    world.image_ready("mesh");
    world.step();
    world.started("mesh", 0);
    assert_eq!(world.begun(), ["Probe mesh Startup"]);
    let fails = || ProbeOutcome::Failure("connection refused".to_owned());
    world.probed("mesh", 0, ProbeKind::Startup, fails());
    world.wake();
    assert_eq!(
        world.last_begun(),
        ["Probe mesh Startup"],
        "not the application"
    );
    world.probed("mesh", 0, ProbeKind::Startup, ProbeOutcome::Success);
    assert_eq!(
        world.begun(),
        ["Probe mesh Readiness", "EnsureImage app x IfNotPresent"]
    );
    world.image_ready("app");
    world.step();
    world.started("app", 0);
    world.step();
    assert_eq!(
        world.condition("ContainersReady"),
        "False ContainersNotReady"
    );
    world.probed("mesh", 0, ProbeKind::Readiness, ProbeOutcome::Success);
    world.step();
    assert_eq!(world.condition("ContainersReady"), "True ");
    world.advance_s(2);
    world.step();
    world.probed("mesh", 0, ProbeKind::Readiness, fails());
    world.step();
    assert_eq!(world.condition("Ready"), "False ContainersNotReady");
    assert_eq!(world.phase(), "Running");
    // It crashes and comes back although the application has not: nobody else is touched.
    world.exited("mesh", 0, 139);
    assert_eq!(world.begun(), ["EnsureImage mesh x IfNotPresent"]);
    world.image_ready("mesh");
    world.step();
    world.started("mesh", 1);
    world.step();
    assert_eq!(world.restart_count("mesh"), 1);
    assert_eq!(world.restart_count("app"), 0);
}

#[test]
fn a_sidecar_that_waited_out_the_grace_period_still_gets_two_seconds() {
    let mut world = World::running(pod(json!({
        "terminationGracePeriodSeconds": 5,
        "initContainers": [
            {"name": "mesh", "image": "x", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always"}
        ],
        "containers": [{"name": "app", "image": "x", "imagePullPolicy": "IfNotPresent"}]
    })));
    world.delete(5);
    assert_eq!(
        world.begun(),
        ["Terminate 5", "Stop app 5 PodEnds", "Signal app SIGTERM 5"]
    );
    world.advance_s(5);
    assert_eq!(
        world.begun(),
        [
            "Stop mesh 2 PodEnds",
            "Signal app SIGKILL 0",
            "Signal mesh SIGTERM 2"
        ]
    );
    world.advance_s(2);
    assert_eq!(world.begun(), ["Signal mesh SIGKILL 0"]);
    world.exited("mesh", 0, 137);
    world.exited("app", 0, 137);
    assert_eq!(world.begun(), ["RemoveSandbox"]);
}
