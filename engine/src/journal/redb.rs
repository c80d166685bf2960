//! The journal on redb: synchronous, over any [`StorageBackend`].
//!
//! ```text
//! entries   order of commit -> [format 1][BLAKE3 of the rest][postcard of Intent]
//! letters   id of a letter  -> [format 1][BLAKE3 of the rest][postcard of DeadLetter]
//! state     0               -> [format 1][BLAKE3 of the rest][next order, entries held]
//!           1               -> the same of letters: [0, letters held]; absent before the first
//!           2               -> [format 1][BLAKE3 of the rest][postcard of all Forced]; absent
//!                              before the first
//! ```
//!
//! Invariant: one [`RedbJournal::commit`] is one transaction and one sync (and one more when the
//! file doubles, so that its new length is durable before its pages are), and what a replay gives is exactly what was committed and not settled. Each entry carries its own hash, and the
//! state row, written in the same transaction, counts them, so that neither a changed nor a
//! missing entry goes unnoticed.
//!
//! With one sync a commit, damage to the pages of the very last commit of a process that crashed
//! looks like a commit that the crash cut short, and is rolled back as one. No journal with a
//! single sync can tell the two apart; anything older, and any damage after an orderly close, is
//! reported.
//!
//! Opening files, threads and locks are left to `production`.

use super::{Intent, JournalBatch, JournalError, LetterNote, Replay};
use crate::breaker::Forced;
use crate::dead_letter::DeadLetter;
use crate::version::Dot;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    TableDefinition,
};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The first byte of every entry. A journal of another format is refused, never guessed at.
pub const FORMAT: u8 = 1;

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const LETTERS: TableDefinition<&str, &[u8]> = TableDefinition::new("letters");
const STATE: TableDefinition<u64, &[u8]> = TableDefinition::new("state");
const HASH_BYTES: usize = 32;
// Entries are written once and read at a start; redb's default of 1 GiB would be held for nothing.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// A journal over redb.
#[derive(Debug)]
pub struct RedbJournal {
    // None once redb has panicked on it: nothing of it may be touched again.
    database: Option<Database>,
    // Where each unsettled intent stands.
    orders: BTreeMap<Dot, u64>,
    next_order: u64,
    poisoned: Option<JournalError>,
}

impl RedbJournal {
    /// Opens what the backend holds, or begins a journal where it holds nothing. Every page and
    /// every entry is verified first.
    pub fn open(backend: impl StorageBackend) -> Result<Self, JournalError> {
        let database = guarded(AssertUnwindSafe(|| -> Result<Database, redb::Error> {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            Ok(builder.create_with_backend(backend)?)
        }))?;
        let mut journal = RedbJournal {
            database: Some(database),
            orders: BTreeMap::new(),
            next_order: 0,
            poisoned: None,
        };
        let (entries, next_order) = journal.read()?;
        journal.next_order = next_order;
        journal.orders = entries.iter().map(|(order, intent)| (intent.dot(), *order)).collect();
        if journal.orders.len() != entries.len() {
            return Err(JournalError::Damaged("one write stands in two entries".to_owned()));
        }
        Ok(journal)
    }

    /// Everything that was committed and not settled, in commit order.
    pub fn replay(&self) -> Result<Replay, JournalError> {
        self.usable()?;
        let (entries, _) = self.read()?;
        let intents = entries.into_iter().map(|(_, intent)| intent).collect();
        Ok(Replay { intents, letters: self.read_letters()?, forced: self.read_forced()? })
    }

    /// Makes the batch durable, in one transaction and one sync. After an error nobody knows
    /// what is on the disk: every later call fails until the journal is opened again (rule V2).
    pub fn commit(&mut self, batch: &JournalBatch) -> Result<(), JournalError> {
        self.usable()?;
        let database = self.database.as_ref().ok_or_else(closed)?;
        // Changed in place: after an error nothing here is used again.
        let (orders, next_order) = (&mut self.orders, &mut self.next_order);
        let committed = guarded(AssertUnwindSafe(|| -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            {
                let mut entries = transaction.open_table(ENTRIES)?;
                for intent in &batch.intents {
                    let order = *orders.entry(intent.dot()).or_insert_with(|| {
                        *next_order += 1;
                        *next_order
                    });
                    entries.insert(order, encode(intent).as_slice())?;
                }
                for dot in &batch.settled {
                    if let Some(order) = orders.remove(dot) {
                        entries.remove(order)?;
                    }
                }
                let mut state = transaction.open_table(STATE)?;
                let now = State { next_order: *next_order, entries: orders.len() as u64 };
                state.insert(0, now.encode().as_slice())?;
                if let Some(forced) = &batch.forced {
                    state.insert(2, encode_forced(forced).as_slice())?;
                }
                if !batch.letters.is_empty() {
                    let mut letters = transaction.open_table(LETTERS)?;
                    for note in &batch.letters {
                        match note {
                            LetterNote::Dead(letter) => {
                                letters
                                    .insert(letter.id.as_str(), encode_letter(letter).as_slice())?;
                            }
                            LetterNote::Ended(id) => drop(letters.remove(id.as_str())?),
                        }
                    }
                    let held = State { next_order: 0, entries: letters.len()? };
                    state.insert(1, held.encode().as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        }));
        if let Err(error) = &committed {
            self.poisoned = Some(error.clone());
        }
        committed
    }

    fn read_letters(&self) -> Result<Vec<DeadLetter>, JournalError> {
        let database = self.database.as_ref().ok_or_else(closed)?;
        type Found = (Option<Vec<u8>>, Vec<Vec<u8>>);
        let (state, raw) = guarded(AssertUnwindSafe(|| -> Result<Found, redb::Error> {
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(LETTERS) {
                Ok(table) => table,
                // Of a journal without a letter yet, or of a former version.
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, Vec::new())),
                Err(error) => return Err(error.into()),
            };
            let mut raw = Vec::new();
            for letter in table.iter()? {
                raw.push(letter?.1.value().to_vec());
            }
            let state = transaction.open_table(STATE)?.get(1)?.map(|value| value.value().to_vec());
            Ok((state, raw))
        }))?;
        let state = state.map(|bytes| State::decode(&bytes)).transpose()?.unwrap_or_default();
        if raw.len() as u64 != state.entries {
            return Err(JournalError::Damaged(format!(
                "it holds {} dead letters where {} were committed",
                raw.len(),
                state.entries
            )));
        }
        raw.iter().map(|bytes| decode_letter(bytes)).collect()
    }

    fn read_forced(&self) -> Result<Vec<Forced>, JournalError> {
        let database = self.database.as_ref().ok_or_else(closed)?;
        let row = guarded(AssertUnwindSafe(|| -> Result<Option<Vec<u8>>, redb::Error> {
            match database.begin_read()?.open_table(STATE) {
                Ok(table) => Ok(table.get(2)?.map(|value| value.value().to_vec())),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }))?;
        row.map_or(Ok(Vec::new()), |bytes| decode_forced(&bytes))
    }

    fn usable(&self) -> Result<(), JournalError> {
        match &self.poisoned {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    fn read(&self) -> Result<(Vec<(u64, Intent)>, u64), JournalError> {
        let database = self.database.as_ref().ok_or_else(closed)?;
        type Found = (Option<Vec<u8>>, Vec<(u64, Vec<u8>)>, u64);
        let (state, raw, length) = guarded(AssertUnwindSafe(|| -> Result<Found, redb::Error> {
            let transaction = database.begin_read()?;
            let state = match transaction.open_table(STATE) {
                Ok(table) => table.get(0)?.map(|value| value.value().to_vec()),
                Err(redb::TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(error.into()),
            };
            let table = match transaction.open_table(ENTRIES) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => {
                    return Ok((state, Vec::new(), 0));
                }
                Err(error) => return Err(error.into()),
            };
            let mut raw = Vec::new();
            for entry in table.iter()? {
                let (order, bytes) = entry?;
                raw.push((order.value(), bytes.value().to_vec()));
            }
            Ok((state, raw, table.len()?))
        }))?;
        let state = state.map(|bytes| State::decode(&bytes)).transpose()?.unwrap_or_default();
        let held = raw.len() as u64;
        if held != state.entries || held != length {
            return Err(JournalError::Damaged(format!(
                "it holds {held} entries where {} were committed",
                state.entries.max(length)
            )));
        }
        let mut entries = Vec::with_capacity(raw.len());
        for (order, bytes) in raw {
            if order > state.next_order {
                return Err(JournalError::Damaged(format!("entry {order} was never committed")));
            }
            entries.push((order, decode(order, &bytes)?));
        }
        Ok((entries, state.next_order))
    }
}

impl Drop for RedbJournal {
    fn drop(&mut self) {
        // redb writes on close, and may meet damage there that it was not asked to look at.
        let database = self.database.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
    }
}

/// One entry as it stands on the disk.
pub fn encode(intent: &Intent) -> Vec<u8> {
    let payload = postcard::to_stdvec(intent)
        .expect("postcard fails on sequences of unknown length alone, and an intent has none");
    seal(&payload)
}

/// Reads the entry at `order`; the error names it, and the record where it can be read.
pub fn decode(order: u64, bytes: &[u8]) -> Result<Intent, JournalError> {
    let payload = match unseal(bytes) {
        Ok(payload) => payload,
        Err(Broken { problem, payload }) => {
            // The record comes first in an intent, so its name often survives the damage.
            let name = postcard::take_from_bytes::<crate::record::RecordId>(payload)
                .map(|(record, _)| format!(", which began as one of record {record}"))
                .unwrap_or_default();
            return Err(JournalError::Damaged(format!("entry {order}{name}: {problem}")));
        }
    };
    let damaged = |problem: &str| JournalError::Damaged(format!("entry {order}: {problem}"));
    let (intent, rest) = postcard::take_from_bytes::<Intent>(payload)
        .map_err(|error| damaged(&format!("it is no intent ({error})")))?;
    if !rest.is_empty() {
        return Err(damaged("bytes follow the intent"));
    }
    if intent.version.siblings().is_empty() {
        return Err(damaged(&format!("the version of record {} has no value", intent.record)));
    }
    Ok(intent)
}

/// One dead letter as it stands on the disk.
pub fn encode_letter(letter: &DeadLetter) -> Vec<u8> {
    let payload = postcard::to_stdvec(letter)
        .expect("postcard fails on sequences of unknown length alone, and a letter has none");
    seal(&payload)
}

/// Reads a dead letter.
pub fn decode_letter(bytes: &[u8]) -> Result<DeadLetter, JournalError> {
    let damaged = |problem: &str| JournalError::Damaged(format!("a dead letter: {problem}"));
    let payload = unseal(bytes).map_err(|broken| damaged(&broken.problem))?;
    match postcard::take_from_bytes::<DeadLetter>(payload) {
        Ok((letter, [])) => Ok(letter),
        Ok(_) => Err(damaged("bytes follow it")),
        Err(error) => Err(damaged(&format!("it is none ({error})"))),
    }
}

fn encode_forced(forced: &[Forced]) -> Vec<u8> {
    let payload = postcard::to_stdvec(forced)
        .expect("postcard fails on sequences of unknown length alone, and a slice has one");
    seal(&payload)
}

fn decode_forced(bytes: &[u8]) -> Result<Vec<Forced>, JournalError> {
    let damaged = |problem: &str| JournalError::Damaged(format!("the forced breakers: {problem}"));
    let payload = unseal(bytes).map_err(|broken| damaged(&broken.problem))?;
    match postcard::take_from_bytes::<Vec<Forced>>(payload) {
        Ok((forced, [])) => Ok(forced),
        Ok(_) => Err(damaged("bytes follow them")),
        Err(error) => Err(damaged(&format!("they cannot be read ({error})"))),
    }
}

fn seal(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + HASH_BYTES + payload.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(blake3::hash(payload).as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

struct Broken<'a> {
    problem: String,
    payload: &'a [u8],
}

fn unseal(bytes: &[u8]) -> Result<&[u8], Broken<'_>> {
    let Some((&format, rest)) = bytes.split_first() else {
        return Err(Broken { problem: "it is empty".to_owned(), payload: &[] });
    };
    let Some((hash, payload)) = rest.split_first_chunk::<HASH_BYTES>() else {
        return Err(Broken { problem: "it is cut short".to_owned(), payload: &[] });
    };
    if format != FORMAT {
        let problem = format!("its format is {format}, and this program reads format {FORMAT}");
        return Err(Broken { problem, payload });
    }
    if blake3::hash(payload).as_bytes() != hash {
        return Err(Broken { problem: "its bytes do not match their hash".to_owned(), payload });
    }
    Ok(payload)
}

/// What the last commit left.
#[derive(Default)]
struct State {
    next_order: u64,
    entries: u64,
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.next_order.to_le_bytes());
        payload[8..].copy_from_slice(&self.entries.to_le_bytes());
        seal(&payload)
    }

    fn decode(bytes: &[u8]) -> Result<Self, JournalError> {
        let damaged = |problem: &str| JournalError::Damaged(format!("the state row: {problem}"));
        let payload = unseal(bytes).map_err(|broken| damaged(&broken.problem))?;
        let Some((next_order, rest)) = payload.split_first_chunk::<8>() else {
            return Err(damaged("it is cut short"));
        };
        let Ok(entries) = <[u8; 8]>::try_from(rest) else {
            return Err(damaged("it has the wrong length"));
        };
        Ok(State {
            next_order: u64::from_le_bytes(*next_order),
            entries: u64::from_le_bytes(entries),
        })
    }
}

fn closed() -> JournalError {
    JournalError::Io("the journal is closed".to_owned())
}

/// Runs a step of redb. Its checksums turn most damage into errors, but it asserts some of what
/// it reads from the file, and those panics are the disk's doing, not ours: they are damage too.
fn guarded<T>(
    step: AssertUnwindSafe<impl FnOnce() -> Result<T, redb::Error>>,
) -> Result<T, JournalError> {
    match catch_unwind(step) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(sorted(error)),
        Err(_) => Err(JournalError::Damaged("its pages contradict each other".to_owned())),
    }
}

fn sorted(error: redb::Error) -> JournalError {
    use std::io::ErrorKind;
    match error {
        redb::Error::Io(io) => match io.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => JournalError::Full(io.to_string()),
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                JournalError::Damaged(io.to_string())
            }
            _ => JournalError::Io(io.to_string()),
        },
        redb::Error::Corrupted(detail) => JournalError::Damaged(detail),
        error @ (redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }) => JournalError::Damaged(error.to_string()),
        other => {
            let cause = other.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            JournalError::Io(format!("{other}{cause}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Try;
    use crate::env::RefusalKind;
    use crate::record::{Loser, RecordId, Stored};
    use crate::resolve::sibling;
    use crate::row::Expect;
    use crate::version::{Actor, NodeId, Stamp, Version, VersionVector};
    use bytes::Bytes;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Debug, Default)]
    struct Disk {
        bytes: Vec<u8>,
        syncs: u64,
        fails: Option<io::ErrorKind>,
    }

    #[derive(Clone, Debug, Default)]
    struct Shared(Arc<Mutex<Disk>>);

    impl Shared {
        fn holding(bytes: Vec<u8>) -> Self {
            let shared = Shared::default();
            shared.0.lock().unwrap().bytes = bytes;
            shared
        }
        fn image(&self) -> Vec<u8> {
            self.0.lock().unwrap().bytes.clone()
        }
        fn syncs(&self) -> u64 {
            self.0.lock().unwrap().syncs
        }
        fn fail(&self, kind: Option<io::ErrorKind>) {
            self.0.lock().unwrap().fails = kind;
        }
        fn step<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> io::Result<T> {
            let mut disk = self.0.lock().unwrap();
            match disk.fails {
                Some(kind) => Err(kind.into()),
                None => Ok(act(&mut disk)),
            }
        }
    }

    impl StorageBackend for Shared {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.lock().unwrap().bytes.len() as u64)
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let disk = self.0.lock().unwrap();
            let from = usize::try_from(offset).map_err(io::Error::other)?;
            let found = from.checked_add(out.len()).and_then(|to| disk.bytes.get(from..to));
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            // Far more than any test writes: a damaged header must not ask for the whole memory.
            if len > 1 << 26 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.step(|disk| disk.bytes.resize(len as usize, 0))
        }
        fn sync_data(&self) -> io::Result<()> {
            self.step(|disk| disk.syncs += 1)
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let at = offset as usize;
            self.step(|disk| disk.bytes[at..at + data.len()].copy_from_slice(data))
        }
    }

    fn intent(counter: u64) -> Intent {
        let actor = Actor { node: NodeId(1), incarnation: 7 };
        let value = Stored::Inline(Bytes::from(format!("value {counter}").repeat(9)));
        let stamp = Stamp { wall_ms: 1_000 + counter, logical: 0 };
        let own = sibling(Dot { actor, counter }, stamp, &value);
        let version = Version::write(&VersionVector::new(), own);
        let record = RecordId { dataset: Arc::from("notes"), key: format!("k{counter}").into() };
        Intent { record, version, value, losers: vec![], only_over: None }
    }

    fn batch(keep: std::ops::Range<u64>, settle: std::ops::Range<u64>) -> JournalBatch {
        JournalBatch {
            intents: keep.map(intent).collect(),
            settled: settle.map(|counter| intent(counter).dot()).collect(),
            ..JournalBatch::default()
        }
    }

    fn replayed(disk: &Shared) -> Result<Vec<Intent>, JournalError> {
        Ok(RedbJournal::open(disk.clone())?.replay()?.intents)
    }

    #[test]
    fn what_was_committed_and_not_settled_comes_back_in_order() {
        let disk = Shared::default();
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        assert_eq!(journal.replay().unwrap(), Replay::default());
        journal.commit(&batch(1..5, 0..0)).unwrap();
        journal.commit(&batch(5..9, 2..4)).unwrap();
        let expected: Vec<Intent> = [1, 4, 5, 6, 7, 8].map(intent).into();
        assert_eq!(journal.replay().unwrap().intents, expected);
        // A crash: the disk as it stands, without a close.
        let crashed = Shared::holding(disk.image());
        assert_eq!(replayed(&crashed).unwrap(), expected);
        drop(journal);
        assert_eq!(replayed(&disk).unwrap(), expected);
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        journal.commit(&batch(9..10, 1..9)).unwrap();
        drop(journal);
        assert_eq!(replayed(&disk).unwrap(), vec![intent(9)]);
    }

    fn letter(id: &str) -> DeadLetter {
        let Intent { record, version, .. } = intent(7);
        let refusal = |reason: &str| Try {
            at_ms: 1_000,
            kind: RefusalKind::Constraint,
            reason: reason.to_owned(),
        };
        DeadLetter {
            id: id.to_owned(),
            record,
            store: crate::record::StoreId::D1,
            dot: version.current().dot,
            bytes: 63,
            tries: 4,
            history: vec![refusal("CHECK constraint failed"), refusal("ключ")],
            since_ms: 999,
            unkept: true,
            lost_to: None,
            retry_at: None,
        }
    }

    #[test]
    fn dead_letters_come_back_until_they_end_and_none_goes_missing_unnoticed() {
        let disk = Shared::default();
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        let dead = |id| LetterNote::Dead(Box::new(letter(id)));
        let notes = |letters| JournalBatch { letters, ..JournalBatch::default() };
        journal.commit(&notes(vec![dead("a"), dead("b"), dead("b"), dead("c")])).unwrap();
        journal.commit(&notes(vec![LetterNote::Ended("b".to_owned())])).unwrap();
        drop(journal);
        let journal = RedbJournal::open(disk.clone()).unwrap();
        assert_eq!(journal.replay().unwrap().letters, [letter("a"), letter("c")]);
        let transaction = journal.database.as_ref().unwrap().begin_write().unwrap();
        transaction.open_table(LETTERS).unwrap().remove("a").unwrap();
        transaction.commit().unwrap();
        let error = journal.replay().unwrap_err().to_string();
        assert!(error.contains("1 dead letters where 2"), "{error}");
    }

    #[test]
    fn what_an_operator_has_forced_comes_back_until_another_word() {
        let disk = Shared::default();
        let forced = |reason: &str| crate::breaker::Forced {
            store: crate::record::StoreId::Kv,
            to: crate::breaker::Force::Open,
            reason: reason.to_owned(),
            since_ms: 7,
        };
        let word = |forced| JournalBatch { forced: Some(forced), ..JournalBatch::default() };
        let replayed = |disk: &Shared| {
            RedbJournal::open(Shared::holding(disk.image())).unwrap().replay().unwrap().forced
        };
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        journal.commit(&batch(1..2, 0..0)).unwrap();
        assert_eq!(replayed(&disk), []);
        journal.commit(&word(vec![forced("a")])).unwrap();
        journal.commit(&batch(2..3, 0..0)).unwrap();
        assert_eq!(replayed(&disk), [forced("a")], "a commit without a word leaves it");
        journal.commit(&word(vec![])).unwrap();
        assert_eq!(replayed(&disk), []);
    }

    #[test]
    fn letters_of_format_1_stay_readable() {
        let bytes = include_bytes!("../../golden/journal-letter-1.bin");
        assert_eq!(decode_letter(bytes), Ok(letter("golden")));
        assert_eq!(encode_letter(&letter("golden")), bytes, "a new layout needs a new format byte");
        for length in 0..bytes.len() {
            assert!(decode_letter(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn one_commit_is_one_sync() {
        let disk = Shared::default();
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        let mut grew = 0;
        for round in 0..50 {
            let (before, length) = (disk.syncs(), disk.image().len());
            journal.commit(&batch(round * 40..round * 40 + 40, 0..round * 20)).unwrap();
            let grown = u64::from(disk.image().len() != length);
            assert_eq!(disk.syncs() - before, 1 + grown, "commit {round}");
            grew += grown;
        }
        assert!(grew <= 5, "the file doubles, so it seldom grows");
    }

    #[test]
    fn v2_a_failed_commit_poisons_until_it_is_opened_again() {
        let disk = Shared::default();
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        journal.commit(&batch(1..2, 0..0)).unwrap();
        disk.fail(Some(io::ErrorKind::StorageFull));
        let error = journal.commit(&batch(2..3, 0..0)).unwrap_err();
        assert!(matches!(error, JournalError::Full(_)), "{error}");
        disk.fail(None);
        assert_eq!(journal.commit(&batch(3..4, 0..0)), Err(error.clone()));
        assert_eq!(journal.replay(), Err(error));
        drop(journal);
        let found = replayed(&disk).unwrap();
        assert_eq!(found[0], intent(1));
        assert!(!found.contains(&intent(3)), "refused after the poisoning");
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        disk.fail(Some(io::ErrorKind::Other));
        assert!(matches!(journal.commit(&batch(4..5, 0..0)), Err(JournalError::Io(_))));
    }

    #[test]
    fn damage_is_an_error_or_harmless_and_never_another_replay() {
        let disk = Shared::default();
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        for round in 0..6 {
            journal.commit(&batch(round * 10 + 1..round * 10 + 11, 0..round * 4)).unwrap();
        }
        let before = journal.replay().unwrap().intents;
        journal.commit(&batch(61..62, 0..0)).unwrap();
        let (last, crashed) = (journal.replay().unwrap().intents, disk.image());
        drop(journal);
        // Only the last commit of a crashed process may be taken for one that was cut short.
        let check = |image: &[u8], allowed: &[&[Intent]]| {
            let interesting = (0..512).chain((512..image.len()).filter(|at| image[*at] != 0));
            let mut reported = 0;
            for at in interesting.step_by(23) {
                let mut image = image.to_vec();
                image[at] ^= 0x41;
                match replayed(&Shared::holding(image)) {
                    Ok(found) => assert!(allowed.contains(&found.as_slice()), "flip at {at}"),
                    Err(_) => reported += 1,
                }
            }
            assert!(reported > 20, "only {reported} flips were felt");
        };
        check(&disk.image(), &[&last]);
        check(&crashed, &[&last, &before]);
    }

    #[test]
    fn a_shortened_file_is_reported() {
        let disk = Shared::default();
        let mut journal = RedbJournal::open(disk.clone()).unwrap();
        journal.commit(&batch(1..20, 0..0)).unwrap();
        let expected = journal.replay().unwrap().intents;
        drop(journal);
        let image = disk.image();
        for length in [1, 8, 64, 512, 4_096, 8_192, image.len() / 2, image.len() - 1] {
            match replayed(&Shared::holding(image[..length].to_vec())) {
                Ok(found) => assert_eq!(found, expected, "{length} bytes"),
                Err(error) => assert!(matches!(error, JournalError::Damaged(_)), "{error}"),
            }
        }
    }

    #[test]
    fn a_damaged_entry_is_named() {
        let mut bytes = encode(&intent(3));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let text = decode(17, &bytes).unwrap_err().to_string();
        assert!(text.contains("entry 17") && text.contains("notes/k3"), "{text}");
        bytes[0] = 2;
        let text = decode(17, &bytes).unwrap_err().to_string();
        assert!(text.contains("format is 2"), "{text}");
        for length in 0..bytes.len() {
            assert!(decode(1, &encode(&intent(3))[..length]).is_err());
        }
    }

    #[test]
    fn format_1_stays_readable() {
        let actor = Actor { node: NodeId(2), incarnation: 0xfeed };
        let value = Stored::Inline(Bytes::from_static(b"golden \xff bytes"));
        let lost = Stored::Reference { hash: crate::version::ContentHash([9; 32]), bytes: 77 };
        let stamp = Stamp { wall_ms: 1_700_000_000_000, logical: 3 };
        let base: VersionVector = [(actor, 4)].into_iter().collect();
        let own = Dot { actor, counter: 5 };
        let golden = Intent {
            record: RecordId { dataset: Arc::from("files"), key: "ключ/ü".into() },
            version: Version::write(&base, sibling(own, stamp, &value)),
            value,
            losers: vec![Loser {
                sibling: sibling(Dot { actor, counter: 4 }, stamp, &lost),
                value: lost,
                winner: own,
            }],
            only_over: Some(Expect { history: base, row_seq: 12 }),
        };
        let bytes = include_bytes!("../../golden/journal-entry-1.bin");
        assert_eq!(decode(1, bytes), Ok(golden.clone()));
        assert_eq!(encode(&golden), bytes, "a new layout needs a new format byte");
    }
}
