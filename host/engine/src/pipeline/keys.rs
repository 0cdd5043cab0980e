//! Keys of encrypted backups, in the age format: to whom artifacts are encrypted, and with what they are opened.
//!
//! Nothing here prints a secret: a private key given where a public one belongs is refused without being shown.

use std::cell::RefCell;
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use age::secrecy::SecretString;
use redkeep_core::manifest::EncryptionRecord;
use redkeep_core::secret::Secret;

use super::error::PipelineError;
use super::payload::{Keeping, KeepingRecipient, Payload, Remembering};

/// Work factor of passphrases, log2: 2^15 needs 32 MiB, which leaves a whole backup below its 96 MiB. age's own default takes
/// a second and 256 MiB. Recipients need none of that: they are the better way where memory counts.
const SCRYPT_WORK_FACTOR: u8 = 15;
/// The most work that is done to open what somebody else wrote: 2^20 is 1 GiB.
const SCRYPT_WORK_FACTOR_LIMIT: u8 = 20;
/// Held while a passphrase is worked on: several shards at once would take its memory several times.
static SCRYPT_MEMORY: Mutex<()> = Mutex::new(());
/// Identity files are small; a bigger file is not one.
const IDENTITY_FILE_LIMIT: u64 = 1 << 20;

/// To whom a backup is encrypted.
pub struct Recipients {
    to: To,
}

enum To {
    Keys { shown: Vec<String>, keys: Vec<Box<dyn age::Recipient + Send + Sync>> },
    Passphrase { passphrase: SecretString, work_factor: u8 },
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Recipients").field(&self.record()).finish()
    }
}

fn secret_string(secret: &Secret) -> SecretString {
    SecretString::from(secret.expose().to_owned())
}

impl Recipients {
    /// Reads public keys: `age1…` (X25519), `ssh-ed25519 …`, `ssh-rsa …`; or takes a passphrase (scrypt). `None` when there is neither.
    ///
    /// # Errors
    /// Class `Usage`: text that is no public key, both at once, an empty passphrase.
    pub fn parse(recipients: &[String], passphrase: Option<&Secret>) -> Result<Option<Self>, PipelineError> {
        match (recipients, passphrase) {
            ([], None) => Ok(None),
            ([], Some(passphrase)) => {
                if passphrase.expose().is_empty() {
                    return Err(PipelineError::EmptyPassphrase);
                }
                let passphrase = secret_string(passphrase);
                Ok(Some(Self { to: To::Passphrase { passphrase, work_factor: SCRYPT_WORK_FACTOR } }))
            }
            (_, Some(_)) => Err(PipelineError::RecipientsAndPassphrase),
            (recipients, None) => {
                let mut shown = Vec::new();
                let mut keys = Vec::new();
                for text in recipients {
                    let text = text.trim();
                    keys.push(parse_recipient(text)?);
                    shown.push(text.to_owned());
                }
                Ok(Some(Self { to: To::Keys { shown, keys } }))
            }
        }
    }

    /// What the manifest says of it: public keys, never anything that opens the backup.
    pub fn record(&self) -> EncryptionRecord {
        let (recipients, passphrase) = match &self.to {
            To::Keys { shown, .. } => (shown.clone(), false),
            To::Passphrase { .. } => (Vec::new(), true),
        };
        EncryptionRecord { format: "age".to_owned(), recipients, passphrase }
    }

    /// The start of one age file, and what seals its payload. Takes a moment for a passphrase: call it where blocking is allowed.
    pub(crate) fn begin(&self, artifact: &str) -> Result<(Vec<u8>, Payload), PipelineError> {
        let failed =
            |why: String| PipelineError::Encrypt { artifact: artifact.to_owned(), why: why.replace('\n', " ") };
        let kept = RefCell::new(None);
        let encryptor = match &self.to {
            To::Keys { keys, .. } => {
                let keeping: Vec<_> =
                    keys.iter().map(|key| KeepingRecipient { inner: key.as_ref(), kept: &kept }).collect();
                age::Encryptor::with_recipients(keeping.iter().map(|key| -> &dyn age::Recipient { key }))
            }
            To::Passphrase { passphrase, work_factor } => {
                let _one_at_a_time = SCRYPT_MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
                let mut recipient = age::scrypt::Recipient::new(passphrase.clone());
                recipient.set_work_factor(*work_factor);
                let keeping = KeepingRecipient { inner: &recipient, kept: &kept };
                age::Encryptor::with_recipients(std::iter::once(&keeping as &dyn age::Recipient))
            }
        };
        let encryptor = encryptor.map_err(|error| failed(error.to_string()))?;
        let mut header = Vec::new();
        drop(encryptor.wrap_output(&mut header).map_err(|error| failed(error.to_string()))?);
        let payload = kept.borrow().as_ref().and_then(|key| Payload::new(key, &header));
        Ok((header, payload.ok_or(PipelineError::Internal { stage: "encrypt" })?))
    }

    /// A cheap work factor, for tests that encrypt hundreds of times.
    #[cfg(test)]
    pub(crate) fn with_work_factor(mut self, factor: u8) -> Self {
        if let To::Passphrase { work_factor, .. } = &mut self.to {
            *work_factor = factor;
        }
        self
    }
}

fn parse_recipient(text: &str) -> Result<Box<dyn age::Recipient + Send + Sync>, PipelineError> {
    let upper = text.to_ascii_uppercase();
    if upper.contains("SECRET-KEY") || upper.contains("PRIVATE KEY") {
        return Err(PipelineError::InvalidRecipient {
            given: "(not shown)".to_owned(),
            why: "it is a private key; whoever sees it can read the backups".to_owned(),
        });
    }
    let invalid = |why: String| {
        let mut given: String = text.chars().take(24).collect();
        if given.len() < text.len() {
            given.push('…');
        }
        PipelineError::InvalidRecipient { given: format!("`{given}`"), why }
    };
    if text.starts_with("ssh-") {
        return match text.parse::<age::ssh::Recipient>() {
            Ok(key) => Ok(Box::new(key)),
            Err(age::ssh::ParseRecipientKeyError::RsaModulusTooSmall) => {
                Err(invalid("the RSA key has fewer than 2048 bits".to_owned()))
            }
            Err(age::ssh::ParseRecipientKeyError::RsaModulusTooLarge) => {
                Err(invalid("the RSA key is too large".to_owned()))
            }
            Err(age::ssh::ParseRecipientKeyError::Unsupported(kind)) => {
                Err(invalid(format!("ssh keys of the kind {kind} cannot encrypt")))
            }
            Err(_) => Err(invalid("it is not a whole ssh public key".to_owned())),
        };
    }
    match text.parse::<age::x25519::Recipient>() {
        Ok(key) => Ok(Box::new(key)),
        Err(why) if text.starts_with("age1") => Err(invalid(why.to_owned())),
        Err(_) => Err(invalid("it is not a public key".to_owned())),
    }
}

/// With what encrypted backups are opened.
pub struct Keys {
    identities: Vec<Box<dyn age::Identity + Send + Sync>>,
    passphrase: Option<SecretString>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Keys")
            .field("identities", &self.identities.len())
            .field("passphrase", &self.passphrase.is_some())
            .finish()
    }
}

impl Keys {
    /// No keys: opens only what is not encrypted.
    pub fn none() -> Self {
        Self { identities: Vec::new(), passphrase: None }
    }

    /// Reads files of age identities (also armored and encrypted ones) and ssh private keys; of a folder, as a mounted Secret is
    /// one, every file. The passphrase opens encrypted
    /// identity files and ssh keys, and backups made with a passphrase. Reads files and may take a second: not for async code.
    ///
    /// # Errors
    /// Class `Usage` for a file that is missing or no identity, `Refused` for one whose passphrase is missing or wrong.
    pub fn read(identity_files: &[PathBuf], passphrase: Option<Secret>) -> Result<Self, PipelineError> {
        let passphrase = passphrase.as_ref().map(secret_string);
        let mut identities = Vec::new();
        for path in identity_files {
            for file in files_of(path)? {
                read_identities(&file, passphrase.as_ref(), &mut identities)?;
            }
        }
        Ok(Self { identities, passphrase })
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.passphrase.is_none()
    }

    /// Reads the header of an age file, and returns what opens the payload that follows it in `stored`. The stored bytes are known
    /// to be right when this is called, so what does not open is a matter of keys. `needed` names the keys that would open it.
    pub(crate) fn open<R: std::io::BufRead>(
        &self,
        artifact: &str,
        needed: &str,
        stored: &mut R,
    ) -> Result<Payload, PipelineError> {
        use age::DecryptError;
        let no_key = |why| PipelineError::NoKey { artifact: artifact.to_owned(), why, needed: needed.to_owned() };
        if self.is_empty() {
            return Err(no_key("it is encrypted and no key was given"));
        }
        let mut stored = Remembering::new(stored);
        let decryptor = age::Decryptor::new_buffered(&mut stored).map_err(|error| unreadable(artifact, &error))?;
        let by_passphrase = decryptor.is_scrypt();
        let kept = RefCell::new(None);
        let result = if by_passphrase {
            let Some(passphrase) = &self.passphrase else {
                return Err(no_key("it is encrypted with a passphrase and none was given"));
            };
            let _one_at_a_time = SCRYPT_MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
            let mut identity = age::scrypt::Identity::new(passphrase.clone());
            identity.set_max_work_factor(SCRYPT_WORK_FACTOR_LIMIT);
            let keeping = Keeping { inner: &identity, kept: &kept };
            decryptor.decrypt(std::iter::once(&keeping as &dyn age::Identity)).map(drop)
        } else {
            let keeping: Vec<_> =
                self.identities.iter().map(|identity| Keeping { inner: identity.as_ref(), kept: &kept }).collect();
            decryptor.decrypt(keeping.iter().map(|identity| -> &dyn age::Identity { identity })).map(drop)
        };
        result.map_err(|error| match error {
            DecryptError::DecryptionFailed if by_passphrase => no_key("the passphrase is wrong"),
            DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed | DecryptError::DecryptionFailed => {
                no_key("none of the keys fits")
            }
            DecryptError::ExcessiveWork { .. } => no_key("its passphrase asks for more than 1 GiB of memory"),
            other => unreadable(artifact, &other),
        })?;
        let payload = kept.borrow().as_ref().and_then(|key| stored.payload(key));
        payload.ok_or(PipelineError::Internal { stage: "decrypt" })
    }
}

/// A header that cannot be read although its digest held, or could not be fetched.
fn unreadable(artifact: &str, error: &age::DecryptError) -> PipelineError {
    PipelineError::damaged(artifact, format!("its age header cannot be read: {}", error.to_string().replace('\n', " ")))
}

/// The file itself, or the files of a folder. Names with a dot in front are how Kubernetes lays out a mounted Secret.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed =
        |why: &str, source| PipelineError::InvalidIdentity { path: path.to_owned(), why: why.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| failed("it cannot be listed", Some(error)))? {
        let entry = entry.map_err(|error| failed("it cannot be listed", Some(error)))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    if files.is_empty() {
        return Err(failed("the folder holds no key; in Kubernetes the Secret is missing or empty", None));
    }
    files.sort();
    Ok(files)
}

fn read_identities(
    path: &Path,
    passphrase: Option<&SecretString>,
    identities: &mut Vec<Box<dyn age::Identity + Send + Sync>>,
) -> Result<(), PipelineError> {
    let invalid =
        |why: &str| PipelineError::InvalidIdentity { path: path.to_owned(), why: why.to_owned(), source: None };
    let unreadable = |error: std::io::Error| PipelineError::InvalidIdentity {
        path: path.to_owned(),
        why: "it cannot be read".to_owned(),
        source: Some(error),
    };
    let locked = |why| PipelineError::LockedIdentity { path: path.to_owned(), why };

    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(IDENTITY_FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > IDENTITY_FILE_LIMIT {
        return Err(invalid("it is too large"));
    }
    let start = bytes.trim_ascii_start();
    if start.starts_with(b"age-encryption.org/") || start.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") {
        let Some(passphrase) = passphrase else { return Err(locked("it is encrypted and no passphrase was given")) };
        let armored = age::armor::ArmoredReader::new(Cursor::new(start.to_vec()));
        let decryptor = age::Decryptor::new_buffered(armored).map_err(|_| invalid("it is not a whole age file"))?;
        if !decryptor.is_scrypt() {
            return Err(invalid("it is encrypted to a key; only a passphrase can open it here"));
        }
        let mut identity = age::scrypt::Identity::new(passphrase.clone());
        identity.set_max_work_factor(SCRYPT_WORK_FACTOR_LIMIT);
        let reader = decryptor
            .decrypt(std::iter::once(&identity as &dyn age::Identity))
            .map_err(|_| locked("its passphrase is another one"))?;
        let mut plain = Vec::new();
        reader.take(IDENTITY_FILE_LIMIT).read_to_end(&mut plain).map_err(|_| invalid("it is not a whole age file"))?;
        return native_identities(&plain, identities).map_err(invalid);
    }
    if start.starts_with(b"-----BEGIN ") {
        let identity = age::ssh::Identity::from_buffer(Cursor::new(start), None)
            .map_err(|_| invalid("it is neither an age identity nor an ssh private key"))?;
        let identity = match identity {
            age::ssh::Identity::Encrypted(key) => {
                let Some(passphrase) = passphrase else {
                    return Err(locked("the ssh key is encrypted and no passphrase was given"));
                };
                let key = key.decrypt(passphrase.clone()).map_err(|_| locked("its passphrase is another one"))?;
                age::ssh::Identity::from(key)
            }
            age::ssh::Identity::Unsupported(_) => {
                return Err(invalid("ssh keys of this kind cannot decrypt; ed25519 and RSA in OpenSSH format can"));
            }
            plain @ age::ssh::Identity::Unencrypted(_) => plain,
        };
        identities.push(Box::new(identity));
        return Ok(());
    }
    native_identities(start, identities).map_err(invalid)
}

fn native_identities(
    bytes: &[u8],
    identities: &mut Vec<Box<dyn age::Identity + Send + Sync>>,
) -> Result<(), &'static str> {
    let none = "it holds no age identity (`AGE-SECRET-KEY-1…`)";
    let file = age::IdentityFile::from_buffer(Cursor::new(bytes)).map_err(|_| none)?;
    let found = file.into_identities().map_err(|_| none)?;
    if found.is_empty() {
        return Err(none);
    }
    identities.extend(found);
    Ok(())
}
