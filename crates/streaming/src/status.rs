//! How a command ended, and how that is written on the error stream.

use serde_json::{Value, json};

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with code 0, or attaching came to its end.
    Success,
    /// It exited with this code, other than 0.
    ExitCode(i32),
    /// It could not be run, or not to its end; the sentence is for the client.
    Failure(String),
}

impl Outcome {
    /// The outcome of an exit code.
    pub fn of_exit_code(code: i32) -> Self {
        if code == 0 { Self::Success } else { Self::ExitCode(code) }
    }

    /// The `Status` object that protocol version 4 and later send.
    pub fn to_status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.sentence(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failure(problem) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.sentence(),
                "reason": "InternalError",
                "details": {"causes": [{"message": problem}]},
                "code": 500,
            }),
        }
    }

    /// What earlier versions send: a sentence, or nothing on success.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Success => String::new(),
            _ => self.sentence(),
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Success => "success".to_owned(),
            Self::ExitCode(code) => format!("command terminated with non-zero exit code: exit code {code}"),
            Self::Failure(problem) => format!("Internal error occurred: {problem}"),
        }
    }

    /// Reads what a server wrote on the error stream. `None` when it is not a status.
    pub fn from_status(bytes: &[u8]) -> Option<Self> {
        let status: Value = serde_json::from_slice(bytes).ok()?;
        if status.get("status")?.as_str()? == "Success" {
            return Some(Self::Success);
        }
        let causes = status.pointer("/details/causes").and_then(Value::as_array);
        let exit_code = causes
            .into_iter()
            .flatten()
            .find(|cause| cause.get("reason").and_then(Value::as_str) == Some("ExitCode"))
            .and_then(|cause| cause.get("message")?.as_str()?.parse().ok());
        Some(match exit_code {
            Some(code) => Self::ExitCode(code),
            None => Self::Failure(status.get("message").and_then(Value::as_str).unwrap_or_default().to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_exit_code() {
        for outcome in [Outcome::Success, Outcome::ExitCode(137)] {
            assert_eq!(Outcome::from_status(outcome.to_status().to_string().as_bytes()), Some(outcome));
        }
        let failure = Outcome::Failure("no such container".to_owned());
        assert_eq!(
            Outcome::from_status(failure.to_status().to_string().as_bytes()),
            Some(Outcome::Failure("Internal error occurred: no such container".to_owned()))
        );
        assert_eq!(Outcome::from_status(b"plain text"), None);
    }
}
