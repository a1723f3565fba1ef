//! Images that come with the binary: reading their configuration, and making the proxy's.

use crate::config::BuiltinImage;
use crate::error::AgentError;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use trireme_image::ImageConfig;

/// The image of sidecars and gateways.
const PROXY_REFERENCE: &str = "trireme.local/proxy:latest";
/// The proxy as a program of its own, beside this one.
const PROXY_PROGRAM: &str = "trireme-proxy";
/// This program, which is the proxy too where that is missing.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// The user that the proxy runs as; the pods' rules exempt it.
const PROXY_USER: (&str, u32) = ("istio-proxy", trireme_network::intercept::PROXY_USER);

/// The image `trireme.local/proxy`: the program `trireme-proxy` that lies beside `executable`, else
/// this program, with the libraries that it needs from this machine. Its first argument is `proxy`
/// either way, as a pod's `args` spell it: `proxy sidecar`, `proxy router`.
///
/// # Errors
/// The program or one of its libraries cannot be read.
pub fn proxy_image(executable: &Path) -> Result<BuiltinImage, AgentError> {
    let beside = executable.with_file_name(PROXY_PROGRAM);
    let (program, name) = if beside.is_file() {
        (beside, PROXY_PROGRAM)
    } else {
        (PathBuf::from(OWN_PROGRAM), "trireme")
    };
    let target = format!("/usr/local/bin/{name}");
    let layer = trireme_image::program_layer(&program, &target, PROXY_USER)?;
    let (_, user) = PROXY_USER;
    let mut environment = vec!["PATH=/usr/local/bin".to_owned()];
    if !layer.library_path.is_empty() {
        environment.push(format!("LD_LIBRARY_PATH={}", layer.library_path));
    }
    let config = json!({"config": {
        "Entrypoint": [target],
        "Cmd": ["proxy", "sidecar"],
        "Env": environment,
        "User": format!("{user}:{user}"),
        "WorkingDir": "/",
    }});
    Ok(BuiltinImage {
        reference: PROXY_REFERENCE.to_owned(),
        config: config.to_string().into_bytes(),
        layer: layer.tar,
    })
}

/// The parts of an OCI image configuration that containers are made from.
pub(crate) fn config(json: &[u8]) -> Result<ImageConfig, String> {
    let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let section = value.get("config").unwrap_or(&value);
    let text = |name: &str| {
        section
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = |name: &str| -> Vec<String> {
        let items = section.get(name).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let keys = |name: &str| -> Vec<String> {
        let map = section.get(name).and_then(Value::as_object);
        map.into_iter()
            .flat_map(|map| map.keys().cloned())
            .collect()
    };
    let labels = section.get("Labels").and_then(Value::as_object);
    Ok(ImageConfig {
        entrypoint: list("Entrypoint"),
        cmd: list("Cmd"),
        env: list("Env"),
        user: text("User"),
        working_dir: text("WorkingDir"),
        exposed_ports: keys("ExposedPorts"),
        stop_signal: text("StopSignal"),
        labels: labels
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_proxys_image_is_what_lies_beside_or_this_program() {
        let directory = tempfile::tempdir().unwrap();
        let own = super::proxy_image(&directory.path().join("trireme")).unwrap();
        let read = super::config(&own.config).unwrap();
        assert_eq!(read.entrypoint, ["/usr/local/bin/trireme"]);
        assert_eq!(read.user, "1337:1337");
        std::fs::copy("/bin/true", directory.path().join("trireme-proxy")).unwrap();
        let beside = super::proxy_image(&directory.path().join("trireme")).unwrap();
        let read = super::config(&beside.config).unwrap();
        assert_eq!(read.entrypoint, ["/usr/local/bin/trireme-proxy"]);
        assert_ne!(own.layer, beside.layer, "another program, another layer");
    }

    #[test]
    fn oci_configurations_are_read() {
        let json = br#"{"architecture":"amd64","config":{"Entrypoint":["/hello"],"Env":["A=b"],"ExposedPorts":{"8080/tcp":{}}}}"#;
        let config = super::config(json).unwrap();
        assert_eq!(config.entrypoint, ["/hello"]);
        assert_eq!(config.env, ["A=b"]);
        assert_eq!(config.exposed_ports, ["8080/tcp"]);
        assert!(super::config(b"{").is_err());
    }
}
