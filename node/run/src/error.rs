//! What ends the agent.

/// A failure that the agent cannot work around.
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
    /// The agent's directory or sockets cannot be set up.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The API client cannot be made.
    #[error(transparent)]
    Client(#[from] trireme_client::Error),
    /// The container runtime cannot be opened.
    #[error(transparent)]
    Container(#[from] trireme_container::ContainerError),
    /// The image store cannot be opened.
    #[error(transparent)]
    Image(#[from] trireme_image::ImageError),
    /// Pods' networks cannot be made.
    #[error(transparent)]
    Network(#[from] trireme_network::NetworkError),
}

impl AgentError {
    pub(crate) fn io(operation: impl Into<String>, source: std::io::Error) -> Self {
        AgentError::Io {
            operation: operation.into(),
            source,
        }
    }
}
