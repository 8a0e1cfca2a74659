// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// @title Makes every kind of call, for the ledger's tests
contract Caller {
    function forward(address to, bytes calldata data) external payable returns (bytes memory) {
        (bool ok, bytes memory output) = to.call{value: msg.value}(data);
        return finish(ok, output);
    }

    function forwardStatic(address to, bytes calldata data) external view returns (bytes memory) {
        (bool ok, bytes memory output) = to.staticcall(data);
        return finish(ok, output);
    }

    function forwardDelegate(address to, bytes calldata data) external returns (bytes memory) {
        (bool ok, bytes memory output) = to.delegatecall(data);
        return finish(ok, output);
    }

    /// Calls, keeps going if it fails, and then reverts if asked to.
    function attempt(address to, bytes calldata data, bool undo) external returns (bool ok) {
        (ok,) = to.call(data);
        require(!undo, "undone");
    }

    /// Reverts an inner call after it has succeeded, and itself succeeds.
    function attemptAndUndo(address to, bytes calldata data) external returns (bool ok) {
        try this.attempt(to, data, true) returns (bool inner) {
            ok = inner;
        } catch {}
    }

    function sizeOf(address account) external view returns (uint256) {
        return account.code.length;
    }

    function hashOf(uint256 number) external view returns (bytes32) {
        return blockhash(number);
    }

    function environment() external view returns (uint256, uint256, uint256, uint256, uint256, address) {
        return (block.number, block.timestamp, block.prevrandao, block.basefee, block.chainid, block.coinbase);
    }

    /// Reads many slots that nobody has written.
    function readMany(uint256 from, uint256 n) external view returns (uint256 sum) {
        for (uint256 i = from; i < from + n; ++i) {
            assembly {
                sum := add(sum, sload(i))
            }
        }
    }

    /// Writes value + i to slots from .. from + n.
    function writeMany(uint256 from, uint256 n, uint256 value) external {
        for (uint256 i = 0; i < n; ++i) {
            assembly {
                sstore(add(from, i), add(value, i))
            }
        }
    }

    /// Follows a chain of slots, each of which holds the number of the next.
    function chase(uint256 slot, uint256 n) external view returns (uint256) {
        for (uint256 i = 0; i < n; ++i) {
            assembly {
                slot := sload(slot)
            }
        }
        return slot;
    }

    function burn() external view {
        uint256 x;
        while (gasleft() > 0) {
            ++x;
        }
    }

    function destroy(address payable to) external payable {
        selfdestruct(to);
    }

    /// Creates a copy of some code and destroys it again, in the same transaction.
    function createAndDestroy(address payable to) external payable {
        Ephemeral made = new Ephemeral{value: msg.value}();
        made.destroy(to);
    }

    receive() external payable {}

    function finish(bool ok, bytes memory output) private pure returns (bytes memory) {
        if (!ok) {
            assembly {
                revert(add(output, 32), mload(output))
            }
        }
        return output;
    }
}

contract Ephemeral {
    uint256 private kept = 7;

    constructor() payable {}

    function destroy(address payable to) external {
        kept = 8;
        selfdestruct(to);
    }
}
