//! Reading the configuration of an image that comes with the binary.

use serde_json::Value;
use trireme_image::ImageConfig;

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
    fn oci_configurations_are_read() {
        let json = br#"{"architecture":"amd64","config":{"Entrypoint":["/hello"],"Env":["A=b"],"ExposedPorts":{"8080/tcp":{}}}}"#;
        let config = super::config(json).unwrap();
        assert_eq!(config.entrypoint, ["/hello"]);
        assert_eq!(config.env, ["A=b"]);
        assert_eq!(config.exposed_ports, ["8080/tcp"]);
        assert!(super::config(b"{").is_err());
    }
}
