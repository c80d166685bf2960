//! Secrets, and the signatures that they make.
//!
//! Source: [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).

use crate::policy::webhook::SecretPlace;
use crate::production::folder::{self, FileError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::path::Path;

const PREFIX: &str = "whsec_";
/// What the specification allows.
const KEY_BYTES_MIN: usize = 24;
const KEY_BYTES_MAX: usize = 64;
/// The one in use, and the one that it takes the place of.
const KEYS_MAX: usize = 2;
const DRAWN_BYTES: usize = 32;

/// What notifications of a webhook are signed with: one key, or two while one takes the other's place.
pub struct Secret {
    keys: Vec<Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The keys stay out of logs.
        f.debug_struct("Secret").field("keys", &self.keys.len()).finish()
    }
}

/// A secret that nothing can be signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// There is none.
    Empty,
    /// It has not the form of one.
    Form,
    /// A key is too short, or too long to be one.
    Length {
        /// Its bytes.
        bytes: usize,
    },
    /// There are more than two.
    TooMany,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::Empty => f.write_str("there is no secret in it")?,
            SecretError::Form => {
                write!(f, "it is not \"{PREFIX}\" with base64 behind")?;
            }
            SecretError::Length { bytes } => write!(
                f,
                "its key has {bytes} bytes, and from {KEY_BYTES_MIN} to {KEY_BYTES_MAX} are needed"
            )?,
            SecretError::TooMany => write!(f, "it has more than {KEYS_MAX} lines")?,
        }
        write!(f, "; `echo \"{PREFIX}$(openssl rand -base64 {DRAWN_BYTES})\"` makes a secret")
    }
}

impl std::error::Error for SecretError {}

impl Secret {
    /// Reads one: a line, or two, of which either will do for the receiver.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys = lines.map(key).collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(SecretError::Empty),
            1..=KEYS_MAX => Ok(Secret { keys }),
            _ => Err(SecretError::TooMany),
        }
    }

    /// Reads the secret of a webhook from where the configuration says; draws it in the data folder
    /// where it says nothing.
    pub fn of(
        place: &SecretPlace,
        data: &Path,
        drawn: &Path,
        random: impl FnMut() -> u64,
    ) -> Result<Self, FileError> {
        let (path, text) = match place {
            SecretPlace::DataFolder => {
                folder::write_new(drawn, &format!("{}\n", draw(random)), 0o600)?;
                folder::close_to_others(drawn)?;
                (drawn.to_owned(), folder::read_text(drawn)?)
            }
            SecretPlace::File(path) => {
                let path = data.join(path);
                let text = folder::read_text(&path)?;
                (path, text)
            }
            SecretPlace::Variable(name) => {
                let path = Path::new(name).to_owned();
                let text = std::env::var(name).map_err(|error| {
                    FileError::new(&path, format!("the variable holds no secret: {error}"))
                })?;
                (path, text)
            }
        };
        Secret::parse(&text).map_err(|error| FileError::new(&path, error))
    }

    /// The header `webhook-signature`: one signature for each key.
    pub fn signature(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let sign = |key: &Vec<u8>| {
            let mut mac =
                Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(format!("{id}.{timestamp_s}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        self.keys.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

fn key(line: &str) -> Result<Vec<u8>, SecretError> {
    let encoded = line.strip_prefix(PREFIX).ok_or(SecretError::Form)?;
    let key = STANDARD.decode(encoded).map_err(|_| SecretError::Form)?;
    let bytes = key.len();
    if (KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&bytes) {
        Ok(key)
    } else {
        Err(SecretError::Length { bytes })
    }
}

fn draw(mut random: impl FnMut() -> u64) -> String {
    let drawn: Vec<u8> = (0..DRAWN_BYTES / 8).flat_map(|_| random().to_le_bytes()).collect();
    format!("{PREFIX}{}", STANDARD.encode(drawn))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by `openssl dgst -sha256 -mac HMAC -macopt hexkey:… -binary | base64`; the first
    /// is the example of the specification's libraries.
    #[test]
    fn signatures_are_those_that_openssl_makes() {
        let check = |secret: &str, id: &str, timestamp_s: u64, body: &str, expected: &str| {
            let secret = Secret::parse(secret).unwrap();
            assert_eq!(secret.signature(id, timestamp_s, body.as_bytes()), expected);
        };
        let (first, id) =
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek");
        let body = "{\"test\": 2432232314}";
        let signed = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        check(first, id, 1_614_265_330, body, signed);
        check(&format!("{first}\r\n"), id, 1_614_265_330, body, signed);
        let second = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let other = "v1,yzxvQtgKFJGhDsRJXNyiNR2gKeakT1zR/rF5megzGBI=";
        check(second, "entry-41-x", 1_790_000_000, "tide \u{fc}\n", other);
        let both = format!("{first}\n\n{second}\n");
        let secret = Secret::parse(&both).unwrap().signature(id, 1_614_265_330, body.as_bytes());
        assert_eq!((secret.split(' ').count(), secret.split(' ').next()), (2, Some(signed)));
    }

    #[test]
    fn what_is_no_secret() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        let refused = |text: &str| Secret::parse(text).unwrap_err();
        assert_eq!(refused(""), SecretError::Empty);
        assert_eq!(refused("\n \n"), SecretError::Empty);
        assert_eq!(refused("correct horse battery staple"), SecretError::Form);
        assert_eq!(refused("whsec_!!!"), SecretError::Form);
        assert_eq!(refused(&of(23)), SecretError::Length { bytes: 23 });
        assert_eq!(refused(&of(65)), SecretError::Length { bytes: 65 });
        assert!(Secret::parse(&of(24)).is_ok() && Secret::parse(&of(64)).is_ok());
        let three = format!("{}\n{}\n{}", of(24), of(25), of(26));
        assert_eq!(refused(&three), SecretError::TooMany);
        assert!(refused(&of(5)).to_string().contains("openssl rand"));
    }

    #[test]
    fn a_drawn_secret_stays_closed_and_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let drawn = folder.path().join("ops.secret");
        let sign = |from: u64| {
            let mut next = from;
            let random = || {
                next += 1;
                next
            };
            let secret = Secret::of(&SecretPlace::DataFolder, folder.path(), &drawn, random);
            secret.unwrap().signature("a", 1, b"b")
        };
        assert_eq!(sign(1), sign(2));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&drawn).unwrap().permissions().mode() & 0o777, 0o600);
        let file = SecretPlace::File("ops.secret".into());
        let same = Secret::of(&file, folder.path(), Path::new(""), || 0).unwrap();
        assert_eq!(same.signature("a", 1, b"b"), sign(3));
        let none = SecretPlace::File("none.secret".into());
        let error = Secret::of(&none, folder.path(), Path::new(""), || 0).unwrap_err();
        assert!(error.to_string().contains("none.secret"), "{error}");
    }
}
