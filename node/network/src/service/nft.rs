//! Running `nft`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::NetworkError;

/// Applies a script in one transaction: all of it or nothing.
pub(crate) fn apply(what: &'static str, script: &str) -> Result<(), NetworkError> {
    let missing = |source| NetworkError::NftMissing { source };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    // nft reads everything before it answers, so writing first cannot block.
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(script.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(missing)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(NetworkError::Nft { what, stderr });
    }
    written.map_err(missing)
}
