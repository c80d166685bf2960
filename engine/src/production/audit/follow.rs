//! The log as the server has it: what operators do, and the conflicts that the authority settles.
//!
//! ```text
//! D1: conflicts in the order of the feed ──> follow ──┐
//! REST: what an operator has done ────────────────────┴──> one thread ──> Log::append
//! ```
//!
//! Invariant: what is appended is on the disk when its sender is told so, and what the log refuses is
//! brought again. Which conflict comes next is the coordinator's to say (`coordinator/logged.rs`). What
//! an operator does is done first and logged then; where the log takes nothing more, that is reported,
//! and whoever asked is told nothing else.

use super::{Archived, AuditError, Cursor, Filter, Log, PAGE_ENTRIES_MAX, Reader, Retention};
use crate::audit::{ConflictId, Event, Kind, Original};
use crate::conflict;
use crate::coordinator::{Backwards, Logged, Resolved, Trail};
use crate::env::{Clock, Env};
use crate::production::node::Node;
use crate::record::RecordId;
use crate::version::{Dot, Sibling, SiteId};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Batches that wait for the disk; more wait outside.
const WAITING_MAX: usize = 256;
/// Conflicts in one append.
const BATCH: usize = 256;
/// Between two looks at what the authority has settled.
const EVERY: Duration = Duration::from_secs(1);
/// The same after the log has refused what it was given: that is an operator's to mend.
const EVERY_REFUSED: Duration = Duration::from_secs(30);
/// Between two looks at what is to leave, in milliseconds.
const RETENTION_EVERY_MS: u64 = 24 * 60 * 60 * 1_000;

type Batch = (Vec<(u64, Event)>, oneshot::Sender<Result<(), AuditError>>);

/// The way to the log.
#[derive(Clone, Debug)]
pub struct Audit {
    batches: SyncSender<Batch>,
    /// How far the log had the authority's conflicts when it was opened.
    logged: Logged,
    reader: Reader,
    told: Arc<watch::Sender<Told>>,
    retention: Arc<Mutex<Retention>>,
}

/// What those who follow the log are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The last entry that is durable.
    pub head_seq: u64,
    /// The server ends: nobody follows any further.
    pub ending: bool,
}

impl Audit {
    /// Starts the thread that appends. It ends with the last of the ways to it.
    pub fn start(
        mut log: Log,
        data: &Path,
        now_ms: u64,
        retention: Retention,
    ) -> Result<Self, AuditError> {
        let logged = logged(data)?;
        let mut retained = None;
        retain(&mut log, retention, now_ms, &mut retained);
        let retention = Arc::new(Mutex::new(retention));
        let (batches, taken) = sync_channel(WAITING_MAX);
        let told = watch::Sender::new(Told { head_seq: log.head().seq, ending: false });
        let told = Arc::new(told);
        let (tells, retains) = (told.clone(), retention.clone());
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(log, retained, &retains, &taken, &tells))
            .map_err(|error| AuditError::Io(format!("no thread for the audit log: {error}")))?;
        Ok(Audit { batches, logged, reader: Reader::of(data), told, retention })
    }

    /// What stays in the log.
    pub fn retention(&self) -> Retention {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps so much from the next entry on.
    pub fn retain(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    /// Reads the log.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Tells of each entry once it is durable.
    pub fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// Lets those go who follow the log: they would keep the server from ending.
    pub fn end(&self) {
        self.told.send_modify(|told| told.ending = true);
    }

    /// Appends; durable when it returns.
    pub async fn append(&self, events: Vec<(u64, Event)>) -> Result<(), AuditError> {
        let (done, ended) = oneshot::channel();
        let batches = self.batches.clone();
        let stopped = || AuditError::Io("the audit log's thread has ended".to_owned());
        // A full queue makes its sender wait, which no task of the runtime may.
        let sent = tokio::task::spawn_blocking(move || batches.send((events, done))).await;
        sent.map_err(|_| stopped())?.map_err(|_| stopped())?;
        ended.await.map_err(|_| stopped())?
    }

    /// Logs what an operator has done.
    pub async fn operator(&self, now_ms: u64, action: &str, target: &str, reason: &str) {
        let (who, action) = ("operator".into(), action.into());
        let event = Event::Operator { who, action, target: target.into(), reason: reason.into() };
        if let Err(error) = self.append(vec![(now_ms, event)]).await {
            tracing::error!(%error, target, "what an operator has done is not in the audit log");
        }
    }

    /// Logs that what had lost was written again.
    pub async fn restored(
        &self,
        now_ms: u64,
        site: SiteId,
        settled: &conflict::Conflict,
        dot: Dot,
    ) {
        let (record, lost) = (settled.record.clone(), settled.lost.dot);
        let conflict = ConflictId::of(site, &record, settled.winner, [lost]);
        let (by, reason) = ("operator".into(), "".into());
        let event = Event::Restored { conflict, record, lost, dot, by, reason };
        if let Err(error) = self.append(vec![(now_ms, event)]).await {
            tracing::error!(%error, %lost, "that a value was restored is not in the audit log");
        }
    }

    /// Logs whose bytes were erased.
    pub async fn redacted(
        &self,
        now_ms: u64,
        record: &RecordId,
        erased: &[Sibling],
        by: &str,
        reason: &str,
    ) {
        let event = Event::Redacted {
            record: record.clone(),
            erased: erased.iter().map(Original::from).collect(),
            by: by.into(),
            reason: reason.into(),
        };
        if let Err(error) = self.append(vec![(now_ms, event)]).await {
            tracing::error!(%error, %record, "that bytes were erased is not in the audit log");
        }
    }

    /// Logs that one value was put in the place of several.
    pub async fn resolved(&self, now_ms: u64, resolved: &Resolved, reason: &str) {
        let Resolved { superseded, receipt } = resolved;
        let event = Event::Resolved {
            record: receipt.record.clone(),
            superseded: superseded.iter().map(Original::from).collect(),
            wrote: Original::from(receipt.version.current()),
            by: "operator".into(),
            reason: reason.into(),
        };
        if let Err(error) = self.append(vec![(now_ms, event)]).await {
            let record = &receipt.record;
            tracing::error!(%error, %record, "that a conflict was resolved is not in the audit log");
        }
    }
}

fn write(
    mut log: Log,
    mut retained: Option<(Retention, u64)>,
    retention: &Mutex<Retention>,
    batches: &Receiver<Batch>,
    told: &watch::Sender<Told>,
) {
    let tell = |log: &Log| {
        let head_seq = log.head().seq;
        told.send_if_modified(|told| std::mem::replace(&mut told.head_seq, head_seq) != head_seq);
    };
    while let Ok((events, done)) = batches.recv() {
        let appended = log.append(&events).map(drop);
        // Whoever is answered finds its entry told.
        tell(&log);
        // Whoever has gone does not hear it.
        let _ = done.send(appended);
        if let Some((now_ms, _)) = events.last() {
            let retention = *retention.lock().unwrap_or_else(PoisonError::into_inner);
            retain(&mut log, retention, *now_ms, &mut retained);
            tell(&log);
        }
    }
}

/// Lets go what the retention does not keep, once a day and when it is another. `retained`: which it was
/// the last time, and when that was.
fn retain(
    log: &mut Log,
    retention: Retention,
    now_ms: u64,
    retained: &mut Option<(Retention, u64)>,
) {
    let is_recent = |at_ms: u64| now_ms.abs_diff(at_ms) < RETENTION_EVERY_MS;
    if retained.is_some_and(|(former, at_ms)| former == retention && is_recent(at_ms)) {
        return;
    }
    *retained = Some((retention, now_ms));
    match log.archive(&retention, now_ms) {
        Ok(None) => {}
        Ok(Some(Archived { segments, entries, .. })) => {
            tracing::info!(segments, entries, "old entries of the audit log went to its archive");
        }
        Err(error) => tracing::error!(%error, "old entries of the audit log stay where they are"),
    }
}

/// Where the log stands among the authority's conflicts: its own last word of them says so.
fn logged(data: &Path) -> Result<Logged, AuditError> {
    let reader = Reader::of(data);
    let mut from = None;
    loop {
        let page = reader.page(&Filter::default(), from, PAGE_ENTRIES_MAX)?;
        let says = |entry: &&crate::audit::Entry| entry.kind().is_some_and(Kind::is_followed);
        if let Some(entry) = page.entries.iter().find(says) {
            let event = entry.event().map_err(|_| {
                AuditError::Damaged(format!(
                    "entry {} is a conflict, or says where to go on, and this build cannot read it",
                    entry.seq()
                ))
            })?;
            return Ok(Logged::behind(Some(&event), BATCH));
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(Logged::behind(None, BATCH)),
        }
    }
}

impl Trail for Audit {
    type Error = AuditError;
    type Cursor = Cursor;

    async fn append(&mut self, events: Vec<(u64, Event)>) -> Result<(), AuditError> {
        Audit::append(self, events).await
    }

    async fn settled(&mut self, from: Option<Cursor>) -> Result<Backwards<Cursor>, AuditError> {
        let reader = self.reader.clone();
        let filter = Filter { kind: Some(Kind::Conflict), ..Filter::default() };
        let read = move || reader.page(&filter, from, PAGE_ENTRIES_MAX);
        let read = tokio::task::spawn_blocking(read).await;
        let page = read.unwrap_or_else(|error| Err(AuditError::Io(error.to_string())))?;
        let events = page.entries.iter().filter_map(|entry| entry.event().ok());
        Ok((events.filter_map(|event| event.followed_through()).collect(), page.next))
    }
}

/// Brings the log every conflict that the authority settles, until the node is gone.
pub async fn follow<E: Env>(node: Arc<Node<E>>, mut audit: Audit) {
    let mut logged = audit.logged.clone();
    loop {
        // Without a coordinator they wait at D1.
        let followed = match node.reader() {
            Ok(coordinator) => logged.follow(&coordinator, &mut audit).await,
            Err(_) => Ok(false),
        };
        let pause = match followed {
            Ok(true) => continue,
            Ok(false) => EVERY,
            Err(error) => {
                tracing::error!(%error, "conflicts wait to be logged");
                EVERY_REFUSED
            }
        };
        node.env().clock().sleep(pause).await;
    }
}

/// Wall time, in milliseconds since the epoch.
pub fn wall_ms<E: Env>(node: &Node<E>) -> u64 {
    u64::try_from(node.env().clock().wall().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::log::tests::{Place, fill};
    use super::*;
    use crate::audit::Settled;
    use crate::row::Seq;
    use crate::version::{Actor, NodeId};

    fn keep(seconds: u64) -> Retention {
        Retention { keep: Duration::from_secs(seconds), segments_max: 1_000 }
    }

    /// Small segments, of which all but the last are from the first minute after the epoch.
    fn filled() -> (Place, Log) {
        let place = Place::new();
        let mut log = place.open().unwrap().with_small_segments();
        fill(&mut log, 1..=40);
        (place, log)
    }

    fn archived(place: &Place) -> usize {
        std::fs::read_dir(place.reader().folder().join("archive")).map_or(0, Iterator::count)
    }

    #[test]
    fn what_is_old_leaves_at_the_start_without_an_entry() {
        let (place, log) = filled();
        drop(Audit::start(log, place.folder.path(), 60_000, keep(100)).unwrap());
        assert_eq!(archived(&place), 0);
        let (place, log) = filled();
        drop(Audit::start(log, place.folder.path(), 60_000, keep(10)).unwrap());
        assert!(archived(&place) > 0);
    }

    #[test]
    fn what_is_old_leaves_once_a_day_and_at_once_where_the_retention_is_another() {
        let (place, mut log) = filled();
        let mut retained = None;
        let now_ms = 60_000;
        retain(&mut log, keep(100), now_ms, &mut retained);
        retain(&mut log, keep(100), now_ms + RETENTION_EVERY_MS - 1, &mut retained);
        assert_eq!(archived(&place), 0, "it was looked at less than a day ago");
        retain(&mut log, keep(100), now_ms + RETENTION_EVERY_MS, &mut retained);
        assert!(archived(&place) > 0);

        let (place, mut log) = filled();
        let mut retained = None;
        retain(&mut log, keep(100), now_ms, &mut retained);
        retain(&mut log, keep(10), now_ms, &mut retained);
        assert!(archived(&place) > 0);
    }

    #[test]
    fn a_log_goes_on_where_it_says_however_much_else_it_tells_since() {
        let (place, mut log) = filled();
        let logged = || logged(place.folder.path()).unwrap();
        assert_eq!(logged(), Logged::behind(None, BATCH));
        let dot = |counter| Dot { actor: Actor { node: NodeId(1), incarnation: 7 }, counter };
        let (lost, winner) = (dot(3), dot(4));
        let behind = Some(Settled { seq: Seq(9), lost, winner, settled_ms: 5 });
        let event = Event::SetBack { last: None, behind };
        log.append(&[(41, event.clone())]).unwrap();
        fill(&mut log, 42..=42 + PAGE_ENTRIES_MAX as u64);
        assert_eq!(logged(), Logged::behind(Some(&event), BATCH));
        assert_ne!(logged(), Logged::behind(None, BATCH));
    }
}
