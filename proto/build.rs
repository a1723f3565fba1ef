//! Compiles the wire types without protoc.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "trireme/v1/resources.proto",
        "trireme/v1/cluster.proto",
        "trireme/v1/mesh.proto",
        "trireme/raft/raft.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=trireme");
    Ok(())
}
