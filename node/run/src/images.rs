//! Images for containers: pull policies, pull secrets, and removal of what nobody uses.

use crate::references::{self, Reference, ReferenceKind, References};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Semaphore;
use trireme_image::{Image, ImageStore, PullSecrets};
use trireme_node_decide::ImageOutcome;

/// Pulls at once: enough to fill a link, few enough that none starves.
const PULLS_MAX: usize = 4;
/// A pull that takes longer has hung.
const PULL_TIMEOUT: Duration = Duration::from_secs(1800);

/// The node's images.
pub(crate) struct Images {
    store: ImageStore,
    pulls: Semaphore,
}

/// A duration as Go prints it, in milliseconds.
pub(crate) fn go_duration_ms(milliseconds: i64) -> String {
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    while seconds.ends_with('0') {
        seconds.pop();
    }
    let seconds = seconds.trim_end_matches('.');
    if minutes > 0 {
        format!("{minutes}m{seconds}s")
    } else {
        format!("{seconds}s")
    }
}

fn reference_of(image: &Image, asked: &str) -> String {
    image
        .references
        .iter()
        .find(|name| name.ends_with(asked))
        .or(image.references.first())
        .cloned()
        .unwrap_or_else(|| asked.to_owned())
}

impl Images {
    pub fn new(store: ImageStore) -> Self {
        Images {
            store,
            pulls: Semaphore::new(PULLS_MAX),
        }
    }

    pub fn store(&self) -> &ImageStore {
        &self.store
    }

    /// Sees that an image is here; `pulling` is called when it has to be fetched.
    pub async fn ensure(
        &self,
        image: &str,
        policy: &str,
        secrets: impl AsyncFnOnce() -> PullSecrets,
        pulling: impl AsyncFnOnce(),
    ) -> ImageOutcome {
        let failed = |reason: &str, message: String| ImageOutcome::Failed {
            reason: reason.to_owned(),
            message,
        };
        let store = self.store.clone();
        let name = image.to_owned();
        let found = tokio::task::spawn_blocking(move || store.get(&name)).await;
        let present = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return failed(error.reason(), error.to_string()),
            Err(error) => return failed("ErrImagePull", error.to_string()),
        };
        let builtin = image.starts_with("trireme.local/");
        match (present, policy) {
            // Images that come with the binary have no registry to ask.
            (Some(present), "Always") if !builtin => {
                tracing::debug!(image, id = present.id, "present, asking its registry anew");
            }
            (Some(present), _) => {
                return ImageOutcome::Present {
                    reference: reference_of(&present, image),
                    id: present.digest_reference,
                };
            }
            (None, "Never") => {
                let message =
                    format!("Container image \"{image}\" is not present with pull policy of Never");
                return failed("ErrImageNeverPull", message);
            }
            (None, _) => {}
        }
        pulling().await;
        let secrets = secrets().await;
        let Ok(_permit) = self.pulls.acquire().await else {
            return failed("ErrImagePull", "the node is shutting down".to_owned());
        };
        let began = Timestamp::now();
        match tokio::time::timeout(PULL_TIMEOUT, self.store.pull(image, &secrets)).await {
            Ok(Ok(pulled)) => {
                let took = Timestamp::now().duration_since(began).as_millis();
                ImageOutcome::Pulled {
                    reference: reference_of(&pulled, image),
                    id: pulled.digest_reference,
                    took: go_duration_ms(i64::try_from(took).unwrap_or(i64::MAX)),
                    size_bytes: pulled.size_bytes,
                }
            }
            Ok(Err(error)) => failed(error.reason(), error.to_string()),
            Err(_) => failed(
                "ErrImagePull",
                format!("pulling took longer than {} s", PULL_TIMEOUT.as_secs()),
            ),
        }
    }

    /// Removes what no container uses; returns the bytes freed.
    pub async fn collect(
        &self,
        used: &BTreeSet<String>,
        layers: &BTreeSet<PathBuf>,
    ) -> Result<u64, String> {
        self.store
            .collect(used, layers)
            .await
            .map_err(|error| error.to_string())
    }
}

/// The pod's pull secrets; one that is missing or unreadable is left out, and named.
pub(crate) async fn pull_secrets(pod: &Pod, references: &References) -> (PullSecrets, Vec<String>) {
    let mut secrets = PullSecrets::none();
    let mut problems = Vec::new();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let names = pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for secret in names {
        let reference = Reference {
            kind: ReferenceKind::Secret,
            namespace: namespace.clone(),
            name: secret.name.clone(),
        };
        let object = match references.get(&reference).await {
            Ok(Some(object)) => object,
            Ok(None) => {
                problems.push(secret.name.clone());
                continue;
            }
            Err(error) => {
                tracing::warn!(
                    secret = secret.name,
                    error,
                    "a pull secret could not be read"
                );
                problems.push(secret.name.clone());
                continue;
            }
        };
        let content = references::content(ReferenceKind::Secret, &object);
        let added = if let Some(json) = content.get(".dockerconfigjson") {
            secrets.add_docker_config_json(json)
        } else if let Some(json) = content.get(".dockercfg") {
            secrets.add_docker_cfg(json)
        } else {
            problems.push(secret.name.clone());
            continue;
        };
        if let Err(error) = added {
            tracing::warn!(secret = secret.name, %error, "a pull secret is malformed");
            problems.push(secret.name.clone());
        }
    }
    (secrets, problems)
}

#[cfg(test)]
mod tests {
    use super::go_duration_ms;

    #[test]
    fn durations_look_like_go() {
        for (milliseconds, text) in [
            (7, "7ms"),
            (1000, "1s"),
            (1230, "1.23s"),
            (61_005, "1m1.005s"),
        ] {
            assert_eq!(go_duration_ms(milliseconds), text);
        }
    }
}
