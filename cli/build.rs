//! Builds the program of the built-in image statically, so that it runs in an empty root.

use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=hello");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("hello");
    let status = Command::new(std::env::var("RUSTC")?)
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "-C",
            "opt-level=s",
        ])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
            "-C",
            "panic=abort",
        ])
        .args(["--target", &std::env::var("TARGET")?])
        .arg("-o")
        .arg(&out)
        .arg("hello/hello.rs")
        .env_remove("RUSTFLAGS")
        .status()?;
    if !status.success() {
        return Err("building the hello image's program failed".into());
    }
    Ok(())
}
