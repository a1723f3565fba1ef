//! Asking containers to end.

use crate::execute::Context;
use crate::instance::container_id;
use k8s_openapi::api::core::v1::Container;
use trireme_container::ContainerError;

/// A signal by name or number.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    use std::str::FromStr;
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    if let Some(offset) = full.strip_prefix("SIGRTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse().ok()?
        };
        return Some(libc::SIGRTMIN() + offset);
    }
    nix::sys::signal::Signal::from_str(&full)
        .ok()
        .map(|signal| signal as i32)
}

/// Signals the first process of an instance, or kills all of it.
pub(crate) async fn send(
    context: &Context,
    spec: Option<&Container>,
    container: &str,
    attempt: u32,
    signal: &str,
) {
    let runtime = &context.agent.runtime;
    let id = container_id(&context.uid, container, attempt);
    if signal == "SIGKILL" {
        match runtime.kill(&id).await {
            // It ended by itself meanwhile.
            Ok(_) | Err(ContainerError::NotFound { .. } | ContainerError::NotRunning { .. }) => {}
            Err(error) => tracing::warn!(id, %error, "a container could not be killed"),
        }
        return;
    }
    // Where the pod says nothing, the image may.
    let own = spec
        .and_then(|spec| spec.lifecycle.as_ref())
        .is_some_and(|lifecycle| lifecycle.stop_signal.is_some());
    let mut name = signal.to_owned();
    if !own && let Some(image) = spec.and_then(|spec| spec.image.clone()) {
        let store = context.agent.images.store().clone();
        let found = tokio::task::spawn_blocking(move || store.get(&image)).await;
        if let Ok(Ok(Some(image))) = found
            && !image.config.stop_signal.is_empty()
        {
            name = image.config.stop_signal;
        }
    }
    let number = signal_number(&name).unwrap_or(libc::SIGTERM);
    match runtime.signal(&id, number) {
        Ok(()) | Err(ContainerError::NotRunning { .. } | ContainerError::NotFound { .. }) => {}
        Err(error) => {
            tracing::warn!(id, signal = name, %error, "a container could not be signalled")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals_are_read_as_docker_writes_them() {
        for (name, number) in [("SIGQUIT", 3), ("QUIT", 3), ("15", 15), ("sigterm", 15)] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        assert_eq!(signal_number("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        assert_eq!(signal_number("SIGNONSENSE"), None);
        assert_eq!(signal_number("99"), None);
    }
}
