//! How a session tells its client the outcome, on the error stream.

use bytes::Bytes;
use serde_json::json;

use crate::BackendError;

/// How an outcome is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusForm {
    /// `metav1.Status` as JSON, since version 4.
    Json,
    /// Text, and nothing for success.
    Text,
}

impl StatusForm {
    pub fn write(self, outcome: &Result<i32, BackendError>) -> Bytes {
        match self {
            StatusForm::Json => json_status(outcome),
            StatusForm::Text => text_status(outcome),
        }
    }
}

fn json_status(outcome: &Result<i32, BackendError>) -> Bytes {
    let status = match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: error executing command in container: {error}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": format!("error executing command in container: {error}")}]},
            "code": 500,
        }),
    };
    Bytes::from(status.to_string())
}

fn text_status(outcome: &Result<i32, BackendError>) -> Bytes {
    match outcome {
        Ok(0) => Bytes::new(),
        Ok(code) => Bytes::from(format!(
            "error executing remote command: command terminated with non-zero exit code: exit status {code}"
        )),
        Err(error) => Bytes::from(format!("error executing remote command: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_causes() {
        let text = StatusForm::Json.write(&Ok(42));
        let status: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(
            status["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "42"})
        );
        assert_eq!(StatusForm::Text.write(&Ok(0)), Bytes::new());
    }
}
