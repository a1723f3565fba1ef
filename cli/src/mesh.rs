//! `trireme mesh`: what the mesh's members have, and how others become members.

mod bootstrap;
mod status;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show connected workloads and the configuration that each has acknowledged
    Status(status::Options),
    /// Print the configuration with which a stock Envoy or a gRPC program joins the mesh
    Bootstrap(bootstrap::Options),
}

pub async fn run(options: Options) -> Result<()> {
    match options.command {
        Command::Status(options) => status::run(options).await,
        Command::Bootstrap(options) => bootstrap::run(options).await,
    }
}
