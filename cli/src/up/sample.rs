//! The sample application: one Deployment and one Service of the built-in image.

use anyhow::Result;
use serde_json::json;
use trireme_client::{ApplyOptions, Client};
use trireme_model::kinds;

use super::ready::{self, until};
use super::state::State;

pub const NODE_PORT: u16 = 30080;
const NAME: &str = "hello";
const NAMESPACE: &str = "default";

/// Applies it; applied again it changes nothing.
pub async fn apply(client: &Client, state: &State) -> Result<()> {
    let nodes = state.nodes().count();
    let labels = json!({"app": NAME});
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": nodes.clamp(1, 2),
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [{
                        "name": "hello",
                        "image": "trireme.local/hello",
                        "imagePullPolicy": "IfNotPresent",
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "env": [
                            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                        ],
                        "readinessProbe": {
                            "httpGet": {"path": "/healthz", "port": "http"},
                            "periodSeconds": 1,
                        },
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                    }],
                },
            },
        },
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "type": "NodePort",
            "selector": labels,
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": NODE_PORT}],
        },
    });
    let options = ApplyOptions {
        field_manager: "trireme-up".to_owned(),
        force: true,
    };
    for (kind, object) in [(kinds::DEPLOYMENT, deployment), (kinds::SERVICE, service)] {
        until(state, async || {
            match client.apply(kind, &object, &options).await {
                Ok(_) => Ok(None),
                // The leader may change while it is written; to apply again does no harm.
                Err(error) if error.is_transient() || error.is_outcome_unknown() => Ok(Some(
                    format!("{} {NAME} is not written: {error}", kind.kind),
                )),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
    }
    Ok(())
}

/// Until every replica is available.
pub async fn wait(client: &Client, state: &State) -> Result<()> {
    let available = until(state, async || {
        let Ok(deployment) = client.get(kinds::DEPLOYMENT, NAMESPACE, NAME).await else {
            return Ok(Some("the sample cannot be read".to_owned()));
        };
        let (status, spec) = (&deployment["status"], &deployment["spec"]);
        let available = status["availableReplicas"].as_u64().unwrap_or(0);
        let wanted = spec["replicas"].as_u64().unwrap_or(0);
        let seen = status["observedGeneration"] == deployment["metadata"]["generation"];
        Ok((!seen || available < wanted)
            .then(|| format!("{available} of {wanted} replicas of the sample are available")))
    })
    .await;
    ready::explained(available, client, NAMESPACE, NAME).await
}
