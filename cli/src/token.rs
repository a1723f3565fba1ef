//! `trireme token`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

#[derive(Args, Debug)]
pub struct Options {
    /// A server's data directory
    #[arg(long, default_value = "/var/lib/trireme/server")]
    data: PathBuf,
}

pub fn run(options: Options) -> Result<()> {
    let path = options.data.join("token");
    let token = std::fs::read_to_string(&path)
        .with_context(|| format!("reading {} (run it on a server, as root)", path.display()))?;
    println!("{}", token.trim());
    Ok(())
}
