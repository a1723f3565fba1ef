//! From a pod's container to the runtime's order.

use crate::agent::Agent;
use crate::environment::{self, Sources};
use crate::instance::container_id;
use crate::store::PodDirectory;
use crate::volumes;
use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, SecurityContext, VolumeMount,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use trireme_container::{
    Capabilities, ContainerSpec, Limits, LogSpec, Mount, MountSource, PodSandbox, Propagation, Qos,
    User,
};
use trireme_image::Image;
use trireme_model::quantity::Quantity;
use trireme_node_decide::{StartFailure, qos};

/// The kernel's scheduling period, and the least quota it takes.
const CPU_PERIOD_US: i128 = 100_000;
const CPU_QUOTA_MIN_US: i128 = 1_000;
/// Shares of one CPU, and the least there is.
const CPU_SHARES: i128 = 1024;
const CPU_SHARES_MIN: i128 = 2;
/// Search path of a container whose image names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where a container may leave its last words when nothing is said.
pub(crate) const TERMINATION_PATH: &str = "/dev/termination-log";

pub(crate) fn qos_of(pod: &Pod) -> Qos {
    match qos::class(pod) {
        "Guaranteed" => Qos::Guaranteed,
        "Burstable" => Qos::Burstable,
        _ => Qos::BestEffort,
    }
}

fn amount(
    table: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    name: &str,
) -> Option<Quantity> {
    Quantity::parse(&table?.get(name)?.0).ok()
}

fn shares(milli: i128) -> u64 {
    u64::try_from((milli * CPU_SHARES / 1000).max(CPU_SHARES_MIN)).unwrap_or(u64::MAX)
}

fn quota(milli: i128) -> Option<u64> {
    u64::try_from((milli * CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US)).ok()
}

/// A container's limits.
pub(crate) fn limits(container: &Container) -> Limits {
    let resources = container.resources.clone().unwrap_or_default();
    let (limits, requests) = (resources.limits.as_ref(), resources.requests.as_ref());
    let cpu_limit = amount(limits, "cpu").map(|q| q.milli()).filter(|m| *m > 0);
    let cpu_request = amount(requests, "cpu")
        .map(|q| q.milli())
        .or(cpu_limit)
        .unwrap_or(0);
    Limits {
        memory_bytes: amount(limits, "memory")
            .and_then(|q| u64::try_from(q.value()).ok())
            .filter(|bytes| *bytes > 0),
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota_us: cpu_limit.and_then(quota),
        cpu_period_us: cpu_limit.and_then(|_| u64::try_from(CPU_PERIOD_US).ok()),
        pids: None,
    }
}

/// The pod's limits: sums where every container has one, and the sum of what is asked for.
pub(crate) fn pod_limits(pod: &Pod) -> Limits {
    let Some(spec) = &pod.spec else {
        return Limits::default();
    };
    let requests = trireme_node_decide::admit::requests(pod);
    let all: Vec<Limits> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(limits)
        .collect();
    // Init containers run before the others, but a pod's limit must hold the largest of all:
    // the sum of all is never too small.
    let sum = |of: &dyn Fn(&Limits) -> Option<u64>| -> Option<u64> {
        all.iter()
            .map(of)
            .try_fold(0u64, |total, one| Some(total.saturating_add(one?)))
    };
    let quota = sum(&|l| l.cpu_quota_us);
    Limits {
        memory_bytes: sum(&|l| l.memory_bytes),
        cpu_shares: Some(shares(requests.cpu_milli)),
        cpu_quota_us: quota,
        cpu_period_us: quota.and_then(|_| u64::try_from(CPU_PERIOD_US).ok()),
        pids: None,
    }
}

/// How gladly the kernel kills the container when memory is short: the kubelet's numbers.
fn oom_score(pod: &Pod, container: &Container, node_memory_bytes: i128) -> i32 {
    match qos::class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let resources = container.resources.clone().unwrap_or_default();
            let request = amount(resources.requests.as_ref(), "memory").map_or(0, |q| q.value());
            let node = node_memory_bytes.max(1);
            let score = 1000 - 1000 * request / node;
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// Command and arguments: the pod's, else the image's, with variables put in.
pub(crate) fn command(
    container: &Container,
    entrypoint: &[String],
    cmd: &[String],
    variables: &BTreeMap<String, String>,
) -> Vec<String> {
    let expand = |list: &[String]| -> Vec<String> {
        list.iter()
            .map(|text| environment::expand(text, variables))
            .collect()
    };
    let own_command = container.command.as_deref().unwrap_or_default();
    let own_args = container.args.as_deref().unwrap_or_default();
    let mut args = if own_command.is_empty() {
        entrypoint.to_vec()
    } else {
        expand(own_command)
    };
    if !own_args.is_empty() {
        args.extend(expand(own_args));
    } else if own_command.is_empty() {
        args.extend(cmd.iter().cloned());
    }
    args
}

struct Identity {
    user: User,
    home: Option<String>,
}

/// Who the container runs as.
fn identity(
    pod: &Pod,
    container: &Container,
    image: &Image,
    pod_context: &PodSecurityContext,
    context: &SecurityContext,
) -> Result<Identity, StartFailure> {
    let config = |text: String| StartFailure::Config(text);
    let title = format!(
        "(pod: \"{}_{}({})\", container: {})",
        pod.metadata.name.as_deref().unwrap_or_default(),
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.uid.as_deref().unwrap_or_default(),
        container.name
    );
    let wanted = context.run_as_user.or(pod_context.run_as_user);
    let non_root = context.run_as_non_root.or(pod_context.run_as_non_root) == Some(true);
    let text = match wanted {
        Some(uid) => uid.to_string(),
        None => image.config.user.clone(),
    };
    let resolved = trireme_image::resolve_user(&image.layers, &text)
        .map_err(|error| StartFailure::Create(error.to_string()))?;
    if non_root {
        if wanted == Some(0) {
            return Err(config(format!(
                "container's runAsUser breaks non-root policy {title}"
            )));
        }
        if wanted.is_none() {
            let name = text.split(':').next().unwrap_or_default();
            if !name.is_empty() && name.parse::<u32>().is_err() {
                return Err(config(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {title}"
                )));
            }
            if resolved.uid == 0 {
                return Err(config(format!(
                    "container has runAsNonRoot and image will run as root {title}"
                )));
            }
        }
    }
    let group = context.run_as_group.or(pod_context.run_as_group);
    let gid = group
        .and_then(|gid| u32::try_from(gid).ok())
        .unwrap_or(resolved.gid);
    let strict = pod_context.supplemental_groups_policy.as_deref() == Some("Strict");
    let mut groups = if strict {
        Vec::new()
    } else {
        resolved.supplemental_gids
    };
    let more = pod_context
        .supplemental_groups
        .iter()
        .flatten()
        .chain(pod_context.fs_group.iter());
    for gid in more.filter_map(|gid| u32::try_from(*gid).ok()) {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    Ok(Identity {
        user: User {
            uid: resolved.uid,
            gid,
            supplemental_gids: groups,
        },
        home: resolved.home,
    })
}

fn propagation(mount: &VolumeMount) -> Propagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::None,
    }
}

fn volume_mounts(
    pod: &Pod,
    container: &Container,
    directory: &PodDirectory,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, StartFailure> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let Some(volume) = volumes::volumes(pod).find(|volume| volume.name == mount.name) else {
            return Err(StartFailure::Config(format!(
                "cannot find volume {:?} to mount into container {:?}",
                mount.name, container.name
            )));
        };
        let sub_path = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(text), _) if !text.is_empty() => Some(environment::expand(text, variables)),
            (_, Some(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        };
        let outside =
            |path: &str| Path::new(path).is_absolute() || path.split('/').any(|part| part == "..");
        if sub_path.as_deref().is_some_and(outside) {
            return Err(StartFailure::Config(format!(
                "subPath {:?} of volume {:?} must be relative and not contain '..'",
                sub_path.unwrap_or_default(),
                mount.name
            )));
        }
        mounts.push(Mount {
            destination: PathBuf::from(&mount.mount_path),
            source: MountSource::Bind {
                path: volumes::host_path(directory, volume),
                sub_path: sub_path.map(PathBuf::from),
            },
            // What comes from the API is the node's to write.
            read_only: mount.read_only == Some(true) || volumes::payload::is_api_volume(volume),
            propagation: propagation(mount),
        });
    }
    Ok(mounts)
}

/// The mounts that every container gets, unless the pod mounts something there itself.
fn own_mounts(
    container: &Container,
    directory: &PodDirectory,
    sandbox: &PodSandbox,
    attempt: u32,
    taken: &[Mount],
) -> Vec<Mount> {
    let etc = directory.etc();
    let termination = container
        .termination_message_path
        .as_deref()
        .unwrap_or(TERMINATION_PATH);
    let wanted = [
        (Path::new("/etc/hosts"), etc.join("hosts")),
        (Path::new("/etc/hostname"), etc.join("hostname")),
        (Path::new("/etc/resolv.conf"), etc.join("resolv.conf")),
        (Path::new("/dev/shm"), sandbox.shm.clone()),
        (
            Path::new(termination),
            directory.termination_log(&container.name, attempt),
        ),
    ];
    wanted
        .into_iter()
        .filter(|(destination, _)| {
            destination.is_absolute()
                && !taken.iter().any(|mount| mount.destination == *destination)
        })
        .map(|(destination, path)| Mount {
            destination: destination.to_path_buf(),
            source: MountSource::Bind {
                path,
                sub_path: None,
            },
            read_only: false,
            propagation: Propagation::None,
        })
        .collect()
}

/// The runtime's order for one instance of a container.
pub(crate) async fn order(
    agent: &Agent,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &Image,
    sandbox: &PodSandbox,
    network: Option<&Path>,
    directory: &PodDirectory,
    sources: &Sources<'_>,
) -> Result<ContainerSpec, StartFailure> {
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let pod_context = pod_spec.security_context.unwrap_or_default();
    let context = container.security_context.clone().unwrap_or_default();
    let own = environment::variables(pod, container, sources)
        .await
        .map_err(StartFailure::Config)?;
    let known: BTreeMap<String, String> = own.iter().cloned().collect();
    let identity = identity(pod, container, image, &pod_context, &context)?;
    let args = command(
        container,
        &image.config.entrypoint,
        &image.config.cmd,
        &known,
    );
    if args.is_empty() {
        return Err(StartFailure::Create("no command specified".to_owned()));
    }
    let (hostname, _) = crate::hosts::names(pod, &agent.config.name, &agent.config.cluster_domain);
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set =
        |name: &str, value: &str, replace: bool| match env.iter_mut().find(|(n, _)| n == name) {
            Some(entry) if replace => value.clone_into(&mut entry.1),
            Some(_) => {}
            None => env.push((name.to_owned(), value.to_owned())),
        };
    set("PATH", DEFAULT_PATH, false);
    set("HOSTNAME", &hostname, false);
    for variable in &image.config.env {
        if let Some((name, value)) = variable.split_once('=') {
            set(name, value, true);
        }
    }
    if container.tty == Some(true) {
        set("TERM", "xterm", false);
    }
    for (name, value) in &own {
        set(name, value, true);
    }
    set("HOME", identity.home.as_deref().unwrap_or("/"), false);

    let mut mounts = volume_mounts(pod, container, directory, &known)?;
    mounts.extend(own_mounts(container, directory, sandbox, attempt, &mounts));
    // Outer paths first, so that inner ones are not hidden.
    mounts.sort_by_key(|mount| mount.destination.components().count());

    let working_dir = container
        .working_dir
        .clone()
        .filter(|dir| !dir.is_empty())
        .unwrap_or_else(|| image.config.working_dir.clone());
    let capabilities = context.capabilities.unwrap_or_default();
    let sysctls = pod_context
        .sysctls
        .iter()
        .flatten()
        .filter(|sysctl| sysctl.name.starts_with("net."))
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let labels = [
        ("io.kubernetes.pod.uid", uid.clone()),
        (
            "io.kubernetes.pod.name",
            pod.metadata.name.clone().unwrap_or_default(),
        ),
        (
            "io.kubernetes.pod.namespace",
            pod.metadata.namespace.clone().unwrap_or_default(),
        ),
        ("io.kubernetes.container.name", container.name.clone()),
        ("trireme.image", image.id.clone()),
    ];
    Ok(ContainerSpec {
        id: container_id(&uid, &container.name, attempt),
        labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
        layers: image.layers.clone(),
        namespaces: sandbox.namespaces(network),
        cgroup_parent: sandbox.cgroup_parent.clone(),
        args,
        env,
        cwd: PathBuf::from(working_dir),
        user: identity.user,
        capabilities: Capabilities {
            add: capabilities.add.unwrap_or_default(),
            drop: capabilities.drop.unwrap_or_default(),
        },
        privileged: context.privileged == Some(true),
        read_only_rootfs: context.read_only_root_filesystem == Some(true),
        no_new_privileges: context.allow_privilege_escalation == Some(false),
        mounts,
        devices: Vec::new(),
        limits: limits(container),
        oom_score_adj: oom_score(pod, container, agent.node_memory_bytes()),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        unmasked_proc: context.proc_mount.as_deref() == Some("Unmasked"),
        sysctls,
        log: LogSpec::at(directory.log(&container.name, attempt)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn commands_combine_as_kubernetes_says() {
        let of = |value: serde_json::Value| {
            let known = [("V".to_owned(), "x".to_owned())].into();
            command(&container(value), &["e".into()], &["c".into()], &known).join(" ")
        };
        assert_eq!(of(json!({"name": "a"})), "e c");
        assert_eq!(of(json!({"name": "a", "args": ["1", "$(V)"]})), "e 1 x");
        assert_eq!(of(json!({"name": "a", "command": ["k"]})), "k");
        assert_eq!(
            of(json!({"name": "a", "command": ["k"], "args": ["1"]})),
            "k 1"
        );
    }

    #[test]
    fn limits_become_kernel_numbers() {
        let made = limits(&container(json!({"name": "a", "resources": {
            "limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "100m"}}})));
        assert_eq!(made.memory_bytes, Some(64 << 20));
        assert_eq!(made.cpu_quota_us, Some(25_000));
        assert_eq!(made.cpu_shares, Some(102));
        let made = limits(&container(json!({"name": "a"})));
        assert_eq!(
            (made.memory_bytes, made.cpu_quota_us, made.cpu_shares),
            (None, None, Some(2))
        );
    }

    #[test]
    fn pods_are_limited_only_when_every_container_is() {
        let pod = |second: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [
                {"name": "a", "resources": {"limits": {"memory": "10", "cpu": "1"}}},
                {"name": "b", "resources": {"limits": second}}]}}))
            .unwrap()
        };
        assert_eq!(
            pod_limits(&pod(json!({"memory": "5", "cpu": "1"}))).memory_bytes,
            Some(15)
        );
        assert_eq!(pod_limits(&pod(json!({}))).memory_bytes, None);
        assert_eq!(pod_limits(&pod(json!({}))).cpu_quota_us, None);
    }
}
