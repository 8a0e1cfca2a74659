// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// @title Proofs of inference
/// @notice Checks succinct arguments that a quantised model gives its outputs on its inputs (`docs/proof-system.md`; not
/// zero-knowledge). Evidence is what `lemma proof prove` writes and what a receipt of mode `proved` names: verifying
/// key, statement and proof. It must be in the profile for everyone, not that for holders of the weights.
/// @dev A check costs gas for the work that it does, which follows from the model and the number of samples. Without
/// enough gas it does not begin. A transaction holds 384 KiB, so evidence of about 380 KiB at most.
interface ILemmaProofs {
    /// @notice The proof of a receipt was accepted: `worker` signed the receipt, the receipt names this evidence and the
    /// model's manifest, and the evidence proves that the model of the manifest gives outputs on inputs. The hashes are
    /// keccak-256 of the model's integers, four bytes each, little-endian, of all inputs, and of all outputs.
    /// @dev That these inputs are the receipt's request is for whoever knows its salts: the ledger does not see them.
    event ProofAccepted(
        bytes32 indexed receiptId,
        bytes32 indexed manifest,
        address indexed worker,
        bytes32 evidence,
        bytes32 inputs,
        bytes32 outputs
    );

    /// @notice A receipt of another mode was raised to `proved`: `worker` signed the receipt, and the evidence proves that
    /// the model of the manifest gives the receipt's response on the receipt's request, rounded to the model's integers.
    /// The hashes are those of `ProofAccepted`.
    event ReceiptRaised(
        bytes32 indexed receiptId,
        bytes32 indexed manifest,
        address indexed worker,
        bytes32 evidence,
        bytes32 inputs,
        bytes32 outputs
    );

    /// @notice The evidence is malformed, or its proof does not hold, or is of another model.
    error ProofRefused(string reason);
    /// @notice The manifest is not that of this version of the name, or not of a quantised model.
    error WrongManifest(string reason);
    /// @notice The receipt is malformed, not signed by its worker, of another model or evidence, or for the other method.
    error WrongReceipt(string reason);
    /// @notice The inputs or salts do not open the receipt's commitments, or the proof is of something else.
    error WrongOpening(string reason);
    /// @notice The receipt's proof was accepted before, at `height`.
    error AlreadyAccepted(uint64 height);

    /// @notice Checks evidence against a model root. Reverts with `ProofRefused` if it does not hold.
    /// @param root the model root, `graph_root` of a quantised model's manifest
    /// @param evidence the evidence
    /// @return inputs keccak-256 of the inputs that it is about, see `ProofAccepted`
    /// @return outputs keccak-256 of the outputs
    function verify(bytes32 root, bytes calldata evidence)
        external
        view
        returns (bytes32 inputs, bytes32 outputs);

    /// @notice Accepts the proof of a receipt of mode `proved` and says so in an event.
    /// @param name a registered name: see ILemmaModels
    /// @param version the version whose manifest the receipt names
    /// @param manifest the manifest itself, whose BLAKE3 is registered
    /// @param receipt the signed receipt: `abi.encode` of its struct, and the signature of 65 bytes
    /// @param evidence the evidence, whose BLAKE3 the receipt names
    /// @return receiptId the receipt's id, its EIP-712 struct hash
    function accept(
        string calldata name,
        uint64 version,
        bytes calldata manifest,
        bytes calldata receipt,
        bytes calldata evidence
    ) external returns (bytes32 receiptId);

    /// @notice Raises a receipt of another mode to `proved`, and says so in an event. The receipt names no evidence, so its
    /// commitments are opened: everyone then sees the inputs and both salts.
    /// @param name a registered name: see ILemmaModels
    /// @param version the version whose manifest the receipt names
    /// @param manifest the manifest itself, whose BLAKE3 is registered
    /// @param receipt the signed receipt: `abi.encode` of its struct, and the signature of 65 bytes
    /// @param inputs the request's tensors in their canonical encoding
    /// @param requestSalt the salt of the receipt's request commitment
    /// @param responseSalt the salt of the receipt's response commitment
    /// @param evidence a proof of this request and response
    /// @return receiptId the receipt's id, its EIP-712 struct hash
    function raise(
        string calldata name,
        uint64 version,
        bytes calldata manifest,
        bytes calldata receipt,
        bytes calldata inputs,
        bytes32 requestSalt,
        bytes32 responseSalt,
        bytes calldata evidence
    ) external returns (bytes32 receiptId);

    /// @notice The accepted proof of a receipt, its own or one that raised it: the evidence's BLAKE3 and the height, zeros if there is none.
    function proofOf(bytes32 receiptId) external view returns (bytes32 evidence, uint64 height);
}
