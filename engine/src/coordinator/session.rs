//! Session reads: never older than what the session has seen, whichever coordinator it asks.
//!
//! ```text
//! token = how far the session has seen each site's feed
//!       + its own writes that the authority may not hold yet
//! ```
//!
//! Invariant: a copy answers a session only when this coordinator has followed the feed to an end
//! that lies as far as the session has seen it, and the copy is of exactly the version that it
//! knows. Otherwise the authority answers; and where that lacks a write of the session's own, or what
//! it has seen at another site, nobody does.

use super::read::{Copied, Latest, place};
use super::{Coordinator, Read, ReadError, Receipt};
use crate::env::{Env, Network};
use crate::policy::Dataset;
use crate::record::{RecordId, StoreId};
use crate::row::Seq;
use crate::version::{Dot, Malformed, SiteId, VersionVector};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Writes of one session that wait for the authority; of more, the oldest are forgotten.
const WRITES_MAX: usize = 64;
/// Sites that a session has met.
const SITES_MAX: usize = 64;

/// What a session has seen: a token that its client carries from request to request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// How far it has seen each site's feed.
    seen: BTreeMap<SiteId, Seq>,
    /// Writes that the session has seen and the authority may lack, each with its record's hash.
    writes: Vec<(u64, Dot)>,
}

impl Session {
    /// The session was told of its write.
    pub fn wrote(&mut self, receipt: &Receipt) {
        match receipt.seq {
            Some(seq) => self.saw(receipt.site, seq),
            None => self.saw_owed(&receipt.record, receipt.dot),
        }
    }

    fn saw(&mut self, site: SiteId, seq: Seq) {
        // A token that met more sites than that is not ours to keep whole; it never has.
        if self.seen.len() < SITES_MAX || self.seen.contains_key(&site) {
            let seen = self.seen.entry(site).or_default();
            *seen = (*seen).max(seq);
        }
    }

    fn saw_owed(&mut self, record: &RecordId, dot: Dot) {
        let write = (hash_of(record), dot);
        if self.writes.contains(&write) {
            return;
        }
        if self.writes.len() == WRITES_MAX {
            self.writes.remove(0);
        }
        self.writes.push(write);
    }

    /// The session's writes to a record that the authority may lack.
    fn owed(&self, record: &RecordId) -> impl Iterator<Item = Dot> {
        let hash = hash_of(record);
        self.writes.iter().filter(move |(of, _)| *of == hash).map(|(_, dot)| *dot)
    }

    /// The authority holds all that this history includes.
    fn confirmed(&mut self, record: &RecordId, history: &VersionVector) {
        let hash = hash_of(record);
        self.writes.retain(|(of, dot)| *of != hash || !history.covers_dot(*dot));
    }
}

fn hash_of(record: &RecordId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(record.dataset.as_bytes()).update(&[0]).update(record.key.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (site, seq)) in self.seen.iter().enumerate() {
            write!(f, "{}{}:{}", if at > 0 { ";" } else { "" }, site.0, seq.0)?;
        }
        if self.seen.is_empty() {
            f.write_str("-")?;
        }
        self.writes.iter().try_for_each(|(record, dot)| write!(f, ",{record:016x}:{dot}"))
    }
}

impl FromStr for Session {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let mut parts = text.split(',');
            let seen = |part: &str| {
                let (site, seq) = part.split_once(':')?;
                Some((SiteId(site.parse().ok()?), Seq(seq.parse().ok()?)))
            };
            let seen: BTreeMap<_, _> = match parts.next()? {
                "-" => BTreeMap::new(),
                places => places.split(';').map(seen).collect::<Option<_>>()?,
            };
            let write = |part: &str| {
                let (record, dot) = part.split_once(':')?;
                Some((u64::from_str_radix(record, 16).ok()?, dot.parse().ok()?))
            };
            let writes: Vec<_> = parts.map(write).collect::<Option<_>>()?;
            let bounded = writes.len() <= WRITES_MAX && seen.len() <= SITES_MAX;
            bounded.then_some(Session { seen, writes })
        };
        parse().ok_or_else(|| Malformed {
            text: text.to_owned(),
            expected: "SITE:SEQUENCE;..,RECORD:NODE.INCARNATION.COUNTER,..",
        })
    }
}

/// Why a session gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// As for every read.
    Read(ReadError),
    /// The session has seen a write that neither the authority nor this coordinator holds. The
    /// same again later, or at the coordinator that took the write.
    NotHereYet {
        /// The write.
        dot: Dot,
    },
    /// The session has seen something of another site that has not come here yet. The same again
    /// later, or there.
    SiteBehind {
        /// Which site's.
        site: SiteId,
    },
    /// The session has seen something of a site of which nobody is a member here: it was retired, or
    /// is not known yet. Nothing comes from there, so nobody can tell.
    NoSuchSite {
        /// Which.
        site: SiteId,
    },
}

impl From<ReadError> for SessionError {
    fn from(error: ReadError) -> Self {
        SessionError::Read(error)
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionError::Read(error) => error.fmt(f),
            SessionError::NotHereYet { dot } => write!(
                f,
                "this session has seen the write {dot}, which has not reached the authority yet; \
                 try again, or ask coordinator {}",
                dot.actor.node
            ),
            SessionError::SiteBehind { site } => write!(
                f,
                "this session has seen something at {site} that has not come here yet; try again, \
                 or ask a coordinator there"
            ),
            SessionError::NoSuchSite { site } => write!(
                f,
                "this session has seen something at {site}, which is no member here; if it was \
                 retired, begin a new session, else add its coordinators with `tidelock peer add`"
            ),
        }
    }
}

impl std::error::Error for SessionError {}

impl<E: Env> Coordinator<E> {
    /// Reads one record, never older than what the session has seen, and notes in the session what
    /// it sees now.
    pub async fn read_in_session(
        &self,
        dataset: &str,
        key: &str,
        session: &mut Session,
    ) -> Result<Read, SessionError> {
        let policy = self.policy();
        let (policy, record) = place(&policy, dataset, key)?;
        self.state().counters.reads += 1;
        if let Some(read) = self.copy_for(policy, &record, session).await {
            return Ok(read);
        }
        if let Some(site) = self.behind(session) {
            let member = self.env.network().peers().iter().any(|peer| peer.site == site);
            return Err(if member {
                SessionError::SiteBehind { site }
            } else {
                SessionError::NoSuchSite { site }
            });
        }
        let Latest { read, seq, owed } = self.read_latest(policy, &record).await?;
        let history = read.context.clone().unwrap_or_default();
        let mut lacking: Vec<Dot> =
            session.owed(&record).filter(|dot| !history.covers_dot(*dot)).collect();
        if !lacking.is_empty() {
            let state = self.state();
            lacking.retain(|dot| !state.reaping.is_reaped(&record.dataset, *dot));
        }
        if let Some(dot) = lacking.first() {
            return Err(SessionError::NotHereYet { dot: *dot });
        }
        session.saw(self.site(), seq);
        match owed {
            Some(dot) => session.saw_owed(&record, dot),
            None => session.confirmed(&record, &history),
        }
        Ok(read)
    }

    /// A site of which the session has seen more than is known to have come here.
    fn behind(&self, session: &Session) -> Option<SiteId> {
        let here = self.site();
        let mut others = session.seen.iter().filter(|(site, _)| **site != here);
        let behind = others.find(|(site, seen)| self.seen_through(**site) < **seen);
        behind.map(|(site, _)| *site)
    }

    /// A copy that may answer a session.
    async fn copy_for(
        &self,
        policy: &Dataset,
        record: &RecordId,
        session: &mut Session,
    ) -> Option<Read> {
        let known = {
            let seen = session.seen.get(&self.site()).copied().unwrap_or_default();
            let state = self.state();
            // What somebody wrote past every coordinator is seen before it is a version.
            let looked_for = state.slots.get(record).is_some_and(|slot| slot.look);
            if state.ledger.seen_through() < seen || looked_for {
                return None;
            }
            state.ledger.known(record)?
        };
        if self.behind(session).is_some() {
            return None;
        }
        let version = known.version?;
        let lacks_own = session.owed(record).any(|dot| !version.history.covers_dot(dot));
        if version.current().deleted || lacks_own || self.own(record).is_some() {
            return None;
        }
        for store in [StoreId::Kv, StoreId::R2] {
            let admits = self.state().admits(store);
            if policy.projection(store).is_none() || !admits || self.owes(record, store) {
                continue;
            }
            if let Ok(Copied::Whole(read)) = self.copy(policy, record, store).await
                && read.context.as_ref() == Some(&version.history)
            {
                session.saw(self.site(), known.seq);
                return Some(read);
            }
        }
        None
    }

    /// Where a write's change stands in the authority's feed, if it is known to be there.
    pub(super) fn installed_at(&self, record: &RecordId, dot: Dot) -> Option<Seq> {
        self.state().ledger.holds(record, dot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, NodeId};

    #[test]
    fn a_token_survives_its_text() {
        let actor = Actor { node: NodeId(2), incarnation: 7 };
        assert_eq!(Session::default().to_string().parse(), Ok(Session::default()));
        let seen = BTreeMap::from([(SiteId(0), Seq(41)), (SiteId(3), Seq(7))]);
        let mut session = Session { seen, writes: Vec::new() };
        assert_eq!(session.to_string(), "0:41;3:7");
        assert_eq!(session.to_string().parse(), Ok(session.clone()));
        let record = RecordId { dataset: "d".into(), key: "k".into() };
        for counter in 1..=70 {
            session.saw_owed(&record, Dot { actor, counter });
        }
        assert_eq!(session.writes.len(), WRITES_MAX);
        assert_eq!(session.to_string().parse(), Ok(session));
        for wrong in ["", "x", "1", "0:1,2", "0:1,zz:2.7.1", "-1", "0:1;;1:1"] {
            assert!(wrong.parse::<Session>().is_err(), "{wrong}");
        }
    }
}
