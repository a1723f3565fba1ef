//! The ingress gateway, which every cluster has: waiting for it, and where it is reached.

use anyhow::Result;
use serde_json::Value;
use trireme_client::Client;
use trireme_model::kinds;

use super::ready::{self, until};
use super::state::State;

const NAMESPACE: &str = "istio-system";
const NAME: &str = "istio-ingressgateway";
const HTTP_PORT: u64 = 80;

/// Until every replica is available and the service has an address; answers where HTTP is served, or
/// nothing on a cluster whose operators removed it.
pub async fn wait(client: &Client, state: &State) -> Result<Option<String>> {
    match client.get(kinds::DEPLOYMENT, NAMESPACE, NAME).await {
        Err(error) if error.is_not_found() => return Ok(None),
        _ => {}
    }
    let mut address = None;
    let serves = until(state, async || {
        let (Ok(deployment), Ok(service)) = (
            client.get(kinds::DEPLOYMENT, NAMESPACE, NAME).await,
            client.get(kinds::SERVICE, NAMESPACE, NAME).await,
        ) else {
            return Ok(Some(format!("{NAMESPACE}/{NAME} does not exist yet")));
        };
        let status = &deployment["status"];
        let available = status["availableReplicas"].as_u64().unwrap_or(0);
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let seen = status["observedGeneration"] == deployment["metadata"]["generation"];
        if !seen || available < wanted {
            return Ok(Some(format!(
                "{available} of {wanted} replicas of {NAMESPACE}/{NAME} are available"
            )));
        }
        match reached_at(&service) {
            Some(found) => {
                address = Some(found);
                Ok(None)
            }
            None => Ok(Some(format!(
                "service {NAMESPACE}/{NAME} has no address yet"
            ))),
        }
    })
    .await;
    ready::explained(serves, client, NAMESPACE, NAME).await?;
    Ok(address)
}

/// The URL of the service's first address.
fn reached_at(service: &Value) -> Option<String> {
    let ip = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?;
    let mut ports = service["spec"]["ports"].as_array()?.iter();
    ports
        .any(|port| port["port"].as_u64() == Some(HTTP_PORT))
        .then(|| format!("http://{ip}/"))
}
