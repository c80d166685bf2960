//! The journal on this machine's disk, and the lock on its folder.
//!
//! ```text
//! commit -> bounded channel -> one thread with the file -> one transaction, one sync -> answer
//! ```
//!
//! Invariant: a folder has one journal open in one process. Two would each acknowledge writes
//! that the other never replays.

use crate::env;
use crate::journal::redb::RedbJournal;
use crate::journal::{Intent, JournalBatch, JournalError, Replay};
use crate::version::Dot;
use redb::backends::FileBackend;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

const JOURNAL_FILE: &str = "journal.redb";
const LOCK_FILE: &str = "lock";
// The coordinator sends one commit at a time; a few more may wait while it replays.
const REQUESTS_MAX: usize = 16;

/// Holds a data folder for this process, until dropped.
#[derive(Debug)]
pub struct FolderLock {
    // The operating system gives the lock back with the file, even when the process is killed.
    _file: File,
}

/// Why a data folder cannot be used.
#[derive(Debug)]
pub enum FolderError {
    /// Another process holds it.
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process, where it could be read.
        pid: Option<u32>,
    },
    /// It cannot be made, read or written.
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FolderError::InUse { folder, pid } => {
                let pid = pid.map_or("unknown pid".to_owned(), |pid| format!("pid {pid}"));
                write!(
                    f,
                    "the data folder {} is in use by another tidelock ({pid}); stop that one, or \
                     give this one a folder of its own",
                    folder.display()
                )
            }
            FolderError::Io { folder, error } => write!(
                f,
                "the data folder {} cannot be used ({error}); check that it exists and that this \
                 user may write to it",
                folder.display()
            ),
        }
    }
}

impl std::error::Error for FolderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FolderError::InUse { .. } => None,
            FolderError::Io { error, .. } => Some(error),
        }
    }
}

impl FolderLock {
    /// Makes the folder where it is missing and takes it for this process.
    pub fn take(folder: &Path) -> Result<Self, FolderError> {
        let failed = |error| FolderError::Io { folder: folder.to_owned(), error };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        // Not truncated: until the lock is ours, the pid in it is somebody else's.
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(folder.join(LOCK_FILE)).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(FolderError::InUse { folder: folder.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(FolderLock { _file: file })
    }
}

enum Request {
    Replay(oneshot::Sender<Result<Replay, JournalError>>),
    Commit(JournalBatch, oneshot::Sender<Result<(), JournalError>>),
}

/// The journal of a data folder. The thread that holds the file ends when this is dropped.
#[derive(Debug)]
pub struct DiskJournal {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl DiskJournal {
    /// Opens the journal in a folder, verifying every entry. The lock is asked for as the proof
    /// that the folder is this process's; whoever has it keeps it as long as the journal.
    pub fn open(folder: &Path, _lock: &FolderLock) -> Result<Self, JournalError> {
        let path = folder.join(JOURNAL_FILE);
        let journal = open(&path)?;
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || serve(path, journal, inbox))
            .map_err(|error| JournalError::Io(format!("its thread did not start: {error}")))?;
        Ok(DiskJournal { requests: Some(requests), thread: Some(thread) })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Request,
    ) -> Result<T, JournalError> {
        let gone = || JournalError::Io("the journal's thread has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(request(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for DiskJournal {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // Waits for the close, so that the next start needs no repair and damage that comes
            // in between is noticed.
            let _ = thread.join();
        }
    }
}

impl env::Journal for DiskJournal {
    async fn replay(&self) -> Result<Replay, JournalError> {
        self.ask(Request::Replay).await
    }

    async fn commit(&self, batch: JournalBatch) -> Result<(), JournalError> {
        self.ask(|answer| Request::Commit(batch, answer)).await
    }
}

fn open(path: &Path) -> Result<RedbJournal, JournalError> {
    let named = |error: JournalError| match error {
        JournalError::Full(detail) => JournalError::Full(format!("{}: {detail}", path.display())),
        JournalError::Io(detail) => JournalError::Io(format!("{}: {detail}", path.display())),
        JournalError::Damaged(detail) => {
            JournalError::Damaged(format!("{}: {detail}", path.display()))
        }
    };
    let io = |error: std::io::Error| named(JournalError::Io(error.to_string()));
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
    let backend =
        FileBackend::new(file).map_err(|error| named(JournalError::Io(error.to_string())))?;
    let journal = RedbJournal::open(backend).map_err(named)?;
    // A new file is durable only once its folder's entry is.
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    }
    Ok(journal)
}

fn serve(path: PathBuf, journal: RedbJournal, mut inbox: mpsc::Receiver<Request>) {
    let mut journal = Ok(journal);
    while let Some(request) = inbox.blocking_recv() {
        // A caller that has gone no longer wants its answer; what it asked for is done all the
        // same.
        match request {
            Request::Commit(batch, answer) => {
                let done = match &mut journal {
                    Ok(journal) => journal.commit(&batch),
                    Err(error) => Err(JournalError::clone(error)),
                };
                let done = match done {
                    // A transaction is on the disk or not: opened again, the journal tells which,
                    // and goes on.
                    Err(JournalError::Full(detail)) => {
                        drop(journal);
                        journal = open(&path).map_err(uncertain);
                        match &journal {
                            Ok(journal) => became_of(journal, &batch, detail),
                            Err(error) => Err(error.clone()),
                        }
                    }
                    done => done,
                };
                let _ = answer.send(done);
            }
            Request::Replay(answer) => {
                let replayed = match &journal {
                    Ok(journal) => journal.replay(),
                    Err(error) => Err(error.clone()),
                };
                if replayed.is_ok() {
                    let _ = answer.send(replayed);
                    continue;
                }
                // Poisoned or unreadable: what the disk holds now is what counts (rule V2). The
                // old one closes first, since redb locks the file.
                drop(journal);
                journal = open(&path);
                let _ = answer.send(match &journal {
                    Ok(journal) => journal.replay(),
                    Err(error) => Err(error.clone()),
                });
            }
        }
    }
}

/// An error that leaves open what is on the disk.
fn uncertain(error: JournalError) -> JournalError {
    match error {
        JournalError::Full(detail) | JournalError::Io(detail) => JournalError::Io(detail),
        JournalError::Damaged(detail) => JournalError::Damaged(detail),
    }
}

/// What became of a commit that the disk had no room for.
fn became_of(
    journal: &RedbJournal,
    batch: &JournalBatch,
    detail: String,
) -> Result<(), JournalError> {
    let replay = journal.replay().map_err(uncertain)?;
    let held: BTreeSet<Dot> = replay.intents.iter().map(Intent::dot).collect();
    let written = batch.intents.iter().all(|intent| held.contains(&intent.dot()))
        && !batch.settled.iter().any(|dot| held.contains(dot));
    if written { Ok(()) } else { Err(JournalError::Full(detail)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Journal as _;
    use crate::record::{RecordId, Stored};
    use crate::resolve::sibling;
    use crate::version::{Actor, NodeId, Stamp, Version, VersionVector};
    use std::sync::Arc;

    fn intent(counter: u64) -> Intent {
        let dot = Dot { actor: Actor { node: NodeId(1), incarnation: 1 }, counter };
        let own = sibling(dot, Stamp { wall_ms: counter, logical: 0 }, &Stored::Tombstone);
        Intent {
            record: RecordId { dataset: Arc::from("d"), key: format!("k{counter}").into() },
            version: Version::write(&VersionVector::new(), own),
            value: Stored::Tombstone,
            losers: vec![],
            only_over: None,
        }
    }

    #[tokio::test]
    async fn a_commit_survives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let journal = DiskJournal::open(folder.path(), &lock).unwrap();
        let intents = vec![intent(1), intent(2)];
        journal
            .commit(JournalBatch { intents: intents.clone(), ..JournalBatch::default() })
            .await
            .unwrap();
        drop(journal);
        let journal = DiskJournal::open(folder.path(), &lock).unwrap();
        assert_eq!(journal.replay().await.unwrap().intents, intents);
    }

    #[tokio::test]
    async fn damage_is_reported_with_file_and_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        std::fs::write(folder.path().join(JOURNAL_FILE), b"this is no journal").unwrap();
        let text = DiskJournal::open(folder.path(), &lock).unwrap_err().to_string();
        assert!(text.contains(JOURNAL_FILE) && text.contains("backup"), "{text}");
    }

    #[test]
    fn a_second_holder_of_the_folder_is_refused_by_name_and_pid() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let text = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(text.contains(&folder.path().display().to_string()), "{text}");
        assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
        drop(lock);
        FolderLock::take(folder.path()).unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(FolderLock::take(&file), Err(FolderError::Io { .. })));
    }

    /// "Full" is certain: the journal says what is in it.
    #[test]
    fn a_commit_that_met_a_full_disk_is_there_or_certainly_not() {
        let mut journal = RedbJournal::open(redb::backends::InMemoryBackend::new()).unwrap();
        journal
            .commit(&JournalBatch { intents: vec![intent(1)], ..JournalBatch::default() })
            .unwrap();
        let full = || "no room".to_owned();
        let batch =
            |counter| JournalBatch { intents: vec![intent(counter)], ..JournalBatch::default() };
        assert_eq!(became_of(&journal, &batch(1), full()), Ok(()));
        assert_eq!(became_of(&journal, &batch(2), full()), Err(JournalError::Full(full())));
        let settled = JournalBatch { settled: vec![intent(1).dot()], ..JournalBatch::default() };
        assert_eq!(became_of(&journal, &settled, full()), Err(JournalError::Full(full())));
    }
}
