//! An entry, and the one spelling of its line.
//!
//! ```text
//! {"seq":7,"at_ms":1790000000000,"prev":"<64 hex>","hash":"<64 hex>","event":{"kind":..}}
//!
//! hash = BLAKE3 derive-key(CONTEXT,
//!          seq: u64 LE | at_ms: u64 LE | prev: 32 bytes | length of event: u64 LE | event's bytes)
//! ```
//!
//! The encoding is unambiguous since everything before the event has a fixed width and a fixed place,
//! and the event comes with its length: no two entries have the same encoding. The event is hashed as
//! the bytes of its JSON that stand in the line, so fields that change places change the hash, and a
//! build that does not know an event can still verify it.
//!
//! Invariant: an entry that exists has the hash of its content, and its line is what [`Entry::parse`]
//! read, to the byte. A space more, another order of members or an upper-case digit is no entry.

use super::Head;
use super::event::{Event, Kind};
use crate::record::RecordId;
use crate::version::{ContentHash, push_decimal};
use serde::Deserialize;
use std::fmt;

const CONTEXT: &str = "tidelock 2026-11 audit entry";
const HEX_BYTES: usize = 64;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    seq: u64,
    at_ms: u64,
    prev: ContentHash,
    hash: ContentHash,
    event: Box<str>,
}

/// A line that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It has not the form of an entry.
    Form {
        /// What should stand where it departs from that.
        expected: &'static str,
    },
    /// It has the form, and its hash is not that of its content.
    Hash {
        /// The number that it bears.
        seq: u64,
    },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Form { expected } => {
                write!(f, "the line is no entry: {expected} should stand there")
            }
            Unreadable::Hash { seq } => {
                write!(
                    f,
                    "the line bears the number {seq}, and its hash is not that of its content"
                )
            }
        }
    }
}

impl std::error::Error for Unreadable {}

impl Entry {
    /// The entry that follows `head`.
    pub(super) fn follow(head: Head, at_ms: u64, event: &Event) -> Self {
        let event = serde_json::to_string(event).expect("an event is plain data with text keys");
        let (seq, prev) = (head.seq + 1, head.hash);
        Entry { seq, at_ms, prev, hash: hash(seq, at_ms, prev, &event), event: event.into() }
    }

    /// Its number, from 1 upwards.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was written, by the coordinator's wall clock: milliseconds since the epoch. Not in
    /// order where the clock was set back.
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// The hash of the entry before.
    pub fn prev(&self) -> ContentHash {
        self.prev
    }

    /// Its own.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// What a chain that ends here goes on from.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    /// What it tells, as JSON.
    pub fn event_json(&self) -> &str {
        &self.event
    }

    /// What it tells; an error where a later build wrote what this one does not know.
    pub fn event(&self) -> Result<Event, serde_json::Error> {
        serde_json::from_str(&self.event)
    }

    /// What kind of event it tells of; `None`: one that this build does not know.
    pub fn kind(&self) -> Option<Kind> {
        let name = self.event.strip_prefix("{\"kind\":\"")?.split('"').next()?;
        name.parse().ok()
    }

    /// The record that it is about, if it is about one.
    pub fn record(&self) -> Option<RecordId> {
        #[derive(Deserialize)]
        struct Named {
            record: Option<RecordId>,
        }
        serde_json::from_str::<Named>(&self.event).ok()?.record
    }

    /// Writes its line behind a text, with the line's end.
    pub fn push_line(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(b"{\"seq\":");
        push_decimal(text, self.seq);
        text.extend_from_slice(b",\"at_ms\":");
        push_decimal(text, self.at_ms);
        text.extend_from_slice(b",\"prev\":\"");
        self.prev.push_text(text);
        text.extend_from_slice(b"\",\"hash\":\"");
        self.hash.push_text(text);
        text.extend_from_slice(b"\",\"event\":");
        text.extend_from_slice(self.event.as_bytes());
        text.extend_from_slice(b"}\n");
    }

    /// Its line, without the line's end.
    pub fn to_line(&self) -> String {
        let mut text = Vec::with_capacity(256 + self.event.len());
        self.push_line(&mut text);
        text.pop();
        String::from_utf8(text).expect("an event is text, and the rest digits")
    }

    /// Reads a line without its end, and holds its hash against its content.
    pub fn parse(line: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = Rest(line);
        rest.skip(b"{\"seq\":", "{\"seq\":")?;
        let seq = rest.number()?;
        rest.skip(b",\"at_ms\":", ",\"at_ms\":")?;
        let at_ms = rest.number()?;
        rest.skip(b",\"prev\":\"", ",\"prev\":\"")?;
        let prev = rest.hash()?;
        rest.skip(b"\",\"hash\":\"", "\",\"hash\":\"")?;
        let read = rest.hash()?;
        rest.skip(b"\",\"event\":", "\",\"event\":")?;
        let event = rest.0.strip_suffix(b"}").ok_or(Unreadable::Form { expected: "}" })?;
        let event = std::str::from_utf8(event);
        let event = event.map_err(|_| Unreadable::Form { expected: "an event in UTF-8" })?;
        if seq == 0 {
            return Err(Unreadable::Form { expected: "a number of at least 1" });
        }
        if read != hash(seq, at_ms, prev, event) {
            return Err(Unreadable::Hash { seq });
        }
        Ok(Entry { seq, at_ms, prev, hash: read, event: event.into() })
    }
}

fn hash(seq: u64, at_ms: u64, prev: ContentHash, event: &str) -> ContentHash {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&seq.to_le_bytes());
    hasher.update(&at_ms.to_le_bytes());
    hasher.update(&prev.0);
    hasher.update(&(event.len() as u64).to_le_bytes());
    hasher.update(event.as_bytes());
    ContentHash(*hasher.finalize().as_bytes())
}

/// What of a line is yet to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip(&mut self, text: &[u8], expected: &'static str) -> Result<(), Unreadable> {
        self.0 = self.0.strip_prefix(text).ok_or(Unreadable::Form { expected })?;
        Ok(())
    }

    /// A decimal in its one spelling.
    fn number(&mut self) -> Result<u64, Unreadable> {
        let end = self.0.iter().position(|b| !b.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let is_padded = digits.len() > 1 && digits[0] == b'0';
        number.filter(|_| !is_padded).ok_or(Unreadable::Form { expected: "a number" })
    }

    fn hash(&mut self) -> Result<ContentHash, Unreadable> {
        let expected = "64 hexadecimal digits in lower case";
        let (digits, rest) =
            self.0.split_at_checked(HEX_BYTES).ok_or(Unreadable::Form { expected })?;
        self.0 = rest;
        let text = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let is_upper = digits.iter().any(u8::is_ascii_uppercase);
        text.filter(|_| !is_upper).ok_or(Unreadable::Form { expected })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Chain;
    use super::super::event::tests::{events, record};
    use super::*;

    fn entries() -> Vec<Entry> {
        let mut chain = Chain::new();
        events().iter().zip(1_790_000_000_000..).map(|(e, at)| chain.append(at, e)).collect()
    }

    #[test]
    fn a_line_comes_back_as_the_entry() {
        for (entry, event) in entries().iter().zip(events()) {
            let line = entry.to_line();
            assert_eq!(Entry::parse(line.as_bytes()).as_ref(), Ok(entry), "{line}");
            assert_eq!(entry.event().unwrap(), event);
            assert_eq!(entry.kind(), Some(event.kind()));
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(json["seq"], entry.seq());
            assert_eq!(json["event"]["kind"], event.kind().name());
        }
        let about: Vec<bool> = entries().iter().map(|e| e.record() == Some(record())).collect();
        assert_eq!(about, [true, false, true, true, true, false, false]);
    }

    #[test]
    fn no_byte_of_a_line_can_be_another() {
        for entry in entries() {
            let line = entry.to_line().into_bytes();
            for at in 0..line.len() {
                for bit in 0..8 {
                    let mut flipped = line.clone();
                    flipped[at] ^= 1 << bit;
                    assert!(Entry::parse(&flipped).is_err(), "bit {bit} of byte {at}");
                }
                let mut cut = line.clone();
                cut.remove(at);
                assert!(Entry::parse(&cut).is_err(), "without byte {at}");
                for more in [b' ', b'0', b'}'] {
                    let mut longer = line.clone();
                    longer.insert(at, more);
                    assert!(Entry::parse(&longer).is_err(), "with {more} before byte {at}");
                }
            }
        }
    }

    #[test]
    fn other_spellings_of_the_same_are_refused() {
        let entry = &entries()[1];
        let line = entry.to_line();
        let check = |spelled: String, expected: &str| {
            assert_ne!(spelled, line);
            let error = Entry::parse(spelled.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{spelled}: {error}");
        };
        check(line.replace("{\"seq\":2", "{\"seq\":02"), "a number");
        check(line.replace("{\"seq\":2", "{\"seq\":+2"), "a number");
        check(line.replace("{\"seq\":2", "{\"seq\": 2"), "a number");
        check(line.replace("{\"seq\":2", "{\"seq\":99999999999999999999"), "a number");
        let upper = entry.hash().to_text().to_uppercase();
        check(line.replace(&entry.hash().to_text(), &upper), "lower case");
        check(line.replace("\"who\":\"ops\",", ""), "the number 2");
        check(
            line.replace(
                "\"who\":\"ops\",\"action\":\"store open\"",
                "\"action\":\"store open\",\"who\":\"ops\"",
            ),
            "not that of its content",
        );
        check(String::new(), "{\"seq\":");
        check(format!("{line}\r"), "}");
    }

    /// The log outlives the build that wrote it.
    #[test]
    fn the_hash_of_an_entry_is_fixed() {
        let event = Event::Operator {
            who: "ops".into(),
            action: "freeze".into(),
            target: "notes".into(),
            reason: "moving".into(),
        };
        let entry = Chain::new().append(1_790_000_000_000, &event);
        assert_eq!(entry.to_line(), GOLDEN);
    }

    const GOLDEN: &str = concat!(
        r#"{"seq":1,"at_ms":1790000000000,"#,
        r#""prev":"0000000000000000000000000000000000000000000000000000000000000000","#,
        r#""hash":"484b700f2058b7d8b1f400be29f5b37bcb45627c8eb89abfd07a925c327d4a0a","#,
        r#""event":{"kind":"operator","who":"ops","action":"freeze","target":"notes","#,
        r#""reason":"moving"}}"#
    );

    #[test]
    fn an_event_of_a_later_build_is_kept_and_not_understood() {
        let event = "{\"kind\":\"eclipse\",\"record\":{\"dataset\":\"notes\",\"key\":\"k\"}}";
        let own = hash(1, 5, ContentHash([0; 32]), event);
        let zero = ContentHash([0; 32]);
        let line = format!(
            "{{\"seq\":1,\"at_ms\":5,\"prev\":\"{zero}\",\"hash\":\"{own}\",\"event\":{event}}}"
        );
        let entry = Entry::parse(line.as_bytes()).unwrap();
        assert!(entry.event().is_err());
        assert_eq!(entry.kind(), None);
        assert_eq!(entry.record().unwrap().dataset.as_ref(), "notes");
        assert_eq!(entry.to_line(), line);
    }
}
