//! The log as the server has it: what operators do, and the conflicts that the authority settles.
//!
//! ```text
//! D1: conflicts in the order of the feed ──> follow ──┐
//! REST: what an operator has done ────────────────────┴──> one thread ──> Log::append
//! ```
//!
//! Invariant: every conflict of the site's authority is in this log once and in its order, whichever
//! coordinator settled it: the log's own last conflict says where to go on, so a crash between the
//! answer and the append loses nothing. What an operator does is done first and logged then; where the
//! log takes nothing more, that is reported, and whoever asked is told nothing else.

use super::{Archived, AuditError, Filter, Log, Reader, Retention};
use crate::audit::{Conflict, ConflictFacts, ConflictId, Event, Kind, Original};
use crate::conflict::{self, ConflictQuery, Place, Which};
use crate::coordinator::Resolved;
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
    /// The last conflict that the log had when it was opened.
    last: Option<Place>,
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
        let last = last_conflict(data)?;
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
        Ok(Audit { batches, last, reader: Reader::of(data), told, retention })
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

fn last_conflict(data: &Path) -> Result<Option<Place>, AuditError> {
    let filter = Filter { kind: Some(Kind::Conflict), ..Filter::default() };
    let page = Reader::of(data).page(&filter, None, 1)?;
    let Some(entry) = page.entries.into_iter().next() else { return Ok(None) };
    match entry.event() {
        Ok(Event::Conflict(conflict)) => {
            let facts = conflict.facts();
            Ok(facts.losers.first().map(|lost| Place { seq: facts.seq, lost: lost.dot }))
        }
        Ok(_) | Err(_) => Err(AuditError::Damaged(format!(
            "entry {} is a conflict that this build cannot read",
            entry.seq()
        ))),
    }
}

/// Brings the log every conflict that the authority settles, until the node is gone.
pub async fn follow<E: Env>(node: Arc<Node<E>>, audit: Audit, site: SiteId) {
    let mut last = audit.last;
    loop {
        let pause = match logged(&node, &audit, site, &mut last).await {
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

/// Logs the next conflicts; true when more may be waiting.
async fn logged<E: Env>(
    node: &Node<E>,
    audit: &Audit,
    site: SiteId,
    last: &mut Option<Place>,
) -> Result<bool, AuditError> {
    // Without a coordinator, or while D1 does not answer, they wait there.
    let Ok(coordinator) = node.reader() else { return Ok(false) };
    let ask = |which, limit| coordinator.conflicts(ConflictQuery { dataset: None, which, limit });
    let Ok(found) = ask(Which::After(*last), BATCH).await else { return Ok(false) };
    let Some(newest) = found.last() else {
        // A database that was set back counts its feed anew from where it stands.
        if let Some(place) = *last
            && let Ok(all) = ask(Which::Before(None), 1).await
            && all.first().is_none_or(|end| end.seq < place.seq)
        {
            tracing::warn!("D1 was set back: conflicts are followed from where it stands now");
            *last = all.first().map(conflict::Conflict::place);
        }
        return Ok(false);
    };
    let now_ms = wall_ms(node);
    let place = newest.place();
    let more = found.len() == BATCH;
    audit.append(found.iter().map(|settled| (now_ms, event(site, settled))).collect()).await?;
    *last = Some(place);
    Ok(more)
}

/// Wall time, in milliseconds since the epoch.
pub fn wall_ms<E: Env>(node: &Node<E>) -> u64 {
    u64::try_from(node.env().clock().wall().as_millis()).unwrap_or(u64::MAX)
}

fn event(site: SiteId, settled: &conflict::Conflict) -> Event {
    Event::Conflict(Box::new(Conflict::new(ConflictFacts {
        site,
        record: settled.record.clone(),
        seq: settled.seq,
        settled_ms: settled.at.0,
        winner: settled.winner,
        won: settled.won.as_ref().map(Original::from),
        losers: vec![Original::from(&settled.lost)],
        strategy: settled.by.to_string().into(),
    })))
}
