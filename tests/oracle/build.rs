//! Describes Envoy's messages from the sources that envoy-types carries, so that cases can be written as
//! Envoy's own JSON.

use std::path::PathBuf;
use std::process::Command;

use prost::Message;

const FILES: &[&str] = &[
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/ratelimit/v3/rate_limit.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = sources()?;
    let includes = [
        "data-plane-api",
        "googleapis",
        "protoc-gen-validate",
        "xds",
        "cel-spec",
        "client_model",
        "opentelemetry-proto",
    ]
    .map(|name| protos.join(name));
    // One by one: names are looked up among what a file imports, and one that is relative would find
    // another file's package first.
    let mut descriptors = prost_types::FileDescriptorSet::default();
    for file in FILES {
        for one in protox::compile([file], &includes)?.file {
            if descriptors.file.iter().all(|known| known.name != one.name) {
                descriptors.file.push(one);
            }
        }
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("envoy.bin"), descriptors.encode_to_vec())?;
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}

/// The folder of protos inside envoy-types, which cargo has unpacked.
fn sources() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let output = Command::new(std::env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--offline"])
        // Packages of other platforms are not there on a machine that has only ever built for its own.
        .args(["--filter-platform", &std::env::var("TARGET")?])
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata, asked for the folder of envoy-types: {said}").into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| {
            packages
                .iter()
                .find(|package| package["name"] == "envoy-types")
        })
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("envoy-types is not among the packages")?;
    Ok(PathBuf::from(manifest).with_file_name("proto"))
}
