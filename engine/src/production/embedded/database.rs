//! One SQLite file, and the one thread that touches it.
//!
//! ```text
//! BEGIN   SAVEPOINT request 1   SAVEPOINT request 2 (rolled back)   ...   COMMIT   answers
//! ```
//!
//! Invariant: nobody is answered before the commit that carries his request has returned. A
//! request that fails takes back its own savepoint alone; a commit that fails leaves everyone in
//! it with [`Failure::Unknown`], since what a failed sync left on the disk may come back with the
//! next start. What is deleted or written over is overwritten in the file, and where somebody asks for
//! it the log is cut off too, before the answer: nothing of it is left on this disk.

use crate::env::{Doubt, DoubtKind, Refusal, RefusalKind, Unavailable};
use rusqlite::{Connection, ErrorCode};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

const REQUESTS_MAX: usize = 1_024;
const GROUP_REQUESTS_MAX: usize = 512;
const GROUP_BYTES_MAX: usize = 32 * 1024 * 1024;
// For the lock of another program, such as the sqlite3 tool.
const BUSY: Duration = Duration::from_secs(2);
// Between two attempts to cut the log off, while another program reads it.
const SCRUB_EVERY: Duration = Duration::from_secs(30);

/// Why a store's file cannot be used.
#[derive(Debug)]
pub struct OpenError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was found.
    pub problem: String,
}

impl OpenError {
    pub(super) fn folder(path: &Path, error: &std::io::Error) -> Self {
        OpenError { path: path.to_owned(), problem: error.to_string() }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cannot be used ({}); check that this user may read and write it, or restore it \
             from a backup. Moved away, it is made anew and filled from the other stores where \
             they hold the data",
            self.path.display(),
            self.problem
        )
    }
}

impl std::error::Error for OpenError {}

/// What became of a request that did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It certainly did not happen.
    Refused(Refusal),
    /// A statement failed; its savepoint is rolled back.
    Sql(rusqlite::Error),
    /// Nobody knows.
    Unknown(Doubt),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Failure::Sql(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

impl From<Failure> for Unavailable {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Unavailable(refusal.detail),
            Failure::Sql(error) => Unavailable(refusal(&error).detail),
            Failure::Unknown(doubt) => Unavailable(doubt.detail),
        }
    }
}

/// What a failed statement, rolled back, tells the caller to do.
pub(super) fn refusal(error: &rusqlite::Error) -> Refusal {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::TooBig) => RefusalKind::TooLarge,
        // The disk or another program stands in the way: the store is not there for now.
        Some(
            ErrorCode::DiskFull
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::OutOfMemory,
        ) => RefusalKind::Unreachable,
        _ => RefusalKind::Constraint,
    };
    Refusal::new(kind, error.to_string())
}

/// A request in the queue: what it does, and how it answers once the group's fate is known.
struct Request {
    kind: Kind,
    bytes: usize,
    call: Box<dyn Call>,
}

trait Call: Send {
    /// Runs inside the request's savepoint; false: take the savepoint back.
    fn run(&mut self, connection: &Connection) -> bool;
    fn answer(self: Box<Self>, fate: &Fate);
}

struct Asked<T, W> {
    work: Option<W>,
    result: Option<Result<T, Failure>>,
    answer: oneshot::Sender<Result<T, Failure>>,
}

impl<T, W> Call for Asked<T, W>
where
    T: Send,
    W: FnOnce(&Connection) -> Result<T, Failure> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        self.result = self.work.take().map(|work| work(connection));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, fate: &Fate) {
        let settled = match (self.result, fate) {
            // A request that was refused stays so, whatever became of the others.
            (Some(Err(failure)), _) => Err(failure),
            (Some(Ok(value)), Fate::Committed) => Ok(value),
            (Some(Ok(_)), Fate::Unknown(detail)) => {
                Err(Failure::Unknown(Doubt::new(DoubtKind::ServerError, detail.clone())))
            }
            (Some(Ok(_)), Fate::RolledBack(detail)) => Err(unreachable(detail.clone())),
            (None, Fate::Committed) => Err(unreachable("it was not run".to_owned())),
            (None, Fate::RolledBack(detail) | Fate::Unknown(detail)) => {
                Err(unreachable(detail.clone()))
            }
        };
        // A caller that has gone no longer wants its answer.
        drop(self.answer.send(settled));
    }
}

fn unreachable(detail: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::Refused(Refusal::new(RefusalKind::Unreachable, detail))
}

/// What a request does to the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Nothing.
    Read,
    /// It may change something.
    Write,
    /// The same, and nothing of what it takes out is left behind.
    Scrub,
}

/// What became of a request's group.
#[derive(Clone)]
enum Fate {
    Committed,
    RolledBack(String),
    Unknown(String),
}

/// A file with its thread, which ends when this is dropped.
pub(super) struct Database {
    requests: Option<mpsc::Sender<Request>>,
    commits: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("commits", &self.commits()).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens or makes the file and lets `prepare` bring its schema up.
    pub(super) fn open(
        path: &Path,
        prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Self, OpenError> {
        let named = |problem: String| OpenError { path: path.to_owned(), problem };
        let connection = connect(path, prepare).map_err(|error| named(error.to_string()))?;
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let commits = Arc::new(AtomicU64::new(0));
        let counted = commits.clone();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let thread = std::thread::Builder::new()
            .name(name.unwrap_or_default())
            .spawn(move || serve(&connection, inbox, &counted))
            .map_err(|error| named(format!("its thread did not start: {error}")))?;
        Ok(Database { requests: Some(requests), commits, thread: Some(thread) })
    }

    /// How many transactions that wrote were committed since it was opened.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Runs a request that changes nothing.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Unavailable> {
        Ok(self.run(Kind::Read, 0, work).await?)
    }

    /// Runs a request that may change something and holds `bytes`.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.run(Kind::Write, bytes, work).await
    }

    /// Runs a request after which nothing of what it takes out is to be left in the file or its log.
    pub(super) async fn write_and_scrub<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.run(Kind::Scrub, 0, work).await
    }

    async fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        const GONE: &str = "the store's thread has ended";
        let (answer, answered) = oneshot::channel();
        let call = Box::new(Asked { work: Some(work), result: None, answer });
        let requests = self.requests.as_ref().ok_or_else(|| unreachable(GONE))?;
        let sent = requests.send(Request { kind, bytes, call }).await;
        sent.map_err(|_| unreachable(GONE))?;
        answered.await.map_err(|_| Failure::Unknown(Doubt::new(DoubtKind::ConnectionLost, GONE)))?
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // What was queued is still committed, and the file is closed in order.
            let _ = thread.join();
        }
    }
}

fn connect(
    path: &Path,
    prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    prepare(&connection)?;
    connection.execute_batch("COMMIT")?;
    Ok(connection)
}

/// Moves all of the log into the file; false: another program reads it.
fn cut_log(connection: &Connection) -> rusqlite::Result<bool> {
    let hindered: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(hindered == 0)
}

fn serve(connection: &Connection, mut inbox: mpsc::Receiver<Request>, commits: &AtomicU64) {
    // The last process may have ended before it could.
    let mut scrub = Scrub::Due;
    while let Some(first) = inbox.blocking_recv() {
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < GROUP_REQUESTS_MAX && bytes < GROUP_BYTES_MAX {
            let Ok(next) = inbox.try_recv() else { break };
            bytes += next.bytes;
            group.push(next);
        }
        commit_group(connection, group, commits, &mut scrub);
    }
}

/// Whether the log is to be cut off.
enum Scrub {
    Done,
    Due,
    /// Another program was reading it then.
    Hindered(Instant),
}

impl Scrub {
    /// Moves all of the log into the file, and leaves nothing behind in it.
    fn cut(&mut self, connection: &Connection) {
        match self {
            Scrub::Done => return,
            Scrub::Hindered(at) if at.elapsed() < SCRUB_EVERY => return,
            Scrub::Due | Scrub::Hindered(_) => {}
        }
        match cut_log(connection) {
            Ok(true) => *self = Scrub::Done,
            Ok(false) | Err(_) => {
                *self = Scrub::Hindered(Instant::now());
                tracing::warn!(
                    file = connection.path().unwrap_or_default(),
                    "another program reads the file: what was erased may still be in its log, which is \
                     cut off once that has ended"
                );
            }
        }
    }
}

fn commit_group(
    connection: &Connection,
    group: Vec<Request>,
    commits: &AtomicU64,
    scrub: &mut Scrub,
) {
    if group.iter().any(|request| request.kind == Kind::Scrub) {
        *scrub = Scrub::Due;
    }
    let writes = group.iter().any(|request| request.kind >= Kind::Write);
    let begin = if writes { "BEGIN IMMEDIATE" } else { "BEGIN" };
    let mut begun = connection.execute_batch(begin);
    let mut waiting: Vec<Box<dyn Call>> = Vec::with_capacity(group.len());
    for mut request in group {
        if let Err(error) = &begun {
            request.call.answer(&Fate::RolledBack(error.to_string()));
            continue;
        }
        let ended = run(connection, &mut *request.call);
        waiting.push(request.call);
        // SQLite takes the whole transaction back when the disk is full or fails under it.
        if connection.is_autocommit() || ended.is_err() {
            take_back(connection);
            let why = "the transaction was rolled back: the disk is full or failing";
            let fate = Fate::RolledBack(why.to_owned());
            waiting.drain(..).for_each(|call| call.answer(&fate));
            begun = connection.execute_batch(begin);
        }
    }
    if begun.is_err() {
        return;
    }
    let fate = match connection.execute_batch("COMMIT") {
        Ok(()) => {
            if writes {
                commits.fetch_add(1, Ordering::Relaxed);
            }
            Fate::Committed
        }
        Err(error) => {
            take_back(connection);
            Fate::Unknown(format!("the commit failed: {error}"))
        }
    };
    scrub.cut(connection);
    waiting.into_iter().for_each(|call| call.answer(&fate));
}

fn run(connection: &Connection, call: &mut dyn Call) -> rusqlite::Result<()> {
    connection.execute_batch("SAVEPOINT request")?;
    if call.run(connection) {
        connection.execute_batch("RELEASE request")
    } else if connection.is_autocommit() {
        Ok(())
    } else {
        connection.execute_batch("ROLLBACK TO request; RELEASE request")
    }
}

fn take_back(connection: &Connection) {
    if !connection.is_autocommit() {
        // Should this fail too, the next BEGIN does, and everyone is told.
        let _ = connection.execute_batch("ROLLBACK");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(path: &Path) -> Database {
        Database::open(path, |connection| {
            connection.execute_batch("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY)")
        })
        .unwrap()
    }

    fn insert(n: i64) -> impl FnOnce(&Connection) -> Result<(), Failure> + Send {
        move |connection| {
            connection.execute("INSERT INTO t VALUES (?1)", [n])?;
            Ok(())
        }
    }

    async fn rows(database: &Database) -> i64 {
        let count = |connection: &Connection| {
            Ok(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
        };
        database.read(count).await.unwrap()
    }

    #[tokio::test]
    async fn one_that_fails_harms_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let database = counted(&folder.path().join("t.sqlite"));
        let (a, b, c) = tokio::join!(
            database.write(0, insert(1)),
            database.write(0, insert(1)),
            database.write(0, insert(2)),
        );
        assert!(a.is_ok() && c.is_ok());
        assert!(matches!(b, Err(Failure::Sql(_))), "{b:?}");
        assert_eq!(rows(&database).await, 2);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_nothing_is_half_done() {
        let folder = tempfile::tempdir().unwrap();
        let database = counted(&folder.path().join("t.sqlite"));
        let bounded = |connection: &Connection| {
            connection.execute_batch("CREATE TABLE big(b); PRAGMA max_page_count = 20")?;
            Ok(())
        };
        database.write(0, bounded).await.unwrap();
        let big = |connection: &Connection| {
            connection.execute("INSERT INTO big VALUES (zeroblob(1000000))", [])?;
            Ok(())
        };
        let (kept, full) = tokio::join!(database.write(0, insert(1)), database.write(0, big));
        let Err(Failure::Sql(error)) = full else { panic!("{full:?}") };
        assert_eq!(refusal(&error).kind, RefusalKind::Unreachable);
        // The first one is either in, or was refused: never in doubt, never half in.
        match kept {
            Ok(()) => assert_eq!(rows(&database).await, 1),
            Err(Failure::Refused(_)) => assert_eq!(rows(&database).await, 0),
            Err(other) => panic!("{other:?}"),
        }
        database.write(0, insert(2)).await.unwrap();
    }

    #[tokio::test]
    async fn a_failed_commit_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("t.sqlite"), |connection| {
            connection.execute_batch(
                "CREATE TABLE parent(n INTEGER PRIMARY KEY);
                 CREATE TABLE t(n INTEGER REFERENCES parent(n) DEFERRABLE INITIALLY DEFERRED);",
            )
        })
        .unwrap();
        // Foreign keys are checked at the commit, so this one fails there.
        let orphan = |connection: &Connection| {
            connection.execute("INSERT INTO t VALUES (7)", [])?;
            Ok(())
        };
        let result = database.write(0, orphan).await;
        assert!(matches!(result, Err(Failure::Unknown(_))), "{result:?}");
        assert_eq!(rows(&database).await, 0);
    }
}
