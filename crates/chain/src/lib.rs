//! Consensus, blocks, mempool and state storage
