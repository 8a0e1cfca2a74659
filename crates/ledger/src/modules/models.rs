//! Names of models: who owns which namespace, and which manifest each version of a name has.
//!
//! | slot | what |
//! | --- | --- |
//! | 0 | number of names |
//! | `name(index)` | the name, a string |
//! | `namespace(keccak(namespace))` | its owner |
//! | `model(keccak(name))` | newest version |
//! | `version(keccak(name), version)` | manifest; and in the next slot the height |

use super::{
    abi::ILemmaModels::{self, *},
    frame::{Frame, Stop},
    log::Slots,
};
use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolInterface};
use lemma_types::ModelName;

/// Where the module lives.
pub const ADDRESS: Address = super::MODELS;

const COUNT: U256 = U256::ZERO;

pub(super) fn call(frame: &mut Frame<'_>, data: &[u8]) -> Result<Vec<u8>, Stop> {
    use ILemmaModels::ILemmaModelsCalls as Call;
    match Call::abi_decode_validate(data).map_err(|_| Frame::no_such_method())? {
        Call::register(call) => register(frame, &call.name, call.manifest)
            .map(|version| registerCall::abi_encode_returns(&version)),
        Call::resolve(call) => resolve(frame, &call.name),
        Call::manifestAt(call) => manifest_at(frame, &call.name, call.version),
        Call::ownerOf(call) => {
            owner(frame, &call.namespace).map(|owner| ownerOfCall::abi_encode_returns(&owner))
        }
        Call::count(_) => frame
            .load_u64(COUNT)
            .map(|count| countCall::abi_encode_returns(&count)),
        Call::nameAt(call) => name_at(frame, call.index),
    }
}

fn register(frame: &mut Frame<'_>, name: &str, manifest: B256) -> Result<u64, Stop> {
    frame.writable()?;
    let name: ModelName = name
        .parse()
        .map_err(|error: lemma_types::name::ModelNameError| {
            Stop::error(InvalidName {
                reason: error.to_string(),
            })
        })?;
    if manifest.is_zero() {
        return Err(Stop::error(EmptyManifest {}));
    }
    let owner = claim(frame, name.owner())?;
    let name_hash = keccak256(name.as_str());
    let newest_slot = frame.slot("model", &[name_hash.as_slice()])?;
    let newest = frame.load_u64(newest_slot)?;
    if newest == 0 {
        enlist(frame, &name)?;
    } else if record(frame, name_hash, newest)?.0 == manifest {
        return Err(Stop::error(ManifestUnchanged { version: newest }));
    }
    let version = newest.saturating_add(1);
    let slot = version_slot(frame, name_hash, version)?;
    let height = U256::from(frame.height());
    frame.store(slot, manifest.into())?;
    frame.store(slot.wrapping_add(U256::ONE), height)?;
    frame.store(newest_slot, U256::from(version))?;
    let name = name.as_str().to_owned();
    frame.emit(&ModelRegistered {
        nameHash: name_hash,
        manifest,
        owner,
        name,
        version,
    })?;
    Ok(version)
}

/// Makes sure that the namespace is the caller's: its first user becomes its owner.
fn claim(frame: &mut Frame<'_>, namespace: &str) -> Result<Address, Stop> {
    let caller = frame.caller();
    let namespace_hash = keccak256(namespace);
    let slot = frame.slot("namespace", &[namespace_hash.as_slice()])?;
    let owner = frame.load_address(slot)?;
    let namespace = namespace.to_owned();
    if owner.is_zero() {
        frame.store(slot, caller.into_word().into())?;
        frame.emit(&NamespaceClaimed {
            namespaceHash: namespace_hash,
            owner: caller,
            namespace,
        })?;
    } else if owner != caller {
        return Err(Stop::error(NotNamespaceOwner { namespace, owner }));
    }
    Ok(caller)
}

/// Adds a new name to the list.
fn enlist(frame: &mut Frame<'_>, name: &ModelName) -> Result<(), Stop> {
    let index = frame.load_u64(COUNT)?;
    let slot = frame.slot("name", &[&index.to_be_bytes()])?;
    frame.store_string(slot, name.as_str())?;
    frame.store(COUNT, U256::from(index.saturating_add(1)))
}

fn resolve(frame: &mut Frame<'_>, name: &str) -> Result<Vec<u8>, Stop> {
    let name_hash = keccak256(name);
    let version = newest_version(frame, name, name_hash)?;
    let (manifest, height) = record(frame, name_hash, version)?;
    let namespace = name.split_once('/').map_or("", |(namespace, _)| namespace);
    let owner = owner(frame, namespace)?;
    Ok(resolveCall::abi_encode_returns(&resolveReturn {
        manifest,
        owner,
        version,
        height,
    }))
}

fn manifest_at(frame: &mut Frame<'_>, name: &str, version: u64) -> Result<Vec<u8>, Stop> {
    let name_hash = keccak256(name);
    let newest = newest_version(frame, name, name_hash)?;
    if version == 0 || version > newest {
        return Err(Stop::error(UnknownVersion { version, newest }));
    }
    let (manifest, height) = record(frame, name_hash, version)?;
    Ok(manifestAtCall::abi_encode_returns(&manifestAtReturn {
        manifest,
        height,
    }))
}

/// The manifest of a version of a name; for other modules.
pub(super) fn manifest_of(frame: &mut Frame<'_>, name: &str, version: u64) -> Result<B256, Stop> {
    let name_hash = keccak256(name);
    let slot = frame.slot("model", &[name_hash.as_slice()])?;
    let newest = frame.load_from(ADDRESS, slot)?.saturating_to::<u64>();
    if newest == 0 {
        return Err(Stop::error(UnknownModel {
            name: name.to_owned(),
        }));
    }
    if version == 0 || version > newest {
        return Err(Stop::error(UnknownVersion { version, newest }));
    }
    let slot = version_slot(frame, name_hash, version)?;
    Ok(frame.load_from(ADDRESS, slot)?.into())
}

fn newest_version(frame: &mut Frame<'_>, name: &str, name_hash: B256) -> Result<u64, Stop> {
    let slot = frame.slot("model", &[name_hash.as_slice()])?;
    match frame.load_u64(slot)? {
        0 => Err(Stop::error(UnknownModel {
            name: name.to_owned(),
        })),
        version => Ok(version),
    }
}

/// Manifest and height of a version.
fn record(frame: &mut Frame<'_>, name_hash: B256, version: u64) -> Result<(B256, u64), Stop> {
    let slot = version_slot(frame, name_hash, version)?;
    let manifest = frame.load(slot)?.into();
    Ok((manifest, frame.load_u64(slot.wrapping_add(U256::ONE))?))
}

fn version_slot(frame: &mut Frame<'_>, name_hash: B256, version: u64) -> Result<U256, Stop> {
    frame.slot("version", &[name_hash.as_slice(), &version.to_be_bytes()])
}

fn owner(frame: &mut Frame<'_>, namespace: &str) -> Result<Address, Stop> {
    let slot = frame.slot("namespace", &[keccak256(namespace).as_slice()])?;
    frame.load_address(slot)
}

fn name_at(frame: &mut Frame<'_>, index: u64) -> Result<Vec<u8>, Stop> {
    let count = frame.load_u64(COUNT)?;
    if index >= count {
        return Err(Stop::error(IndexOutOfRange { index, count }));
    }
    let slot = frame.slot("name", &[&index.to_be_bytes()])?;
    Ok(nameAtCall::abi_encode_returns(&frame.load_string(slot)?))
}
