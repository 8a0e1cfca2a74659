use std::path::PathBuf;

/// Why a network does not start, or a part of it does not stop or start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A setting is out of range.
    #[error("{field}: {reason}")]
    Config {
        /// Which setting.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process has the directory.
    #[error("{} is in use by another process: stop it, or choose another directory with --data-dir", .0.display())]
    InUse(PathBuf),
    /// A file of the data directory can not be read or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A validator did not start.
    #[error("validator {index}: {reason}")]
    Validator {
        /// Which one.
        index: usize,
        /// What went wrong.
        reason: String,
    },
    /// A worker did not start.
    #[error("worker {index}: {reason}")]
    Worker {
        /// Which one.
        index: usize,
        /// What went wrong.
        reason: String,
    },
    /// The gateway did not start.
    #[error("gateway: {0}")]
    Gateway(String),
    /// A sample model could not be published.
    #[error("sample model {name}: {reason}")]
    Sample {
        /// Which model.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// Something did not become ready in time.
    #[error("{0}")]
    NotReady(String),
}
