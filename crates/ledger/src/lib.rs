//! The deterministic state machine: EVM and system modules
