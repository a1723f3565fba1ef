//! The node agent: runs the pods that the API binds to this node.

mod config;

pub use config::{AgentConfig, BuiltinImage};
use tokio_util::sync::CancellationToken;

/// What ends the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration cannot work.
    #[error("node {name}: {detail}")]
    Config {
        /// The node's name.
        name: String,
        /// What is wrong, and what would be right.
        detail: String,
    },
    /// The agent's directory, sockets or rules cannot be set up.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Runs the agent until `shutdown`; pods go on running afterwards.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    if config.servers.is_empty() {
        return Err(AgentError::Config {
            name: config.name,
            detail: "no API server address is given".to_owned(),
        });
    }
    shutdown.cancelled().await;
    Ok(())
}
