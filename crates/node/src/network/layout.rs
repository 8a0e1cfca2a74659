//! The data directory of a local network:
//!
//! ```text
//! lock                         held by the process that runs the network
//! network.json                 what the network is: chain id, time of genesis, number of validators, initial funds
//! trusted-root.json            what an offline verifier has to trust
//! validators/<i>/validator.key keys of validator i, private
//! validators/<i>/data/         its state and history
//! workers/<i>/                 key, journal of receipts and models of worker i
//! gateway/                     content store and index of receipts
//! samples/<owner>/<model>/     sample models with example inputs
//! ```
//!
//! `network.json` is written last, so it is there if and only if all keys are: whatever a crash leaves of an unfinished
//! beginning is told by the file `unfinished`, and swept.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use lemma_chain::ValidatorKeys;
use lemma_ledger::Genesis;
use lemma_types::{Address, TrustedRoot, U256};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::NetworkError;

/// Chain id of local networks.
pub const LOCAL_CHAIN_ID: u64 = 840_200;
/// Largest file of settings that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a network is, in `network.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    schema: String,
    pub(super) chain_id: u64,
    /// Seconds since the Unix epoch.
    pub(super) genesis_time: u64,
    pub(super) validators: u32,
    /// Initial balances, wei.
    pub(super) funds: BTreeMap<Address, U256>,
}

impl Definition {
    const SCHEMA: &'static str = "lemma.local-network/1";

    pub(super) fn new(genesis_time: u64, validators: u32, funds: BTreeMap<Address, U256>) -> Self {
        Self {
            schema: Self::SCHEMA.to_owned(),
            chain_id: LOCAL_CHAIN_ID,
            genesis_time,
            validators,
            funds,
        }
    }

    pub(super) fn genesis(&self) -> Genesis {
        Genesis::development(self.chain_id, self.genesis_time, self.funds.clone())
    }
}

/// A data directory that this process holds. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    _lock: File,
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |error| NetworkError::File {
        path: path.clone(),
        reason: error.to_string(),
    }
}

impl Layout {
    /// Takes the directory, which is made if it does not exist.
    pub(super) fn take(root: &Path) -> Result<Self, NetworkError> {
        fs::create_dir_all(root).map_err(file_error(root))?;
        let root = root.canonicalize().map_err(file_error(root))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(file_error(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(NetworkError::InUse(root)),
            Err(TryLockError::Error(error)) => Err(file_error(&path)(error)),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn validator_key(&self, index: usize) -> PathBuf {
        self.root
            .join("validators")
            .join(index.to_string())
            .join("validator.key")
    }

    pub(super) fn validator_data(&self, index: usize) -> PathBuf {
        self.root
            .join("validators")
            .join(index.to_string())
            .join("data")
    }

    pub(super) fn worker(&self, index: usize) -> PathBuf {
        self.root.join("workers").join(index.to_string())
    }

    pub(super) fn gateway(&self) -> PathBuf {
        self.root.join("gateway")
    }

    pub(super) fn sample(&self, name: &lemma_types::ModelName) -> PathBuf {
        // A name's parts hold no separators and are neither `.` nor `..`; a tag's colon is no good file name everywhere.
        self.root
            .join("samples")
            .join(name.as_str().replace(':', "@"))
    }

    pub(super) fn trusted_root(&self) -> PathBuf {
        self.root.join("trusted-root.json")
    }

    /// The network that is here, or a new one as `make` defines it.
    pub(super) fn open(
        &self,
        make: impl FnOnce() -> Definition,
    ) -> Result<(Definition, Vec<ValidatorKeys>), NetworkError> {
        let path = self.root.join("network.json");
        let definition: Definition = match read_json(&path)? {
            Some(definition) => definition,
            None => {
                let definition = make();
                self.begin(&definition)?;
                write_json(&path, &definition)?;
                definition
            }
        };
        self.finish_beginning()?;
        if definition.schema != Definition::SCHEMA {
            let reason = format!(
                "format `{}`, this program knows `{}`",
                definition.schema,
                Definition::SCHEMA
            );
            return Err(NetworkError::File { path, reason });
        }
        let keys = (0..definition.validators as usize).map(|index| {
            let load = ValidatorKeys::load(&self.validator_key(index));
            load.map_err(|error| NetworkError::Validator {
                index,
                reason: error.to_string(),
            })
        });
        Ok((definition, keys.collect::<Result<_, _>>()?))
    }

    /// Makes the keys of a new network.
    fn begin(&self, definition: &Definition) -> Result<(), NetworkError> {
        let marker = self.root.join("unfinished");
        let validators = self.root.join("validators");
        if marker.exists() {
            // A beginning that a crash cut short: nothing has used its keys.
            remove_folder(&validators)?;
        } else if validators.exists() {
            let reason =
                "there are validators but no network.json: choose an empty directory".to_owned();
            return Err(NetworkError::File {
                path: validators,
                reason,
            });
        }
        fs::write(&marker, "").map_err(file_error(&marker))?;
        let count = definition.validators as usize;
        let config = |reason: String| NetworkError::Config {
            field: "validators",
            reason,
        };
        let keys = ValidatorKeys::deal(count).map_err(|error| config(error.to_string()))?;
        for (index, keys) in keys.iter().enumerate() {
            let path = self.validator_key(index);
            let folder = path.parent().expect("a key lies in a folder");
            fs::create_dir_all(folder).map_err(file_error(folder))?;
            keys.save(&path).map_err(|error| NetworkError::Validator {
                index,
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    fn finish_beginning(&self) -> Result<(), NetworkError> {
        let marker = self.root.join("unfinished");
        match fs::remove_file(&marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file_error(&marker)(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes what an offline verifier has to trust.
    pub(super) fn write_trusted_root(&self, root: &TrustedRoot) -> Result<(), NetworkError> {
        write_json(&self.trusted_root(), root)
    }

    /// Writes a file of a sample.
    pub(super) fn write_sample(
        &self,
        folder: &Path,
        name: &str,
        content: &[u8],
    ) -> Result<(), NetworkError> {
        fs::create_dir_all(folder).map_err(file_error(folder))?;
        let path = folder.join(name);
        fs::write(&path, content).map_err(file_error(&path))
    }
}

fn remove_folder(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, NetworkError> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path)(error)),
    };
    if size > MAX_FILE {
        let reason = format!("{size} bytes, at most {MAX_FILE} are read");
        return Err(NetworkError::File {
            path: path.to_owned(),
            reason,
        });
    }
    let bytes = fs::read(path).map_err(file_error(path))?;
    let value = serde_json::from_slice(&bytes);
    value
        .map(Some)
        .map_err(|error| file_error(path)(error.into()))
}

/// Writes a file that is there as a whole or not at all.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), NetworkError> {
    let mut json = serde_json::to_vec_pretty(value).expect("settings serialise to JSON");
    json.push(b'\n');
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&json)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(file_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        Definition::new(
            1_700_000_000,
            4,
            BTreeMap::from([(Address::repeat_byte(1), U256::from(7))]),
        )
    }

    #[test]
    fn a_network_is_made_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::take(directory.path()).unwrap();
        let (made, keys) = layout.open(definition).unwrap();
        drop(layout);
        let layout = Layout::take(directory.path()).unwrap();
        let (found, again) = layout.open(|| unreachable!("it is there")).unwrap();
        assert_eq!(found, made);
        let ids = |keys: &[ValidatorKeys]| keys.iter().map(ValidatorKeys::id).collect::<Vec<_>>();
        assert_eq!(ids(&again), ids(&keys));
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let held = Layout::take(directory.path()).unwrap();
        assert!(matches!(
            Layout::take(directory.path()),
            Err(NetworkError::InUse(_))
        ));
        drop(held);
        Layout::take(directory.path()).unwrap();
    }

    #[test]
    fn an_unfinished_beginning_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::take(directory.path()).unwrap();
        layout.begin(&definition()).unwrap();
        let (_, keys) = layout.open(definition).unwrap();
        assert_eq!(keys.len(), 4);
        assert!(!directory.path().join("unfinished").exists());
    }

    #[test]
    fn foreign_folders_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("validators/precious");
        fs::create_dir_all(&precious).unwrap();
        let layout = Layout::take(directory.path()).unwrap();
        assert!(matches!(
            layout.open(definition),
            Err(NetworkError::File { .. })
        ));
        assert!(precious.exists());
        fs::write(directory.path().join("network.json"), "{}").unwrap();
        assert!(matches!(
            layout.open(definition),
            Err(NetworkError::File { .. })
        ));
    }
}
