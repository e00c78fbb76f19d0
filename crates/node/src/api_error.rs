//! What the API server answered, in the words it is meant to be shown with.

/// A refusal's message, or why no answer came. `kube`'s own text repeats the whole Status.
#[must_use]
pub fn words(problem: &client::Error) -> String {
    match problem {
        client::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}
