//! The master keyring: the operator's keys, which seal each tenant's key and the root secret.
//! Kept in a file that only its owner may read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::sealed::{self, Binding, KeyBytes, OpenError};

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("cannot read the master keyring {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("there is a keyring at {} already; it was left alone", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write the master keyring {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the master keyring {} can be read by others than its owner (mode {mode:o}); chmod 400 it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("line {line} of the master keyring {} is not `ID BASE64-KEY [active]`", path.display())]
    Line { path: PathBuf, line: usize },
    #[error("the master keyring {} needs exactly one active key", path.display())]
    Active { path: PathBuf },
}

/// Master keys by id; one of them is active and seals what is new.
pub struct Keyring {
    active: u32,
    keys: Vec<(u32, KeyBytes)>,
}

impl Keyring {
    /// A keyring of one fresh key.
    #[must_use]
    pub fn generate() -> Self {
        Self { active: 1, keys: vec![(1, sealed::random_key())] }
    }

    /// Reads a keyring file.
    ///
    /// # Errors
    /// When it cannot be read, is open to others, or is not in the keyring's format.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        let at = || path.to_owned();
        refuse_exposed(path)?;
        let text =
            std::fs::read_to_string(path).map_err(|source| KeyringError::Read { path: at(), source })?;
        let text = Zeroizing::new(text);
        let mut keys = Vec::new();
        let mut active = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, key, is_active) = parse(line).ok_or(KeyringError::Line { path: at(), line: i + 1 })?;
            if keys.iter().any(|(known, _)| *known == id) {
                return Err(KeyringError::Line { path: at(), line: i + 1 });
            }
            active.extend(is_active.then_some(id));
            keys.push((id, key));
        }
        match active[..] {
            [active] => Ok(Self { active, keys }),
            _ => Err(KeyringError::Active { path: at() }),
        }
    }

    /// Writes the keyring to a new file of mode 0400; an existing file is left alone.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(&self, path: &Path) -> Result<(), KeyringError> {
        use std::io::Write as _;
        let at = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AlreadyExists => KeyringError::Exists { path: path.to_owned() },
            _ => KeyringError::Write { path: path.to_owned(), source },
        };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o400);
        }
        let mut file = options.open(path).map_err(at)?;
        file.write_all(self.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(at)
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::from(
            "# Keyward master keys: ID, key, and `active` for the one that seals what is new.\n\
             # Without this file no provider key can be opened. Back it up apart from the database.\n",
        ));
        for (id, key) in &self.keys {
            let key = Zeroizing::new(STANDARD.encode(**key));
            let mark = if *id == self.active { " active" } else { "" };
            let _ = writeln!(text, "{id} {}{mark}", &*key);
        }
        text
    }

    /// Ids of all keys, and the active one.
    #[must_use]
    pub fn ids(&self) -> (Vec<u32>, u32) {
        (self.keys.iter().map(|(id, _)| *id).collect(), self.active)
    }

    /// Seals under the active key.
    ///
    /// # Errors
    /// When the cipher refuses.
    pub fn seal(&self, binding: &Binding, plain: &[u8]) -> Result<Vec<u8>, OpenError> {
        sealed::seal(self.active, self.key(self.active)?, binding, plain)
    }

    /// Opens with the key that the envelope names.
    ///
    /// # Errors
    /// `UnknownKey` when the keyring does not hold it; as `sealed::open` otherwise.
    pub fn open(&self, binding: &Binding, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        sealed::open(self.key(sealed::key_id(envelope)?)?, binding, envelope)
    }

    fn key(&self, id: u32) -> Result<&KeyBytes, OpenError> {
        self.keys.iter().find(|(known, _)| *known == id).map(|(_, key)| key).ok_or(OpenError::UnknownKey(id))
    }
}

fn parse(line: &str) -> Option<(u32, KeyBytes, bool)> {
    let mut words = line.split_whitespace();
    let id = words.next()?.parse().ok()?;
    let bytes = Zeroizing::new(STANDARD.decode(words.next()?).ok()?);
    let key = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
    match (words.next(), words.next()) {
        (None, _) => Some((id, key, false)),
        (Some("active"), None) => Some((id, key, true)),
        _ => None,
    }
}

#[cfg(unix)]
fn refuse_exposed(path: &Path) -> Result<(), KeyringError> {
    use std::os::unix::fs::PermissionsExt as _;
    let meta =
        std::fs::metadata(path).map_err(|source| KeyringError::Read { path: path.to_owned(), source })?;
    let mode = meta.permissions().mode() & 0o777;
    let open_to_others = mode & 0o077;
    if open_to_others == 0 { Ok(()) } else { Err(KeyringError::Exposed { path: path.to_owned(), mode }) }
}

#[cfg(not(unix))]
fn refuse_exposed(_: &Path) -> Result<(), KeyringError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_keyring_opens_what_it_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let ring = Keyring::generate();
        let sealed = ring.seal(&Binding::new("t"), b"x").unwrap();
        ring.create(&path).unwrap();
        let again = Keyring::load(&path).unwrap();
        assert_eq!(again.open(&Binding::new("t"), &sealed).unwrap().as_slice(), b"x");
        assert!(ring.create(&path).is_err(), "an existing keyring must not be overwritten");
        assert!(Keyring::generate().open(&Binding::new("t"), &sealed).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_keyring_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        Keyring::generate().create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o440)).unwrap();
        assert!(matches!(Keyring::load(&path), Err(KeyringError::Exposed { mode: 0o440, .. })));
    }

    #[test]
    fn broken_files_name_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            let path = dir.path().join(format!("{}", text.len()));
            std::fs::write(&path, text).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
            }
            path
        };
        assert!(matches!(
            Keyring::load(&write("# a\n1 short active\n")),
            Err(KeyringError::Line { line: 2, .. })
        ));
        assert!(matches!(Keyring::load(&write("")), Err(KeyringError::Active { .. })));
    }
}
