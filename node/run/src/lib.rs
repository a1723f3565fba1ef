//! The node agent: runs the pods that the API binds to this node.
//!
//! **In:** the API's pods, services, nodes, ConfigMaps and Secrets through `trireme-client`;
//! decisions from `trireme-node-decide`. **Out:** containers (`trireme-container`), images
//! (`trireme-image`), networks and service rules (`trireme-network`), the pods' statuses and
//! events, the Node object and its lease, and an HTTPS server for logs, exec and port-forward.
//!
//! **Shape.** [`run`] opens everything and starts one task for each concern (`agent`). `pods`
//! follows the API and owns one `worker` for each pod; a worker decides, begins each action in a
//! task of its own (`execute`), takes in what they report, and keeps the pod's state on disk
//! (`store`). `status` writes to the API what the worker wants reported, and nothing waits for it
//! but the deletion of the object.
//!
//! **Invariants**
//! - Containers outlive the agent: ending it stops no container, and the next one adopts them.
//! - State is on disk before what it describes is begun; an exit is on disk before the runtime
//!   forgets it.
//! - Pods without an API object are removed only after a complete list from the API.
//! - While the API is away, pods go on and restart; what cannot be known (a ConfigMap never seen)
//!   is an error of that container, not of the node.
//!
//! Deliberately not here: decisions (see `trireme-node-decide`), persistent volumes, eviction
//! under pressure, static pods.

mod adopt;
mod agent;
mod builtin;
mod config;
mod container;
mod downward;
mod environment;
mod error;
mod events;
mod execute;
mod garbage;
mod hosts;
mod images;
mod instance;
mod intercept;
mod machine;
mod peers;
mod pods;
mod probe;
mod references;
mod registration;
mod server;
mod services;
mod signal;
mod start;
mod status;
mod store;
mod token;
mod volumes;
mod worker;

pub use builtin::proxy_image;
pub use config::{AgentConfig, BuiltinImage};
pub use error::AgentError;
use tokio_util::sync::CancellationToken;

/// Runs the agent until `shutdown`; pods go on running afterwards.
///
/// Fails where the configuration cannot work or the node cannot be set up; an API that is away is
/// waited for.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    agent::run(config, shutdown).await
}
