//! The built-in image `trireme.local/hello`: one static program in an otherwise empty root.

use anyhow::Result;
use serde_json::json;
use trireme_node::BuiltinImage;

pub const REFERENCE: &str = "trireme.local/hello:latest";
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

/// The image as the node agent takes it.
pub fn image() -> Result<BuiltinImage> {
    let layer = layer()?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": ["/hello"],
            "Env": ["PATH=/"],
            "ExposedPorts": {"8080/tcp": {}},
            "User": "65532:65532",
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    Ok(BuiltinImage {
        reference: REFERENCE.to_owned(),
        config: serde_json::to_vec(&config)?,
        layer,
    })
}

/// A tar archive (ustar) of one file; the same bytes always, so that the layer's digest is stable.
fn layer() -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(PROGRAM.len() as u64);
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, "hello", PROGRAM)?;
    Ok(archive.into_inner()?)
}
