//! Key files, and randomness of the operating system.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use lemma_types::{B256, keys::SecretKey};

/// Longest key file, bytes.
const MAX_FILE: u64 = 256;

/// 32 random bytes from the operating system.
///
/// # Panics
/// If the operating system has no randomness: nothing that needs a secret may go on then.
#[must_use]
pub fn random_word() -> B256 {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes.into()
}

/// A new random key.
#[must_use]
pub fn random_key() -> SecretKey {
    loop {
        // Fails with probability 2^-128: zero, or not below the group order.
        if let Ok(key) = SecretKey::from_bytes(&random_word().0) {
            return key;
        }
    }
}

/// Reads the key in a file, or makes one and writes it there, readable by its owner only.
///
/// # Errors
/// The file system's; or if the file holds no key, or others than its owner can read it.
pub fn load_or_create(path: &Path) -> io::Result<SecretKey> {
    match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let key = random_key();
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    writeln!(file, "{}", key.to_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(key)
}

fn load(path: &Path) -> io::Result<SecretKey> {
    let file = fs::File::open(path)?;
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&file.metadata()?.permissions()) & 0o077 != 0 {
        let reason =
            "the key file is readable by others than its owner: restrict it with `chmod 600`";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    SecretKey::from_hex(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker.key");
        let key = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap().address(), key.address());
        assert_ne!(random_key().address(), key.address());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(
                load_or_create(&path).unwrap_err().kind(),
                io::ErrorKind::PermissionDenied
            );
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::write(&path, "not a key").unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!error.to_string().contains("not a key"));
    }
}
