// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// @title The register of models
/// @notice Maps a model's name to its manifest: the BLAKE3 digest of its canonical JSON, from which
/// everything about the model follows. A name is `namespace/model` or `namespace/model:tag`, each part of
/// `a-z`, `0-9`, `.`, `_` and `-`, beginning and ending with a letter or digit, 128 bytes at most.
/// Whoever registers the first name in a namespace owns the namespace. Versions are never removed.
interface ILemmaModels {
    /// @notice A namespace got its owner.
    /// @param namespaceHash keccak256 of `namespace`
    event NamespaceClaimed(bytes32 indexed namespaceHash, address indexed owner, string namespace);

    /// @notice A name points to a new manifest.
    /// @param nameHash keccak256 of `name`
    event ModelRegistered(
        bytes32 indexed nameHash, bytes32 indexed manifest, address indexed owner, string name, uint64 version
    );

    /// @notice Not a name.
    error InvalidName(string reason);
    /// @notice The namespace belongs to someone else.
    error NotNamespaceOwner(string namespace, address owner);
    /// @notice A manifest of zeros is no manifest.
    error EmptyManifest();
    /// @notice The name's newest version has this manifest already.
    error ManifestUnchanged(uint64 version);
    /// @notice Nobody has registered this name.
    error UnknownModel(string name);
    /// @notice The name has no such version; versions count from 1 to `newest`.
    error UnknownVersion(uint64 version, uint64 newest);
    /// @notice There are only `count` entries.
    error IndexOutOfRange(uint64 index, uint64 count);

    /// @notice Registers a model, or a new version of it.
    /// @return version 1 for the first version of the name, then 2, 3, ...
    function register(string calldata name, bytes32 manifest) external returns (uint64 version);

    /// @notice The newest version of a model. Reverts if nobody has registered the name.
    /// @return manifest digest of the manifest
    /// @return owner owner of the namespace
    /// @return version number of this version
    /// @return height block that registered this version
    function resolve(string calldata name)
        external
        view
        returns (bytes32 manifest, address owner, uint64 version, uint64 height);

    /// @notice A certain version of a model.
    function manifestAt(string calldata name, uint64 version)
        external
        view
        returns (bytes32 manifest, uint64 height);

    /// @notice The owner of a namespace; zero if nobody has claimed it.
    function ownerOf(string calldata namespace) external view returns (address owner);

    /// @notice Number of names.
    function count() external view returns (uint64);

    /// @notice The names in order of their first registration.
    function nameAt(uint64 index) external view returns (string memory name);
}
