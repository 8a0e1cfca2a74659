// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// @title Addresses of Lemma's system modules
/// @notice The same on every Lemma network. The prefix is "LEMMA" in ASCII.
library LemmaAddresses {
    /// @notice Names, versions and manifests of models: ILemmaModels.
    address internal constant MODELS = 0x4c454D4D41000000000000000000000000000001;
    /// @notice Workers, their endpoints and payees: ILemmaNodes.
    address internal constant NODES = 0x4C454d4D41000000000000000000000000000002;
    /// @notice Settled batches of receipts: ILemmaReceipts.
    address internal constant RECEIPTS = 0x4c454d4D41000000000000000000000000000003;
    /// @notice Hashes of earlier blocks: ILemmaHistory.
    address internal constant HISTORY = 0x4C454d4d41000000000000000000000000000004;
    /// @notice A verifier of proofs of inference: ILemmaProofs.
    address internal constant PROOFS = 0x4c454D4d41000000000000000000000000000005;
}
