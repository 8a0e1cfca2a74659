//! Errors as users meet them: what failed, why, and what to do next.

use std::{error::Error, fmt};

use crate::exit::ExitCode;

/// An error at the edge of the program: a kind (which is the exit code), a message, its causes and hints.
///
/// Everything below the commands has precise error enums; commands turn them into this and add what only they know: which
/// kind it is and what the user might do.
#[derive(Debug, Clone)]
pub struct CommandError {
    code: ExitCode,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
}

/// What a command returns.
pub type CommandResult<T = ()> = Result<T, CommandError>;

impl CommandError {
    /// An error of this kind. The message is a lower-case fragment without a period.
    #[must_use]
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// An error that the user can put right.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Failed, message)
    }

    /// Adds an error, and what it was caused by, to the causes.
    #[must_use]
    pub fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // Many errors already quote their source: do not say it twice.
            if !self.causes.last().is_some_and(|last| last.ends_with(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Adds a cause in words.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds what the user might do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The kind.
    #[must_use]
    pub const fn code(&self) -> ExitCode {
        self.code
    }

    /// What failed.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Why, outermost cause first.
    #[must_use]
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// What the user might do.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes
            .iter()
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}

/// Adds what only the command knows to an error from below.
pub trait Context<T> {
    /// Turns an error into a [`CommandError`] of this kind and message, with the error as its cause.
    ///
    /// # Errors
    /// The error, in its new form.
    fn context(self, code: ExitCode, message: impl FnOnce() -> String) -> CommandResult<T>;
}

impl<T, E: Error + 'static> Context<T> for Result<T, E> {
    fn context(self, code: ExitCode, message: impl FnOnce() -> String) -> CommandResult<T> {
        self.map_err(|error| CommandError::new(code, message()).because(&error))
    }
}

/// The candidate that looks most like `word`, if any is close enough to be meant.
#[must_use]
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// Jaro-Winkler similarity from which on a suggestion helps more than it confuses.
    const CLOSE: f64 = 0.8;
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > CLOSE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer: {0}")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    #[test]
    fn a_source_that_is_already_quoted_is_not_repeated() {
        let error = CommandError::failed("it failed").because(&Outer(Inner));
        assert_eq!(error.causes(), ["outer: inner"]);
        assert_eq!(error.to_string(), "it failed: outer: inner");
    }

    #[test]
    fn suggestions_are_close() {
        let names = ["lemma/digits", "lemma/iris", "acme/tiny-llm"];
        assert_eq!(did_you_mean("lemma/digit", names), Some("lemma/digits"));
        assert_eq!(did_you_mean("acme/tinny-llm", names), Some("acme/tiny-llm"));
        assert_eq!(did_you_mean("zzz", names), None);
    }
}
