//! What of a webhook outlives the process: how far it has been told, and what it could not be told.
//!
//! ```text
//! webhooks/NAME.place.json   how far, and what is counted behind that
//! webhooks/NAME.dead.json    dead letters, the oldest first
//! webhooks/NAME.secret       where the configuration names no other
//! ```
//!
//! Invariant: an entry that is passed in the file was told, or is a dead letter in the other file, or is
//! not wanted, or is counted in a storm that stands beside it. So a crash has something told again at
//! worst, under the same id.

use super::notification::Notification;
use crate::audit::Storm;
use crate::production::folder::{self, FileError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The folder of all of them.
pub const FOLDER: &str = "webhooks";
/// Dead letters of one webhook; the log has what the oldest of more would tell.
pub const LETTERS_MAX: usize = 100;
/// What they hold together. A conflict takes some 1,000 bytes.
pub const LETTERS_BYTES_MAX: usize = 512 * 1024;

/// The files of one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// How far it has been told.
    pub place: PathBuf,
    /// Its dead letters.
    pub dead: PathBuf,
    /// Its secret, where it has none elsewhere.
    pub secret: PathBuf,
}

impl Files {
    /// Of a webhook in a data folder.
    pub fn of(data: &Path, name: &str) -> Self {
        let file = |what: &str| data.join(FOLDER).join(format!("{name}.{what}"));
        Files { place: file("place.json"), dead: file("dead.json"), secret: file("secret") }
    }
}

/// How far a webhook has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The last entry that was seen to.
    pub through_seq: u64,
    /// What is counted of that, and was not told.
    pub storms: Vec<Storm>,
    /// A summary whose fate is not known. Written before it is sent, since what is counted later
    /// would make another of it.
    pub sending: Option<Notification>,
    /// Entries that had left the log before they were told.
    pub missed: u64,
}

impl Place {
    /// The last entry before everything that was not told.
    pub fn told_seq(&self) -> u64 {
        let sending = self.sending.iter().map(|sending| sending.first_seq);
        let first = self.storms.iter().map(|storm| storm.first_seq).chain(sending).min();
        first.map_or(self.through_seq, |first| self.through_seq.min(first.saturating_sub(1)))
    }
}

/// A notification that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Letter {
    /// It.
    pub notification: Notification,
    /// When, in milliseconds since the epoch.
    pub since_ms: u64,
    /// Tries since then too.
    pub attempts: u32,
    /// What came back last.
    pub answer: String,
}

/// Dead letters, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Letters(VecDeque<Letter>);

impl Letters {
    /// They.
    pub fn iter(&self) -> impl Iterator<Item = &Letter> {
        self.0.iter()
    }

    /// How many.
    fn len(&self) -> usize {
        self.0.len()
    }

    /// The one with this id.
    pub fn find(&self, id: &str) -> Option<&Letter> {
        self.0.iter().find(|letter| letter.notification.id == id)
    }

    /// Adds one, or takes it in the place of what it was before, and gives those that there is no more
    /// room for.
    pub fn add(&mut self, letter: Letter) -> Vec<Letter> {
        let id = &letter.notification.id;
        match self.0.iter_mut().find(|known| known.notification.id == *id) {
            Some(known) => *known = letter,
            None => self.0.push_back(letter),
        }
        let mut dropped = Vec::new();
        while self.len() > 1 && (self.len() > LETTERS_MAX || self.bytes() > LETTERS_BYTES_MAX) {
            dropped.extend(self.0.pop_front());
        }
        dropped
    }

    /// Takes one out.
    pub fn remove(&mut self, id: &str) -> Option<Letter> {
        let at = self.0.iter().position(|letter| letter.notification.id == id)?;
        self.0.remove(at)
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|letter| letter.notification.body.len()).sum()
    }
}

/// Reads one of the files; `None`: it was never written.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(text) = folder::read_if_there(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        FileError::new(
            path,
            format!(
                "this is not what a webhook's file looks like ({error}); restore it, or remove it to \
                 have the webhook begin anew, at the end of the audit log"
            ),
        )
    })
}

/// Writes one of the files; durable when it returns.
pub fn write<T: Serialize>(path: &Path, what: &T) -> Result<(), FileError> {
    let text = serde_json::to_string(what).expect("plain data with text keys");
    folder::replace_durably(path, &format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordId;
    use crate::version::ContentHash;

    fn notification(n: u64, bytes: usize) -> Notification {
        let (id, body) = (format!("entry-{n}-0"), "x".repeat(bytes));
        Notification { id, kind: "conflict".to_owned(), first_seq: n, last_seq: n, body }
    }

    fn letter(n: u64, bytes: usize) -> Letter {
        let answer = "500".to_owned();
        Letter { notification: notification(n, bytes), since_ms: n, attempts: 3, answer }
    }

    fn storm(first_seq: u64, last_seq: u64) -> Storm {
        Storm {
            record: RecordId { dataset: "notes".into(), key: format!("k{first_seq}").into() },
            count: 2,
            first_seq,
            last_seq,
            from_ms: 1,
            to_ms: 2,
            last_hash: ContentHash::of(b""),
            strategies: Default::default(),
        }
    }

    #[test]
    fn what_was_told_ends_before_everything_that_was_not() {
        let check = |storms: &[Storm], sending: Option<u64>, expected: u64| {
            let sending = sending.map(|first| notification(first, 1));
            let place = Place { through_seq: 50, storms: storms.to_vec(), sending, missed: 0 };
            assert_eq!(place.told_seq(), expected, "{place:?}");
        };
        check(&[], None, 50);
        check(&[storm(20, 49), storm(7, 40)], None, 6);
        check(&[storm(20, 49)], Some(9), 8);
        check(&[], Some(1), 0);
    }

    #[test]
    fn letters_are_bounded_and_the_oldest_goes() {
        let mut letters = Letters::default();
        let ids = |dropped: Vec<Letter>| -> Vec<u64> {
            dropped.iter().map(|letter| letter.notification.first_seq).collect()
        };
        for n in 1..=LETTERS_MAX as u64 {
            assert!(ids(letters.add(letter(n, 10))).is_empty());
        }
        assert!(ids(letters.add(letter(5, 12))).is_empty(), "the same once more");
        assert_eq!(letters.len(), LETTERS_MAX);
        assert_eq!(ids(letters.add(letter(101, 10))), [1]);
        assert_eq!(ids(letters.add(letter(102, LETTERS_BYTES_MAX))), (2..=101).collect::<Vec<_>>());
        assert!(letters.find("entry-102-0").is_some() && letters.find("entry-101-0").is_none());
        assert_eq!(letters.remove("entry-102-0").map(|letter| letter.since_ms), Some(102));
        assert!(letters.remove("entry-102-0").is_none() && letters.iter().next().is_none());
    }

    #[test]
    fn what_is_written_is_read_again_and_what_is_damaged_is_said() {
        let folder = tempfile::tempdir().unwrap();
        folder::make(&folder.path().join(FOLDER)).unwrap();
        let files = Files::of(folder.path(), "ops");
        assert_eq!(read::<Place>(&files.place).unwrap(), None);
        let sending = Some(notification(3, 5));
        let place = Place { through_seq: 9, storms: vec![storm(4, 9)], sending, missed: 2 };
        write(&files.place, &place).unwrap();
        assert_eq!(read(&files.place).unwrap(), Some(place));
        let mut letters = Letters::default();
        letters.add(letter(1, 10));
        write(&files.dead, &letters).unwrap();
        assert_eq!(read(&files.dead).unwrap(), Some(letters));
        std::fs::write(&files.place, "{\"through_seq\":").unwrap();
        let error = read::<Place>(&files.place).unwrap_err().to_string();
        assert!(error.contains("ops.place.json") && error.contains("begin anew"), "{error}");
    }
}
