// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// @title Settlement of receipts
/// @notice Workers settle receipts in batches: the root of a Merkle tree over the receipts' ids, and totals.
/// Batches form an append-only log, a Merkle tree as in RFC 9162 with keccak-256, whose head is in every
/// block's header. A leaf's data is `abi.encode(index, worker, root, count, computeUnits, fees, height)`.
interface ILemmaReceipts {
    /// @notice A batch was settled.
    event BatchSettled(
        uint64 indexed index,
        address indexed worker,
        bytes32 root,
        uint64 count,
        uint64 computeUnits,
        uint256 fees
    );

    /// @notice Only active nodes settle: see ILemmaNodes.
    error NotActiveNode(address sender);
    /// @notice A batch has at least one receipt and a root.
    error EmptyBatch();
    /// @notice The sender has settled this root before, as batch `index`.
    error AlreadySettled(uint64 index);
    /// @notice Fees of one batch stay below 2^128.
    error FeesTooLarge(uint256 fees);
    /// @notice The worker's totals would exceed what can be counted.
    error TotalsOverflow();
    /// @notice There are only `count` entries.
    error IndexOutOfRange(uint64 index, uint64 count);

    /// @notice Settles a batch of the sender's receipts.
    /// @param root root of the Merkle tree (RFC 9162, keccak-256) over the receipts' ids
    /// @param count number of receipts
    /// @param computeUnits sum of their compute units
    /// @param fees sum of their prices, in wei
    /// @return index position in the log
    function settle(bytes32 root, uint64 count, uint64 computeUnits, uint256 fees)
        external
        returns (uint64 index);

    /// @notice The log's head.
    function log() external view returns (uint64 size, bytes32 root);

    /// @notice A settled batch.
    function batchAt(uint64 index)
        external
        view
        returns (
            address worker, bytes32 root, uint64 count, uint64 computeUnits, uint256 fees, uint64 height
        );

    /// @notice Whether a worker has settled a root, and where.
    function isSettled(address worker, bytes32 root) external view returns (bool settled, uint64 index);

    /// @notice Sums over all batches of a worker.
    function totalsOf(address worker)
        external
        view
        returns (uint64 batches, uint64 count, uint128 computeUnits, uint256 fees);
}
