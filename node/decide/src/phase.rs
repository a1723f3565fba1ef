//! Where a pod is in its life: the kubelet's rules for the phase.

use crate::runtime::{ContainerRuntime, Instance, PodRuntime};
use crate::spec::{self, ContainerClass, SpecContainer};
use crate::status;
use k8s_openapi::api::core::v1::Pod;

/// Whether an init container has done its work in the present sandbox.
pub(crate) fn init_done(record: &ContainerRuntime, runtime: &PodRuntime) -> bool {
    !record.alive()
        && record
            .last_exit
            .as_ref()
            .is_some_and(|exit| exit.exit_code == 0 && exit.sandbox == runtime.sandbox_attempt)
}

/// Whether the container has ended and will not be started again.
fn over(pod: &Pod, found: &SpecContainer, record: &ContainerRuntime) -> bool {
    !record.alive()
        && !record.replace
        && record
            .last_exit
            .as_ref()
            .is_some_and(|exit| !spec::restarts(pod, found, exit.exit_code))
}

/// Whether an init container failed for good.
fn init_failed(pod: &Pod, containers: &[SpecContainer], runtime: &PodRuntime) -> bool {
    containers
        .iter()
        .filter(|found| found.class == ContainerClass::Init)
        .any(|found| {
            let record = runtime.container(&found.container.name);
            let failed = record.last_exit.as_ref().is_some_and(|e| e.exit_code != 0);
            failed && over(pod, found, &record)
        })
}

/// Whether the pod has nothing more to do: an init container failed for good, or every
/// application container ended for good.
pub(crate) fn finished(pod: &Pod, containers: &[SpecContainer], runtime: &PodRuntime) -> bool {
    if init_failed(pod, containers, runtime) {
        return true;
    }
    let mut any = false;
    for found in containers.iter().filter(|c| c.class == ContainerClass::App) {
        if !over(pod, found, &runtime.container(&found.container.name)) {
            return false;
        }
        any = true;
    }
    any
}

/// The pod's phase.
pub(crate) fn phase(pod: &Pod, containers: &[SpecContainer], runtime: &PodRuntime) -> &'static str {
    let ended = runtime.termination.is_some() && !runtime.any_alive();
    if let Some(outcome) = &runtime.outcome
        && !runtime.any_alive()
    {
        return if outcome.phase == "Succeeded" {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    if !runtime.any_alive() && init_failed(pod, containers, runtime) {
        return "Failed";
    }
    let mut initializing = false;
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for found in containers {
        let record = runtime.container(&found.container.name);
        match found.class {
            ContainerClass::Init => {
                // What ran in an earlier sandbox counts until the application runs again.
                let done = record.last_exit.as_ref().is_some_and(|e| e.exit_code == 0);
                initializing |= record.alive() || !done;
            }
            ContainerClass::Sidecar => {
                initializing |= !status::has_started(found, &record) && !record.was_started;
            }
            ContainerClass::Ephemeral => {}
            ContainerClass::App => match (&record.instance, &record.last_exit) {
                (Instance::Running { .. }, _) => running += 1,
                (_, Some(exit)) => {
                    stopped += 1;
                    if exit.exit_code == 0 {
                        succeeded += 1;
                    }
                }
                (_, None) => waiting += 1,
            },
        }
    }
    let all_succeeded = waiting == 0 && running == 0 && stopped > 0 && stopped == succeeded;
    if ended {
        return if all_succeeded { "Succeeded" } else { "Failed" };
    }
    // Once the application has run, a restarted sidecar does not set the phase back.
    let has_run = running + stopped > 0;
    if initializing && !has_run || waiting > 0 {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    if finished(pod, containers, runtime) && !runtime.any_alive() {
        return if all_succeeded { "Succeeded" } else { "Failed" };
    }
    if stopped > 0 { "Running" } else { "Pending" }
}
