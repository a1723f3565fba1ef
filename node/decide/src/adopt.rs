//! Taking over after a restart of the agent: what was under way is not any more.

use crate::runtime::{
    DeletionState, ImageState, Instance, PodRuntime, SandboxState, StopStage, VolumeState,
};

impl PodRuntime {
    /// Forgets what a previous agent had begun and nobody will report on. Containers stay as they
    /// are: the agent reports `Started`, `Exited` or `StartFailed` for what it finds.
    ///
    /// `known` says whether the runtime knows an instance of a container, by name and attempt.
    pub fn adopt(&mut self, known: impl Fn(&str, u32) -> bool) {
        if self.volumes == VolumeState::Preparing {
            self.volumes = VolumeState::Absent;
        } else if self.volumes == VolumeState::Removing {
            self.volumes = VolumeState::Ready;
        }
        match &self.sandbox {
            SandboxState::Creating => self.sandbox = SandboxState::Absent,
            SandboxState::Removing => {
                let ip = self.ip.clone().unwrap_or_default();
                self.sandbox = SandboxState::Ready { ip };
            }
            _ => {}
        }
        if self.deletion == DeletionState::Asked && !self.gone {
            self.deletion = DeletionState::NotAsked;
        }
        for (name, record) in &mut self.containers {
            if let ImageState::Pulling { .. } = record.image {
                record.image = ImageState::Unknown;
            }
            match &mut record.instance {
                Instance::Starting { attempt } if !known(name, *attempt) => {
                    record.instance = Instance::None;
                }
                Instance::Running {
                    post_start,
                    probes,
                    stopping,
                    ..
                } => {
                    // A hook whose end nobody saw runs again: hooks are promised at least once.
                    if *post_start == Some(false) {
                        *post_start = None;
                    }
                    for track in [
                        &mut probes.startup,
                        &mut probes.liveness,
                        &mut probes.readiness,
                    ] {
                        track.in_flight = false;
                    }
                    if let Some(stopping) = stopping
                        && stopping.stage == StopStage::Hook
                    {
                        stopping.stage = StopStage::Begun;
                    }
                }
                _ => {}
            }
        }
    }
}
