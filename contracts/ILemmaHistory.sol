// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// @title Hashes of earlier blocks
/// @notice An append-only log of block hashes: a Merkle tree as in RFC 9162 with keccak-256. Leaf i is the
/// hash of block i. In block h it covers blocks 0 to h - 1, so each header proves every earlier block.
interface ILemmaHistory {
    /// @notice The block is this one or a later one, or older than the last 8192.
    error UnknownBlock(uint64 height);

    /// @notice Number of blocks in the log: the current block's height.
    function size() external view returns (uint64);

    /// @notice Root of the log.
    function root() external view returns (bytes32);

    /// @notice Hash of one of the last 8192 blocks.
    function blockHash(uint64 height) external view returns (bytes32);
}
