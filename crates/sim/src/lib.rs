//! The ledger network in one process from a seed, with faults
