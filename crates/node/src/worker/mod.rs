//! The worker: runs models, signs receipts, settles them.

/// A running worker.
pub struct Worker {}
