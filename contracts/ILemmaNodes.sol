// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// @title The register of workers
/// @notice A worker registers itself: the sender's address is the node's identity, the key that signs its
/// receipts. An endpoint is an `http://` or `https://` URL without user, query and fragment, 256 bytes at most.
interface ILemmaNodes {
    /// @notice A node became active.
    event NodeRegistered(address indexed node, address indexed payee, string endpoint);
    /// @notice A node changed its endpoint or payee.
    event NodeUpdated(address indexed node, address indexed payee, string endpoint);
    /// @notice A node left. It may register again.
    event NodeDeregistered(address indexed node);

    /// @notice Not an endpoint.
    error InvalidEndpoint(string reason);
    /// @notice Payments to the zero address would be lost.
    error ZeroPayee();
    /// @notice The sender is an active node already; use `update`.
    error AlreadyRegistered();
    /// @notice Not an active node.
    error NotRegistered(address node);
    /// @notice There are only `count` entries.
    error IndexOutOfRange(uint64 index, uint64 count);

    /// @notice Makes the sender an active node.
    function register(string calldata endpoint, address payee) external;

    /// @notice Changes the sender's endpoint and payee.
    function update(string calldata endpoint, address payee) external;

    /// @notice Makes the sender inactive.
    function deregister() external;

    /// @notice What a node has registered. All zero if it never did.
    /// @return endpoint where it serves
    /// @return payee who is paid for its work
    /// @return registeredAt block of its last registration
    /// @return active whether it is registered now
    function nodeOf(address node)
        external
        view
        returns (string memory endpoint, address payee, uint64 registeredAt, bool active);

    /// @notice Number of nodes that ever registered.
    function count() external view returns (uint64);

    /// @notice The nodes in order of their first registration, inactive ones included.
    function nodeAt(uint64 index) external view returns (address node);
}
