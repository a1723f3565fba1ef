//! From a wanted container to a running one, and to its end.

use crate::container;
use crate::environment::Sources;
use crate::execute::Context;
use crate::instance::container_id;
use crate::worker::Worker;
use crate::{images, services};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use std::path::Path;
use std::time::Duration;
use trireme_container::ContainerError;
use trireme_node_decide::{EventRecord, EventType, ImageOutcome, Report, StartFailure};

/// How long a start waits for the list of services that its environment needs.
const SERVICES_WAIT: Duration = Duration::from_secs(5);
/// Bytes of a termination message: the kubelet's limit.
const MESSAGE_MAX_BYTES: u64 = 4096;
/// Bytes and lines of the log that stand in for one, likewise.
const LOG_TAIL_MAX_BYTES: u64 = 2048;
const LOG_TAIL_MAX_LINES: usize = 80;

/// Sees that a container's image is here.
pub(crate) async fn ensure_image(
    context: &Context,
    container: &str,
    image: &str,
    policy: &str,
) -> ImageOutcome {
    let secrets = async || {
        let (secrets, missing) =
            images::pull_secrets(&context.pod, &context.agent.references).await;
        if !missing.is_empty() {
            let record = EventRecord {
                event_type: EventType::Warning,
                reason: "FailedToRetrieveImagePullSecret".to_owned(),
                message: format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    missing.join(", ")
                ),
                container: None,
            };
            context.agent.events.pod(&context.pod, record);
        }
        secrets
    };
    let pulling = async || {
        context
            .report(Report::Image {
                container: container.to_owned(),
                image: image.to_owned(),
                outcome: ImageOutcome::Pulling,
            })
            .await;
    };
    context
        .agent
        .images
        .ensure(image, policy, secrets, pulling)
        .await
}

/// Starts an instance, reports that, and stays to report its end.
pub(crate) async fn start(context: &Context, spec: &Container, attempt: u32) {
    let id = container_id(&context.uid, &spec.name, attempt);
    match try_start(context, spec, attempt, &id).await {
        Ok(at) => {
            context
                .report(Report::Started {
                    container: spec.name.clone(),
                    attempt,
                    id: id.clone(),
                    at,
                })
                .await;
            watch(context, spec, attempt).await;
        }
        Err(failure) => {
            context
                .report(Report::StartFailed {
                    container: spec.name.clone(),
                    attempt,
                    failure,
                })
                .await;
        }
    }
}

async fn try_start(
    context: &Context,
    spec: &Container,
    attempt: u32,
    id: &str,
) -> Result<Timestamp, StartFailure> {
    let agent = &context.agent;
    let create = |text: String| StartFailure::Create(text);
    let Some(sandboxed) = &context.sandbox else {
        return Err(create("the pod's sandbox is not ready".to_owned()));
    };
    let name = spec.image.clone().unwrap_or_default();
    let store = agent.images.store().clone();
    let wanted = name.clone();
    let image = tokio::task::spawn_blocking(move || store.get(&wanted))
        .await
        .map_err(|error| create(error.to_string()))?
        .map_err(|error| create(error.to_string()))?
        .ok_or_else(|| create(format!("image {name:?} is not on this node any more")))?;
    let namespace = context.pod.metadata.namespace.clone().unwrap_or_default();
    let mut view = agent.services.clone();
    let listed = async { view.wait_for(|view| view.listed()).await.is_ok() };
    if !tokio::time::timeout(SERVICES_WAIT, listed)
        .await
        .unwrap_or(false)
    {
        let message = "services have not yet been read at least once, cannot construct envvars";
        return Err(StartFailure::Config(message.to_owned()));
    }
    let view = agent.services.borrow().clone();
    let links = context
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.enable_service_links)
        .unwrap_or(true);
    let sources = Sources {
        references: &agent.references,
        facts: &context.facts,
        services: services::environment(&view, &namespace, links),
    };
    let order = container::order(
        agent,
        &context.pod,
        spec,
        attempt,
        &image,
        &sandboxed.sandbox,
        sandboxed.netns.as_deref(),
        &context.directory,
        &sources,
    )
    .await?;
    let log = context.directory.log(&spec.name, attempt);
    let words = context.directory.termination_log(&spec.name, attempt);
    prepare_files(&log, &words).map_err(|error| create(error.to_string()))?;
    let Ok(_permit) = agent.starts.acquire().await else {
        return Err(create("the agent is ending".to_owned()));
    };
    let began = std::time::Instant::now();
    let mut started = agent.runtime.create_and_start(&order).await;
    if let Err(ContainerError::Exists { .. }) = started {
        // Half of an earlier try.
        agent
            .runtime
            .delete(id)
            .await
            .map_err(|error| create(error.to_string()))?;
        started = agent.runtime.create_and_start(&order).await;
    }
    tracing::debug!(
        id,
        took_ms = began.elapsed().as_millis(),
        "a container's start ended"
    );
    match started {
        Ok(started) => Ok(started.started_at),
        Err(ContainerError::Start { message }) => Err(StartFailure::Run {
            id: id.to_owned(),
            message,
        }),
        Err(ContainerError::InvalidSpec { field, message }) if field != "command" => {
            Err(StartFailure::Config(format!("{field}: {message}")))
        }
        Err(error) => Err(create(error.to_string())),
    }
}

fn prepare_files(log: &Path, words: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for file in [log, words] {
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
    }
    std::fs::File::create(words)?;
    // Whatever user the container runs as may leave its last words.
    std::fs::set_permissions(words, std::fs::Permissions::from_mode(0o666))
}

/// Waits for the end of an instance and reports it.
async fn watch(context: &Context, spec: &Container, attempt: u32) {
    let id = container_id(&context.uid, &spec.name, attempt);
    let report = match context.agent.runtime.wait(&id).await {
        Ok(exit) => {
            let message = last_words(context, spec, attempt, exit.exit_code).unwrap_or_else(|| {
                exit.error
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            });
            Report::Exited {
                container: spec.name.clone(),
                attempt,
                exit_code: exit.exit_code,
                signal: exit.signal,
                oom_killed: exit.oom_killed,
                message,
                at: exit.finished_at,
            }
        }
        Err(error) => lost(&spec.name, attempt, error.to_string()),
    };
    context.report(report).await;
}

/// An instance whose end nobody saw.
pub(crate) fn lost(container: &str, attempt: u32, message: String) -> Report {
    Report::Exited {
        container: container.to_owned(),
        attempt,
        exit_code: 137,
        signal: None,
        oom_killed: false,
        message,
        at: Timestamp::now(),
    }
}

/// Watches an instance that an earlier agent started.
pub(crate) fn watch_adopted(worker: &mut Worker, container: &str, attempt: u32) {
    let Some(spec) = worker.container(container) else {
        return;
    };
    let context = Context::of(worker);
    worker
        .tasks
        .spawn(async move { watch(&context, &spec, attempt).await });
}

/// What the container left at its termination message path; none if nothing.
fn last_words(context: &Context, spec: &Container, attempt: u32, exit_code: i32) -> Option<String> {
    let path = context.directory.termination_log(&spec.name, attempt);
    let words = read_start(&path, MESSAGE_MAX_BYTES);
    if !words.is_empty() {
        return Some(words);
    }
    let fallback = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !fallback || exit_code == 0 {
        return None;
    }
    let log = context.directory.log(&spec.name, attempt);
    let tail = crate::server::logs::tail_text(&log, LOG_TAIL_MAX_LINES, LOG_TAIL_MAX_BYTES);
    (!tail.is_empty()).then_some(tail)
}

fn read_start(path: &Path, limit: u64) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(limit).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
