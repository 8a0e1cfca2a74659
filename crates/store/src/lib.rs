//! Content-addressed blobs with verified, resumable transfer
