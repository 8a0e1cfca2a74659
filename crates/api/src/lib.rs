//! The HTTP surface: Open Inference Protocol, Ethereum JSON-RPC, models, receipts, health and metrics
