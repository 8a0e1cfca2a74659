//! The offline verifier of receipts and bundles
