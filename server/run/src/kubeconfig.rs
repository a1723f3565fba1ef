//! A kubeconfig: where the cluster is and who its user is, in one file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::authority::Credential;

/// The text of a kubeconfig (JSON, which is YAML) for `https://<address>`.
pub fn kubeconfig(address: &str, ca_pem: &str, credential: &Credential) -> String {
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "trireme",
            "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority-data": STANDARD.encode(ca_pem),
            },
        }],
        "users": [{
            "name": "kubernetes-admin",
            "user": {
                "client-certificate-data": STANDARD.encode(&credential.certificate_pem),
                "client-key-data": STANDARD.encode(&credential.key_pem),
            },
        }],
        "contexts": [{
            "name": "trireme",
            "context": {"cluster": "trireme", "user": "kubernetes-admin"},
        }],
        "current-context": "trireme",
        "preferences": {},
    });
    let mut text = serde_yaml_ng::to_string(&document).unwrap_or_else(|_| document.to_string());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
