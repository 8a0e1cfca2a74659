//! Whose key signs: a file, the environment, or a development account of a local network.

use std::{env, fs, io::Write as _, path::Path};

use lemma_types::keys::SecretKey;

use crate::{
    client::Client,
    config::{Config, SECRET_ENV, keys},
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
};

/// Largest key file, bytes.
const MAX_KEY_BYTES: u64 = 4096;
/// The first account of the mnemonic that every Ethereum development tool uses: public knowledge, worth nothing.
const DEVELOPMENT_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// A key and where it came from.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The key.
    pub key: SecretKey,
    /// Whether it is a development account, whose key everybody knows.
    pub development: bool,
}

/// The configured key, if there is one.
///
/// # Errors
/// If it can not be read, or is no key.
pub fn configured(config: &Config) -> CommandResult<Option<SecretKey>> {
    if let Some(file) = config.get(keys::KEY_FILE) {
        return read_file(Path::new(&file.text)).map(Some);
    }
    match env::var(SECRET_ENV) {
        Ok(text) => SecretKey::from_hex(&text)
            .map(Some)
            .context(ExitCode::Config, || format!("{SECRET_ENV} holds no key")),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(CommandError::new(
            ExitCode::Config,
            format!("{SECRET_ENV} holds no key"),
        )
        .because(&error)),
    }
}

/// The configured key, or the development account if the gateway is on this machine and its network funded that account.
///
/// # Errors
/// If there is neither.
pub async fn signer(config: &Config, client: &Client) -> CommandResult<Signer> {
    if let Some(key) = configured(config)? {
        return Ok(Signer {
            key,
            development: false,
        });
    }
    let key = SecretKey::from_hex(DEVELOPMENT_KEY).context(ExitCode::Internal, || {
        "the development key is no key".to_owned()
    })?;
    if client.is_local() && !client.balance(key.address()).await?.is_zero() {
        return Ok(Signer {
            key,
            development: true,
        });
    }
    Err(CommandError::new(ExitCode::Config, "no key to sign with")
        .hint("make one with `lemma wallet new --output FILE` and name it with --key-file FILE"))
}

fn read_file(path: &Path) -> CommandResult<SecretKey> {
    let fail = || format!("can not use key file {}", path.display());
    let metadata = fs::metadata(path).context(ExitCode::Config, fail)?;
    if metadata.len() > MAX_KEY_BYTES {
        return Err(
            CommandError::new(ExitCode::Config, fail()).cause("it is too large to be a key")
        );
    }
    let text = fs::read_to_string(path).context(ExitCode::Config, fail)?;
    SecretKey::from_hex(&text).context(ExitCode::Config, fail)
}

/// Others who may read the file, in words; `None` if only its owner may.
#[must_use]
pub fn exposure(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| format!("its mode is {:o}: others may read it", mode & 0o777))
}

/// Makes a key from the system's randomness.
///
/// # Errors
/// If the system has none.
pub fn generate() -> CommandResult<SecretKey> {
    loop {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            CommandError::new(
                ExitCode::Internal,
                format!("the system gives no randomness: {error}"),
            )
        })?;
        // Zero or above the group order: once in 2^128.
        if let Ok(key) = SecretKey::from_bytes(&bytes) {
            return Ok(key);
        }
    }
}

/// Stores a key where only the user can read it. Never overwrites.
///
/// # Errors
/// If the file exists or can not be written.
pub fn store(key: &SecretKey, path: &Path) -> CommandResult {
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        writeln!(file, "{}", key.to_bytes())?;
        file.sync_all()
    };
    write().context(ExitCode::Failed, || {
        format!("can not write key file {}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_file_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = generate().unwrap();
        store(&key, &path).unwrap();
        assert_eq!(read_file(&path).unwrap().address(), key.address());
        assert_eq!(exposure(&path), None);
        assert!(store(&key, &path).is_err(), "a key was overwritten");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "correct horse battery staple").unwrap();
        let error = read_file(&path).unwrap_err();
        assert_eq!(error.code(), ExitCode::Config);
        assert!(!error.to_string().contains("horse"));
        assert!(exposure(&path).is_some());
        fs::write(&path, vec![b'0'; 5000]).unwrap();
        assert!(
            read_file(&path)
                .unwrap_err()
                .to_string()
                .contains("too large")
        );
    }
}
