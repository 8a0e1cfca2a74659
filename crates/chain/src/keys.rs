//! A validator's keys: its name (ed25519), its share of the network's signing key (BLS12-381), and what all validators
//! know of that key.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use alloy_consensus::Header;
use alloy_primitives::{Bytes, hex};
use commonware_codec::{Decode as _, DecodeExt as _, Encode as _};
use commonware_cryptography::{
    Signer as _,
    bls12381::{
        dkg::feldman_desmedt,
        primitives::{
            group::Share,
            sharing::{Mode, Sharing},
        },
    },
    ed25519,
};
use commonware_math::algebra::Random as _;
use commonware_utils::{Faults as _, N3f1, TryCollect as _, ordered::Set, sys_rng};
use lemma_types::{block::Extension, consensus_namespace};
use rand_core::CryptoRng;

use crate::{
    block::Block,
    scheme::{MAX_VALIDATORS, PublicKey, SHARING, Scheme, Variant},
};

/// Largest key file, bytes.
const MAX_FILE: u64 = 64 << 10;
/// First line of a key file.
const MAGIC: &str = "lemma-validator-key/1";

/// A validator's ed25519 public key: its name on the network and the `leader` of the blocks that it proposes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValidatorId(pub [u8; 32]);

impl fmt::Display for ValidatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ValidatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValidatorId({self})")
    }
}

impl From<&PublicKey> for ValidatorId {
    fn from(key: &PublicKey) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(key.as_ref());
        Self(bytes)
    }
}

impl ValidatorId {
    #[cfg(not(test))]
    pub(crate) fn key(self) -> Result<PublicKey, KeyError> {
        PublicKey::decode(self.0.to_vec()).map_err(|_| KeyError::NotAPoint(self))
    }
}

/// Why keys can not be dealt, read or stored.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No network has so many validators.
    #[error("{0} validators: a network has 1 to {MAX_VALIDATORS}")]
    Count(usize),
    /// The 32 bytes are not an ed25519 public key.
    #[error("{0} is not an ed25519 public key")]
    NotAPoint(ValidatorId),
    /// The file can not be read or written.
    #[error("key file {path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The file is no key file.
    #[error("key file {path}: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Everything secret and public that one validator needs to take part in consensus.
#[derive(Clone)]
pub struct ValidatorKeys {
    pub(crate) signer: ed25519::PrivateKey,
    pub(crate) share: Share,
    pub(crate) participants: Set<PublicKey>,
    pub(crate) polynomial: Sharing<Variant>,
}

impl fmt::Debug for ValidatorKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidatorKeys")
            .field("id", &self.id())
            .field("participants", &self.participants.len())
            .finish_non_exhaustive()
    }
}

impl ValidatorKeys {
    /// Makes the keys of a network of `count` validators, with randomness of the operating system.
    ///
    /// Whoever calls this sees every secret: right for a network on one machine. Networks of several operators make
    /// their key together.
    ///
    /// # Errors
    /// [`KeyError::Count`].
    pub fn deal(count: usize) -> Result<Vec<Self>, KeyError> {
        Self::deal_with(count, &mut sys_rng())
    }

    /// As [`ValidatorKeys::deal`], with the given randomness; the result is sorted by [`ValidatorKeys::id`].
    ///
    /// # Errors
    /// [`KeyError::Count`].
    pub fn deal_with(count: usize, rng: &mut impl CryptoRng) -> Result<Vec<Self>, KeyError> {
        if count == 0 || count > MAX_VALIDATORS.get() as usize {
            return Err(KeyError::Count(count));
        }
        let mut signers: Vec<_> = (0..count)
            .map(|_| ed25519::PrivateKey::random(&mut *rng))
            .collect();
        signers.sort_by_key(|signer| signer.public_key());
        let participants: Set<PublicKey> = signers
            .iter()
            .map(|signer| signer.public_key())
            .try_collect()
            .map_err(|_| KeyError::Count(count))?;
        let (output, shares) = feldman_desmedt::deal::<Variant, _, N3f1>(
            rng,
            Mode::NonZeroCounter,
            participants.clone(),
        )
        .map_err(|_| KeyError::Count(count))?;
        Ok(signers
            .into_iter()
            .map(|signer| Self {
                share: shares
                    .get_value(&signer.public_key())
                    .expect("each participant was dealt a share")
                    .clone(),
                signer,
                participants: participants.clone(),
                polynomial: output.public().clone(),
            })
            .collect())
    }

    /// This validator's name.
    #[must_use]
    pub fn id(&self) -> ValidatorId {
        ValidatorId::from(&self.signer.public_key())
    }

    /// The names of all validators, sorted.
    #[must_use]
    pub fn participants(&self) -> Vec<ValidatorId> {
        self.participants.iter().map(ValidatorId::from).collect()
    }

    /// The network's public key: a compressed point of G2, all that it takes to check certificates.
    #[must_use]
    pub fn network_key(&self) -> [u8; 96] {
        let mut bytes = [0; 96];
        bytes.copy_from_slice(&self.polynomial.public().encode());
        bytes
    }

    /// This validator's name, as the network layer has it.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.signer.public_key()
    }

    /// Signs a proposal of this validator, valid or not.
    #[must_use]
    pub fn seal(&self, header: Header, extension: Extension, transactions: Vec<Bytes>) -> Block {
        Block::seal(&self.signer, header, extension, transactions)
    }

    /// Signs votes and checks certificates of the network with this chain id; `None` if the share does not fit the
    /// network's key.
    #[must_use]
    pub fn scheme(&self, chain_id: u64) -> Option<Scheme> {
        Scheme::signer(
            &consensus_namespace(chain_id),
            self.participants.clone(),
            self.polynomial.clone(),
            self.share.clone(),
        )
    }

    /// Writes the keys to a file that only its owner can read; an existing file is not touched.
    ///
    /// # Errors
    /// [`KeyError::File`], also if the file exists.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let file_error = |error| KeyError::File {
            path: path.to_owned(),
            error,
        };
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(file_error)?;
        io::Write::write_all(&mut file, self.to_text().as_bytes()).map_err(file_error)?;
        file.sync_all().map_err(file_error)
    }

    /// Reads what [`ValidatorKeys::save`] wrote.
    ///
    /// # Errors
    /// [`KeyError::File`], also if others than its owner can read the file; [`KeyError::Format`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file_error = |error| KeyError::File {
            path: path.to_owned(),
            error,
        };
        let metadata = fs::metadata(path).map_err(file_error)?;
        let format_error = |reason: String| KeyError::Format {
            path: path.to_owned(),
            reason,
        };
        if metadata.len() > MAX_FILE {
            return Err(format_error(format!(
                "longer than the {MAX_FILE} bytes of any key file"
            )));
        }
        #[cfg(unix)]
        if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
            return Err(format_error(
                "readable by others than its owner; restrict it with `chmod 600`".to_owned(),
            ));
        }
        let text = fs::read_to_string(path).map_err(file_error)?;
        Self::from_text(&text).map_err(format_error)
    }

    fn to_text(&self) -> String {
        let participants: Vec<_> = self.participants.iter().map(hex::encode).collect();
        format!(
            "{MAGIC}\nsigner = {}\nshare = {}\nparticipants = {}\npolynomial = {}\n",
            hex::encode(self.signer.encode()),
            hex::encode(self.share.encode()),
            participants.join(","),
            hex::encode(self.polynomial.encode()),
        )
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return Err(format!("does not begin with `{MAGIC}`"));
        }
        let mut field = |name: &str| {
            lines
                .next()
                .and_then(|line| line.split_once(" = "))
                .filter(|(found, _)| *found == name)
                .map(|(_, value)| value.to_owned())
                .ok_or_else(|| format!("expected a line `{name} = …`"))
        };
        let bytes =
            |name: &str, text: &str| hex::decode(text).map_err(|error| format!("{name}: {error}"));
        let (signer, share) = (field("signer")?, field("share")?);
        let (participants, polynomial) = (field("participants")?, field("polynomial")?);
        if lines.next().is_some() {
            return Err("has further lines".to_owned());
        }
        let participants: Vec<PublicKey> = participants
            .split(',')
            .map(|key| {
                PublicKey::decode(bytes("participants", key)?)
                    .map_err(|error| format!("participants: {error}"))
            })
            .collect::<Result<_, _>>()?;
        if participants.len() > MAX_VALIDATORS.get() as usize {
            return Err(format!("more than {MAX_VALIDATORS} participants"));
        }
        let keys = Self {
            signer: ed25519::PrivateKey::decode(bytes("signer", &signer)?)
                .map_err(|error| format!("signer: {error}"))?,
            share: Share::decode(bytes("share", &share)?)
                .map_err(|error| format!("share: {error}"))?,
            participants: participants
                .into_iter()
                .try_collect()
                .map_err(|_| "names a participant twice".to_owned())?,
            polynomial: Sharing::decode_cfg(
                bytes("polynomial", &polynomial)?,
                &(MAX_VALIDATORS, SHARING),
            )
            .map_err(|error| format!("polynomial: {error}"))?,
        };
        keys.check()?;
        Ok(keys)
    }

    /// The parts belong together: [`Scheme::signer`] panics or refuses otherwise.
    fn check(&self) -> Result<(), String> {
        let index = self
            .participants
            .position(&self.public_key())
            .ok_or("the signer is none of the participants")?;
        if self.polynomial.total().get() as usize != self.participants.len() {
            return Err("the polynomial is for another number of participants".to_owned());
        }
        if self.polynomial.required() != N3f1::quorum(self.participants.len()) {
            return Err("the polynomial has another threshold than two thirds".to_owned());
        }
        if self.share.index.get() as usize != index {
            return Err("the share is another participant's".to_owned());
        }
        match self.polynomial.partial_public(self.share.index) {
            Ok(public) if public == self.share.public::<Variant>() => Ok(()),
            _ => Err("the share does not lie on the polynomial".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use commonware_utils::TestRng;

    use super::*;

    fn keys() -> Vec<ValidatorKeys> {
        ValidatorKeys::deal_with(4, &mut TestRng::new(1)).unwrap()
    }

    #[test]
    fn dealt_keys_belong_together() {
        let keys = keys();
        let network = keys[0].network_key();
        for key in &keys {
            assert_eq!(key.check(), Ok(()));
            assert_eq!(key.network_key(), network);
            assert!(key.scheme(1).is_some());
        }
        assert_eq!(
            keys[0].participants(),
            keys.iter().map(ValidatorKeys::id).collect::<Vec<_>>()
        );
        assert!(matches!(ValidatorKeys::deal(0), Err(KeyError::Count(0))));
    }

    #[test]
    fn text_form_round_trips_and_is_checked() {
        let keys = keys();
        let text = keys[2].to_text();
        let again = ValidatorKeys::from_text(&text).unwrap();
        assert_eq!(again.to_text(), text);
        let lines: Vec<_> = text.lines().collect();
        for missing in 0..lines.len() {
            let mut cut = lines.clone();
            cut.remove(missing);
            assert!(ValidatorKeys::from_text(&cut.join("\n")).is_err());
        }
        // Another validator's share or name does not fit.
        let other = keys[1].to_text();
        let others: Vec<_> = other.lines().collect();
        for swapped in [1, 2] {
            let mut mixed = lines.clone();
            mixed[swapped] = others[swapped];
            assert!(ValidatorKeys::from_text(&mixed.join("\n")).is_err());
        }
    }

    #[test]
    fn files_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("validator.key");
        let keys = keys();
        keys[0].save(&path).unwrap();
        assert_eq!(ValidatorKeys::load(&path).unwrap().id(), keys[0].id());
        assert!(matches!(keys[1].save(&path), Err(KeyError::File { .. })));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(
                ValidatorKeys::load(&path),
                Err(KeyError::Format { .. })
            ));
        }
    }
}
