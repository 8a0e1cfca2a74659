// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

import {ILemmaModels} from "../ILemmaModels.sol";
import {LemmaAddresses} from "../LemmaAddresses.sol";

/// @title Pins a model
/// @notice An example: remembers which manifest a name stood for, so that users of this contract notice
/// when the owner publishes another version.
contract ModelPin {
    /// @notice The manifest at the time of the last pin.
    bytes32 public manifest;
    /// @notice Its version.
    uint64 public version;

    /// @notice Pins the newest version of a model.
    function pin(string calldata name) external {
        (bytes32 digest,, uint64 number,) = ILemmaModels(LemmaAddresses.MODELS).resolve(name);
        (manifest, version) = (digest, number);
    }

    /// @notice Whether the pinned manifest is still the newest.
    function isCurrent(string calldata name) external view returns (bool) {
        (bytes32 digest,,,) = ILemmaModels(LemmaAddresses.MODELS).resolve(name);
        return digest == manifest;
    }
}
