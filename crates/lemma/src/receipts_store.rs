//! The user's own receipts: one file each, with the salts that open them, readable by the user alone.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use lemma_types::{B256, Bytes, SignedReceipt, commitment::Openings, limits};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, keys},
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
};

/// Largest file that is read, bytes.
const MAX_BYTES: u64 = 64 << 10;

/// A receipt as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredReceipt {
    /// Always [`StoredReceipt::SCHEMA`].
    pub schema: String,
    /// The network's chain id.
    pub chain_id: u64,
    /// The model as the user named it.
    pub model: String,
    /// Where it came from.
    pub gateway: String,
    /// What the worker signed.
    pub receipt: SignedReceipt,
    /// The salts of its commitments.
    pub openings: Openings,
    /// When it was stored, seconds since the Unix epoch.
    pub stored_at: u64,
}

impl StoredReceipt {
    /// The format's name and version.
    pub const SCHEMA: &'static str = "lemma.stored-receipt/1";

    /// A receipt to be stored now.
    #[must_use]
    pub fn new(
        chain_id: u64,
        model: &str,
        gateway: &str,
        receipt: SignedReceipt,
        openings: Openings,
    ) -> Self {
        Self {
            schema: Self::SCHEMA.to_owned(),
            chain_id,
            model: model.to_owned(),
            gateway: gateway.to_owned(),
            receipt,
            openings,
            stored_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        }
    }

    /// The receipt's id.
    #[must_use]
    pub fn id(&self) -> B256 {
        self.receipt.receipt.id()
    }
}

/// The directory of the user's receipts.
#[derive(Clone, Debug)]
pub struct ReceiptStore(PathBuf);

impl ReceiptStore {
    /// The store that the configuration names.
    ///
    /// # Errors
    /// If there is no data directory.
    pub fn open(config: &Config) -> CommandResult<Self> {
        Ok(Self(config.path(keys::DATA_DIR)?.join("receipts")))
    }

    fn path(&self, id: B256) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// Stores a receipt durably; returns its file.
    ///
    /// # Errors
    /// The disk's.
    pub fn put(&self, stored: &StoredReceipt) -> CommandResult<PathBuf> {
        let path = self.path(stored.id());
        self.write(&path, stored).context(ExitCode::Failed, || {
            format!("can not store the receipt in {}", self.0.display())
        })?;
        Ok(path)
    }

    fn write(&self, path: &Path, stored: &StoredReceipt) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(stored).map_err(io::Error::other)?;
        self.write_bytes(path, &text)
    }

    fn write_bytes(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    }

    fn proof_path(&self, id: B256) -> PathBuf {
        self.0.join(format!("{id}.proof"))
    }

    /// Stores the proof of a receipt, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_proof(&self, id: B256, proof: &[u8]) -> CommandResult {
        let path = self.proof_path(id);
        self.write_bytes(&path, proof)
            .context(ExitCode::Failed, || {
                format!("can not store the proof in {}", self.0.display())
            })
    }

    /// The proof of a receipt, if the user has it.
    ///
    /// # Errors
    /// If its file can not be read, or is too large.
    pub fn proof(&self, id: B256) -> CommandResult<Option<Bytes>> {
        let path = self.proof_path(id);
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file,
        };
        let mut bytes = Vec::new();
        let read = file.and_then(|file| {
            let most = limits::PROOF_BYTES as u64 + 1;
            io::Read::read_to_end(&mut io::Read::take(file, most), &mut bytes)
        });
        read.context(ExitCode::Failed, || {
            format!("can not read {}", path.display())
        })?;
        if bytes.len() > limits::PROOF_BYTES {
            return Err(CommandError::failed(format!(
                "{} is too large to be a proof",
                path.display()
            )));
        }
        Ok(Some(bytes.into()))
    }

    /// The receipt with this id, if the user has it.
    ///
    /// # Errors
    /// If its file can not be read, or holds something else.
    pub fn get(&self, id: B256) -> CommandResult<Option<StoredReceipt>> {
        let path = self.path(id);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(CommandError::failed(format!(
                    "{} is too large to be a receipt",
                    path.display()
                )));
            }
            _ => {}
        }
        let text = fs::read(&path).context(ExitCode::Failed, || {
            format!("can not read {}", path.display())
        })?;
        let stored: StoredReceipt = serde_json::from_slice(&text)
            .context(ExitCode::Failed, || {
                format!("{} is not a stored receipt", path.display())
            })?;
        if stored.schema != StoredReceipt::SCHEMA || stored.id() != id {
            return Err(CommandError::failed(format!(
                "{} holds another receipt",
                path.display()
            )));
        }
        Ok(Some(stored))
    }

    /// All receipts, newest first. Files that are no receipts are passed over.
    ///
    /// # Errors
    /// If the directory can not be read.
    pub fn list(&self) -> CommandResult<Vec<StoredReceipt>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(
                    CommandError::failed(format!("can not read {}", self.0.display()))
                        .because(&error),
                );
            }
        };
        let mut found: Vec<StoredReceipt> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?.strip_suffix(".json")?.parse().ok()
            })
            .filter_map(|id: B256| self.get(id).ok().flatten())
            .collect();
        found.sort_by_key(|stored| {
            std::cmp::Reverse((stored.receipt.receipt.completed_at, stored.id()))
        });
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use lemma_types::{Address, Amount, Digest, Mode, Receipt, keys::SecretKey};

    use super::*;

    fn stored(completed_at: u64) -> StoredReceipt {
        let receipt = Receipt {
            request_id: B256::repeat_byte(1),
            model_root: Digest::of(b"m"),
            engine: B256::ZERO,
            request_commitment: B256::ZERO,
            response_commitment: B256::ZERO,
            transcript_root: B256::ZERO,
            usage_in: 1,
            usage_out: 1,
            compute_units: 1,
            price: Amount::ZERO,
            payer: Address::ZERO,
            payment: B256::ZERO,
            mode: Mode::Signed,
            worker: Address::ZERO,
            anchor_height: 0,
            anchor_hash: B256::ZERO,
            completed_at,
            previous_receipt: B256::ZERO,
            evidence: B256::ZERO,
        };
        let signed = receipt.sign(1, &SecretKey::from_bytes(&[1; 32]).unwrap());
        StoredReceipt::new(1, "a/b", "http://h", signed, Openings::derive(B256::ZERO))
    }

    #[test]
    fn receipts_come_back_newest_first_and_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let store = ReceiptStore(dir.path().join("receipts"));
        assert_eq!(store.list().unwrap(), []);
        let (old, new) = (stored(1), stored(2));
        let path = store.put(&old).unwrap();
        store.put(&new).unwrap();
        assert_eq!(store.proof(new.id()).unwrap(), None);
        store.put_proof(new.id(), b"proof").unwrap();
        assert_eq!(store.proof(new.id()).unwrap().unwrap()[..], b"proof"[..]);
        fs::write(store.0.join("notes.txt"), "x").unwrap();
        assert_eq!(store.list().unwrap(), [new, old.clone()]);
        assert_eq!(store.get(old.id()).unwrap(), Some(old));
        assert_eq!(store.get(B256::ZERO).unwrap(), None);
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_file_under_another_id_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = ReceiptStore(dir.path().to_owned());
        let path = store.put(&stored(1)).unwrap();
        fs::rename(path, store.path(B256::ZERO)).unwrap();
        assert!(store.get(B256::ZERO).is_err());
    }
}
