//! Taking in: bytes that somebody else wrote to a projection become a version at the authority.
//!
//! ```text
//! bytes in a projection ── read again: the same ──> over what the authority holds, by
//!                                                   compare-and-set, which is kept as their loser
//! ```
//!
//! Invariant: their dot is made from record and bytes, so that every finder makes the same write of
//! them; and nothing is put over them before they are in the authority (rules A3 and V6). What cannot
//! be a value of the dataset stays where it is, or is kept beside the record.

use super::install::{Candidate, Sent};
use super::reconcile::{Found, Listing};
use super::{Coordinator, write::accepted};
use crate::conflict::By;
use crate::env::{Env, Outcome};
use crate::lane::Priority;
use crate::policy::{Dataset, Keep, Ruling};
use crate::projection::{self, Body, Named};
use crate::record::{Loser, RecordId, StoreId, Stored, Written};
use crate::resolve::{self, Held, Met};
use crate::row::{Row, RowAnswer, RowOp};
use crate::version::{Sibling, SiteId, Version};
use bytes::Bytes;

/// Tries of a compare-and-set that may find the row moved.
const TAKE_IN_TRIES: usize = 4;

impl<E: Env> Coordinator<E> {
    /// Bytes in a projection that the authority may not have: they become a version there, over
    /// whatever it holds by now, which is kept as a loser (rules A3 and V6).
    pub(super) async fn take_in(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        store: StoreId,
        seen: Listing,
        why: Priority,
    ) -> TookIn {
        let Ok(Some((body, metadata))) = self.fetch(dataset, record, store).await else {
            return TookIn::Undecided;
        };
        if seen.as_ref() != Some(&metadata) {
            // An edge cache gives what stood there before: the next pass may get the bytes.
            return TookIn::Undecided;
        }
        let described = metadata.as_deref().and_then(projection::read);
        if described.is_none() {
            // Nothing vouches for these bytes but a second read: one may be damaged on its way.
            match self.fetch(dataset, record, store).await {
                Ok(Some((again, _))) if again == body => {}
                Ok(_) | Err(_) => {
                    self.state().counters.copies_damaged += 1;
                    return TookIn::Undecided;
                }
            }
        }
        let changed = described.as_ref().is_some_and(|described| !described.has(&body));
        let described = match described.map(|described| (described.names, described.body)) {
            None => None,
            // Bytes that are not what their metadata names are somebody else's, if they are what
            // stands there: they may have been spoilt on their way.
            Some(_) if changed => match self.fetch(dataset, record, store).await {
                Ok(Some(again)) if again == (body.clone(), metadata.clone()) => None,
                Ok(_) | Err(_) => return TookIn::Undecided,
            },
            Some((Named::Version(version), Body::Whole)) => Some(version),
            // Nothing can be rebuilt from these alone.
            Some(
                (Named::Tag(_), _) | (Named::Version(_), Body::Reference | Body::Partial { .. }),
            ) => return TookIn::Unholdable,
        };
        let keep = &dataset.projection(store).expect("a projection is looked over").keep;
        let part = described.is_none() && matches!(keep, Keep::Fields(_));
        let ruling = dataset.conflict.ruling(&record.key);
        // Another store's bytes stand against those of somebody who wrote past us to this one.
        let is_unwanted = described.is_none()
            && matches!(ruling, Ruling::PreferStore(preferred) if *preferred != store);
        let fits = body.len() <= self.policy().limits.value_bytes_max;
        let kept = if part { Ok(body.clone()) } else { accepted(dataset, &record.key, &body) };
        let body = match kept {
            // What says that it is a version is that to the byte, or is not.
            Ok(kept) if fits && (described.is_none() || kept == body) => kept,
            Ok(_) | Err(_) => {
                self.state().counters.foreign_refused += 1;
                tracing::error!(
                    %record, %store, kind = ?dataset.kind,
                    "somebody wrote what this dataset cannot hold; it is left where it is"
                );
                return TookIn::Unholdable;
            }
        };
        let mut row = match self.row(RowOp::Read { record: record.clone() }).await {
            Outcome::Applied((_, RowAnswer::Read(row))) => row.map(|row| *row),
            _ => return TookIn::Undecided,
        };
        for _ in 0..TAKE_IN_TRIES {
            self.learn_row(record, row.as_ref());
            let found = row.take().unwrap_or_default();
            // Where the authority has nothing, nobody's bytes stand against these.
            let beside = part || (is_unwanted && !found.is_absent());
            let taken = if beside {
                kept_beside(self.site(), record, &found, &body)
            } else {
                taken_in(self.site(), record, ruling, &found, described.as_ref(), &body)
            };
            let candidate = match taken {
                TakenIn::Known => {
                    let Some(version) = &found.version else { return TookIn::Undecided };
                    let shown = Found { copy: seen.clone(), row_seq: found.row_seq };
                    let seen = metadata.as_deref();
                    let no_echo = match (store, changed) {
                        (StoreId::Kv, false) => self.is_no_echo(record, store, &shown),
                        // An earlier foreign write had other metadata, if it had any.
                        (StoreId::Kv, true) => {
                            self.is_listed_so(dataset, record, store, seen).await
                        }
                        (StoreId::D1 | StoreId::R2, _) => true,
                    };
                    let differs = described.as_ref().is_none_or(|d| d.history != version.history);
                    if differs && no_echo {
                        self.put_again(record, store, version, why);
                    }
                    return TookIn::Known;
                }
                TakenIn::NotYet => return TookIn::Undecided,
                TakenIn::Beside(held) => {
                    self.adopt_one(record, held);
                    return TookIn::Undecided;
                }
                TakenIn::Nowhere => {
                    self.state().counters.foreign_refused += 1;
                    tracing::error!(
                        %record, %store,
                        "somebody wrote a record where only chosen fields are kept, so it cannot \
                         be told whether these are all; it is left where it is: write it through \
                         Tidelock or to D1, or delete it there"
                    );
                    return TookIn::Unholdable;
                }
                TakenIn::Over(candidate) => candidate,
            };
            match self.send_install(dataset, record, candidate).await {
                Sent::Done if part => {
                    self.state().counters.foreign_refused += 1;
                    tracing::error!(
                        %record, %store,
                        "somebody wrote over a copy of chosen fields, which cannot become the \
                         record's value; their bytes are kept beside it, and the copy is put again"
                    );
                    return TookIn::Installed;
                }
                Sent::Done if beside => {
                    self.state().counters.foreign_writes += 1;
                    tracing::info!(
                        %record, %store,
                        "somebody else's write is kept beside what its dataset prefers"
                    );
                    return TookIn::Installed;
                }
                Sent::Done => {
                    self.state().counters.foreign_writes += 1;
                    tracing::info!(%record, %store, "somebody else's write was taken in");
                    return TookIn::Installed;
                }
                Sent::Moved(now) => row = now,
                Sent::Dead => {
                    let dead = described.as_ref().expect("what is found anew is not dead");
                    let buried = self.bury(dataset, record, dead).await;
                    return if buried { TookIn::Installed } else { TookIn::Undecided };
                }
                Sent::Failed
                | Sent::Away
                | Sent::Condemned(_)
                | Sent::Refused(_)
                | Sent::LoserRefused(..) => {
                    return TookIn::Undecided;
                }
            }
        }
        TookIn::Undecided
    }
}

/// What became of bytes that were found in a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TookIn {
    /// The authority holds them now, and has marked the projections for it.
    Installed,
    /// The authority has them or has decided about them before.
    Known,
    /// No version can be made of them.
    Unholdable,
    /// A store did not answer, or they are not what was seen: another look tells.
    Undecided,
}

enum TakenIn {
    /// The authority has it, or has decided about it.
    Known,
    /// Another foreign write is taken in first.
    NotYet,
    /// It stands beside what the authority holds, which is to be gathered first.
    Beside(Held),
    /// The authority has no such record beside which it could be kept.
    Nowhere,
    Over(Candidate),
}

/// What becomes of bytes found in a projection: `described` is the version that they say they are
/// of, if they say so.
fn taken_in(
    site: SiteId,
    record: &RecordId,
    ruling: &Ruling,
    row: &Row,
    described: Option<&Version>,
    body: &Bytes,
) -> TakenIn {
    if row.has_foreign_write() {
        return TakenIn::NotYet;
    }
    let value = Stored::Inline(body.clone());
    let expect = row.expect();
    let theirs = resolve::held(site, record, row);
    if let Some(version) = described {
        let ours = Held { version: version.clone(), value };
        let over = |held, losers| {
            let (expect, by, writes) = (expect.clone(), By::Lww.into(), written(&held, ruling));
            TakenIn::Over(Candidate { expect, held, losers, by, writes, conditional: None })
        };
        return match theirs.map(|theirs| resolve::meet(ruling, &ours, &theirs)) {
            None | Some(Met::Ours) => over(ours, Vec::new()),
            Some(Met::Theirs) => TakenIn::Known,
            Some(Met::Concurrent { merged, losers }) => over(merged, losers),
            Some(Met::Apart(_)) => TakenIn::Beside(ours),
        };
    }
    let found = resolve::found(site, record, row.version.as_ref(), body);
    let known = theirs.as_ref().is_some_and(|theirs| {
        theirs.version.history.covers_dot(found.current().dot)
            || theirs.version.current().hash == found.current().hash
    });
    if known {
        return TakenIn::Known;
    }
    let winner = found.current().dot;
    let losers = theirs.map(|theirs| Loser {
        sibling: *theirs.version.current(),
        value: theirs.value,
        winner,
    });
    let held = Held { version: found, value };
    let losers = losers.into_iter().collect();
    let by = if *ruling == Ruling::Lww { By::Lww } else { By::PreferStore };
    let by = by.into();
    let writes = written(&held, ruling);
    TakenIn::Over(Candidate { expect, held, losers, by, writes, conditional: None })
}

/// What becomes of bytes found where only chosen fields are kept. Nobody can tell whether they are a
/// whole value, so they never become the record's: they lose against what the authority holds, and
/// are kept with it. Only then is the copy put again (rules A3 and V6).
fn kept_beside(site: SiteId, record: &RecordId, row: &Row, body: &Bytes) -> TakenIn {
    if row.has_foreign_write() {
        return TakenIn::NotYet;
    }
    let Some(theirs) = resolve::held(site, record, row) else { return TakenIn::Nowhere };
    let found = resolve::found(site, record, row.version.as_ref(), body);
    let lost = found.current();
    if theirs.version.history.covers_dot(lost.dot) || theirs.version.current().hash == lost.hash {
        return TakenIn::Known;
    }
    let won = *theirs.version.current();
    // No later than the winner: its stamp stays the greatest of all that its history covers (V3).
    let sibling = Sibling { stamp: won.stamp, ..*lost };
    let loser = Loser { sibling, value: Stored::Inline(body.clone()), winner: won.dot };
    let held = Held { version: theirs.version.including(&found.history), value: theirs.value };
    let (expect, losers, by) = (row.expect(), vec![loser], By::PreferStore.into());
    TakenIn::Over(Candidate { expect, held, losers, by, writes: Vec::new(), conditional: None })
}

/// What is new of it where it may be merged later.
fn written(held: &Held, ruling: &Ruling) -> Vec<Written> {
    super::install::written(held).filter(|_| ruling.starts_from_base()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::StoreTime;
    use crate::version::{Actor, Dot, NodeId, Stamp, VersionVector};
    use std::sync::Arc;

    #[test]
    fn bytes_in_a_partial_copy_lose_and_are_kept() {
        let record = RecordId { dataset: Arc::from("d"), key: "k".into() };
        let body = Bytes::from_static(b"{\"a\":2}");
        assert!(matches!(
            kept_beside(SiteId(0), &record, &Row::default(), &body),
            TakenIn::Nowhere
        ));
        let value = Stored::Inline(Bytes::from_static(b"{\"a\":1,\"b\":1}"));
        let dot = Dot { actor: Actor { node: NodeId(1), incarnation: 1 }, counter: 1 };
        let sibling = resolve::sibling(dot, Stamp { wall_ms: 5, logical: 0 }, &value);
        let version = Version::write(&VersionVector::new(), sibling);
        let row = Row {
            version: Some(version.clone()),
            value: Some(value.clone()),
            row_seq: 1,
            known_row_seq: 1,
            ..Row::default()
        };
        let TakenIn::Over(candidate) = kept_beside(SiteId(0), &record, &row, &body) else {
            panic!("kept")
        };
        assert_eq!(candidate.held.value, value);
        assert_eq!(candidate.held.version.current(), version.current());
        assert_eq!(candidate.losers[0].value, Stored::Inline(body.clone()));
        assert_eq!(candidate.losers[0].winner, dot);
        assert!(candidate.losers[0].sibling.stamp <= candidate.held.version.stamp());
        // Found again, they are known, and the copy is put over them.
        let after = Row { version: Some(candidate.held.version), ..row.clone() };
        assert!(matches!(kept_beside(SiteId(0), &record, &after, &body), TakenIn::Known));
        let foreign = Row { row_seq: 2, foreign_at: StoreTime(1), ..row };
        assert!(matches!(kept_beside(SiteId(0), &record, &foreign, &body), TakenIn::NotYet));
    }
}
