//! Raw requests to the API by curl, for what a kubectl would not send or would not show.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Longest that curl waits for an answer.
const PATIENCE_S: &str = "30";

/// Who asks.
#[derive(Clone, Debug)]
pub enum Credential {
    None,
    Certificate { certificate: PathBuf, key: PathBuf },
    Token(String),
}

/// The address of an API, the authority that it is trusted by, and who asks.
#[derive(Clone, Debug)]
pub struct Rest {
    pub server: String,
    pub authority: PathBuf,
    pub credential: Credential,
}

/// An answer that came, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub text: String,
}

impl Answer {
    /// The body as JSON; of a watch, its first event.
    pub fn json(&self) -> Result<Value> {
        let mut documents = serde_json::Deserializer::from_str(&self.text).into_iter();
        documents
            .next()
            .with_context(|| format!("{} without a body", self.code))?
            .with_context(|| format!("{} with a body that is no JSON: {}", self.code, self.text))
    }
}

impl Rest {
    /// As the user of a kubeconfig; its credentials are written below `scratch`.
    pub fn of_kubeconfig(kubeconfig: &Path, scratch: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let document: Value = serde_yaml_ng::from_str(&text)?;
        let cluster = &document["clusters"][0]["cluster"];
        let user = &document["users"][0]["user"];
        let write = |name: &str, value: &Value| -> Result<PathBuf> {
            let encoded = value
                .as_str()
                .with_context(|| format!("the kubeconfig has no {name}"))?;
            let path = scratch.join(name);
            std::fs::write(&path, STANDARD.decode(encoded)?)?;
            Ok(path)
        };
        Ok(Self {
            server: cluster["server"]
                .as_str()
                .context("the kubeconfig has no server")?
                .to_owned(),
            authority: write("authority.pem", &cluster["certificate-authority-data"])?,
            credential: Credential::Certificate {
                certificate: write("user.pem", &user["client-certificate-data"])?,
                key: write("user-key.pem", &user["client-key-data"])?,
            },
        })
    }

    pub fn with(&self, credential: Credential) -> Self {
        Self {
            credential,
            ..self.clone()
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", PATIENCE_S])
            .arg("--cacert")
            .arg(&self.authority);
        match &self.credential {
            Credential::None => {}
            Credential::Certificate { certificate, key } => {
                command.arg("--cert").arg(certificate).arg("--key").arg(key);
            }
            Credential::Token(token) => {
                command.args(["--header", &format!("Authorization: Bearer {token}")]);
            }
        }
        command
    }

    /// One request. An error is one of the connection, with curl's words.
    pub fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Result<Answer> {
        let mut command = self.command();
        command
            .args(["--request", method, "--write-out", "\n%{http_code}"])
            .arg(format!("{}{path}", self.server))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !body.is_empty() {
            command.args(["--header", &format!("Content-Type: {media_type}")]);
            // No pause for a `100 Continue`.
            command.args(["--header", "Expect:", "--data-binary", "@-"]);
        }
        let mut child = command.spawn().context("running curl")?;
        let mut input = child.stdin.take().context("piped")?;
        // A server that has refused reads no further, and says so in its answer.
        let _ = input.write_all(body);
        drop(input);
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let (text, code) = text.rsplit_once('\n').context("curl printed no code")?;
        Ok(Answer {
            code: code.parse()?,
            text: text.to_owned(),
        })
    }

    /// Several documents over one connection.
    pub fn get_all(&self, paths: &[String]) -> Result<Vec<Value>> {
        let mut command = self.command();
        command.args(paths.iter().map(|path| format!("{}{path}", self.server)));
        let output = command.output().context("running curl")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let documents: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(&output.stdout)
            .into_iter()
            .collect();
        let documents = documents?;
        ensure!(
            documents.len() == paths.len(),
            "{} answers to {} requests",
            documents.len(),
            paths.len()
        );
        Ok(documents)
    }
}
