//! Succinct arguments for integer graphs.
