//! What projections hold, and how long a copy differs from what it should be.

use super::{Awaited, Checker, Invariant, Observed, PROJECTIONS, Told, Wait, at, note_wait};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidelock_engine::record::{RecordId, StoreId};
use tidelock_engine::version::{ContentHash, NodeId, SiteId, VersionVector};

/// A copy in a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub(super) body: ContentHash,
    /// What the copy says of itself; `None`: nothing that can be read.
    pub(super) says: Option<Arc<Says>>,
}

/// A copy's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Says {
    pub(super) version: Names,
    pub(super) hash: ContentHash,
    pub(super) reference: bool,
}

/// How a copy names its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Names {
    History(String),
    /// The history is too large for the store.
    Tag(String),
}

impl Copy {
    /// Bytes that are nobody's version: they equal none.
    pub fn unknown() -> Copy {
        Copy { body: ContentHash::of(b"bytes without metadata"), says: None }
    }

    /// What stands in a store; `None`: bytes without our metadata.
    pub(super) fn read(body: &[u8], metadata: Option<&str>) -> Option<Copy> {
        let read: Metadata = serde_json::from_str(metadata?).ok()?;
        let version = match (read.history, read.etag) {
            (Some(history), _) => Names::History(history.to_owned()),
            (None, etag) => Names::Tag(etag?.to_owned()),
        };
        let says = Says { version, hash: read.hash.parse().ok()?, reference: read.reference };
        Some(Copy { body: ContentHash::of(body), says: Some(Arc::new(says)) })
    }
}

/// The metadata of a copy, by the checker's own reading.
#[derive(serde::Deserialize)]
struct Metadata<'a> {
    history: Option<&'a str>,
    etag: Option<&'a str>,
    hash: &'a str,
    #[serde(default)]
    reference: bool,
}

#[derive(Debug, Default)]
pub(super) struct Projection {
    /// It has a mark.
    pub(super) owed: bool,
    pub(super) copy: Option<Copy>,
    /// It differs from the authority, since the version that it lacks was installed, or since the
    /// copy changed.
    pub(super) unequal_since_ms: Option<u64>,
    /// It differs because somebody changed it behind every coordinator's back: nobody can know
    /// before a look over the store, so no stopwatch runs.
    pub(super) damaged: Option<Damaged>,
    /// The store has refused the authority's version for good: no clock runs.
    pub(super) poisoned: bool,
}

/// What was done to a copy behind every coordinator's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is gone.
    Lost,
    /// Somebody wrote over it; the operation says what.
    Foreign(u32),
}

#[derive(Clone, Debug)]
pub(super) struct Damaged {
    pub(super) what: Damage,
    /// The authority's history at that time.
    pub(super) history: VersionVector,
    /// A put was lawfully on its way, or another damage was being mended.
    pub(super) unseen: bool,
}

/// What is equal and what is not, over all records.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How many projections differ from the authority.
    pub(super) unequal: usize,
    /// How many differ because they were damaged.
    pub(super) damaged: usize,
    /// What was unsettled for long.
    pub(super) waits: Vec<Wait>,
    /// Datasets of which a store keeps references only.
    pub(super) references: BTreeMap<StoreId, BTreeSet<String>>,
    /// A store that never answers again: nothing is expected of it.
    pub(super) outside: BTreeSet<StoreId>,
    /// The coordinators are told of other forms meanwhile: until the end both are as good.
    pub(super) forms_change: bool,
    /// What each has been told since: datasets of which KV keeps references.
    pub(super) told_forms: BTreeMap<NodeId, BTreeSet<String>>,
}

impl Observed {
    fn says(&self, store: StoreId) -> Option<&Says> {
        self.projections[at(store)].copy.as_ref()?.says.as_deref()
    }
}

impl Tally {
    /// Holds a projection's copy against the authority's version; tells whether they are equal.
    pub(super) fn compare(
        &mut self,
        at_ms: u64,
        site: SiteId,
        record: &RecordId,
        observed: &mut Observed,
        store: StoreId,
    ) -> bool {
        let equal = self.equal(record, observed, store);
        let of = || Awaited::Copy(site, store, record.clone());
        self.set(at_ms, &mut observed.projections[at(store)], equal, of);
        equal
    }

    pub(super) fn equal(&self, record: &RecordId, observed: &Observed, store: StoreId) -> bool {
        if self.outside.contains(&store) {
            return true;
        }
        let copy = observed.projections[at(store)].copy.as_ref();
        match (observed.current, observed.deleted, copy) {
            (None, _, None) | (Some(_), true, None) => true,
            (None, _, Some(_)) | (Some(_), true, Some(_)) | (Some(_), false, None) => false,
            (Some(_), false, Some(Copy { says: None, .. })) => false,
            (Some(_), false, Some(Copy { body, says: Some(says) })) => {
                let hash = observed.hash.expect("set together with the current dot");
                let referred =
                    if self.forms_change { says.reference } else { self.refers(record, store) };
                let same_version = match &says.version {
                    Names::History(history) => *history == observed.history_text,
                    Names::Tag(tag) => observed.version.as_ref().is_some_and(|v| v.etag() == *tag),
                };
                let whole = !says.reference && *body == hash;
                same_version
                    && says.hash == hash
                    && (says.reference == referred)
                    && (referred || whole)
            }
        }
    }

    /// True when a store is to keep references to a dataset's values.
    pub(super) fn refers(&self, record: &RecordId, store: StoreId) -> bool {
        let datasets = self.references.get(&store);
        datasets.is_some_and(|names| names.contains(&*record.dataset))
    }

    /// True when some coordinator has been told of another form than a copy has.
    pub(super) fn is_to_be_reformed(
        &self,
        record: &RecordId,
        observed: &Observed,
        store: StoreId,
    ) -> bool {
        let Some(says) = observed.says(store) else { return false };
        let differs = |names: &BTreeSet<String>| names.contains(&*record.dataset) != says.reference;
        store == StoreId::Kv && self.told_forms.values().any(differs)
    }

    /// True when a copy has not the form that its store is to keep it in at the end.
    pub(super) fn is_in_former_form(
        &self,
        record: &RecordId,
        observed: &Observed,
        store: StoreId,
    ) -> bool {
        self.forms_change
            && !self.outside.contains(&store)
            && !observed.projections[at(store)].poisoned
            && observed.says(store).is_some_and(|says| says.reference != self.refers(record, store))
    }

    /// A copy is no longer what the damage made of it.
    pub(super) fn mended(&mut self, projection: &mut Projection) -> Option<Damaged> {
        let damaged = projection.damaged.take();
        self.damaged -= usize::from(damaged.is_some());
        damaged
    }

    /// A projection equals the authority from now on, or differs from it.
    pub(super) fn set(
        &mut self,
        at_ms: u64,
        projection: &mut Projection,
        equal: bool,
        of: impl FnOnce() -> Awaited,
    ) {
        match (equal, projection.unequal_since_ms) {
            (true, None) | (false, Some(_)) => {}
            (false, None) => {
                projection.unequal_since_ms = Some(at_ms);
                self.unequal += usize::from(!projection.poisoned);
            }
            (true, Some(_)) if projection.poisoned => {
                projection.unequal_since_ms = None;
                projection.poisoned = false;
            }
            (true, Some(since_ms)) => {
                projection.unequal_since_ms = None;
                self.unequal -= 1;
                note_wait(&mut self.waits, since_ms, at_ms, of);
            }
        }
    }
}

impl Checker {
    /// A projection's copy of a record changed: its bytes and metadata; `None`: it is gone.
    pub fn copy_changed(
        &mut self,
        at_ms: u64,
        site: SiteId,
        record: &RecordId,
        store: StoreId,
        stands: Option<(&Bytes, Option<&str>)>,
    ) {
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.entry(record.clone()).or_default();
        let copy = stands.map(|(body, metadata)| observed.read(body, metadata));
        let whole = copy.as_ref().filter(|copy| copy.says.as_ref().is_some_and(|s| !s.reference));
        let traced = whole.is_none_or(|copy| self.wrote(record, copy.body));
        self.hold(Invariant::NoCorruption, at_ms, traced, || {
            format!("bytes that nobody wrote to {record} were put to {store}")
        });
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.get_mut(record).expect("entered above");
        let projection = &mut observed.projections[at(store)];
        projection.copy = copy;
        let marked = projection.owed;
        let damaged = self.tally.mended(projection);
        let equal = self.tally.compare(at_ms, site, record, observed, store);
        // What was refused in one form may be taken in another.
        observed.projections[at(store)].poisoned &= !equal;
        let overwritten = match damaged {
            Some(Damaged { what: Damage::Foreign(id), unseen: false, history, .. })
                if history == observed.history =>
            {
                Some(id)
            }
            _ => None,
        };
        self.hold(Invariant::MonotonicRepair, at_ms, marked || equal, || {
            format!("a put of {record} landed at {store} after its mark was cleared, and differs")
        });
        self.hold(Invariant::ZeroLoss, at_ms, overwritten.is_none(), || {
            format!(
                "w{} of {record}, written to {store} past us, was put over by the version that \
                 it had replaced",
                overwritten.unwrap_or_default()
            )
        });
    }

    /// A copy was changed behind every coordinator's back.
    pub fn damaged(
        &mut self,
        site: SiteId,
        record: &RecordId,
        store: StoreId,
        copy: Option<Copy>,
        what: Damage,
    ) {
        if let Damage::Foreign(id) = what
            && let Some(asked) = self.asked.get_mut(&id)
        {
            // Nobody promised its writer anything.
            asked.told = Told::Unknown;
            self.in_projections.insert(id);
        }
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.entry(record.clone()).or_default();
        let history = observed.history.clone();
        let former = self.tally.is_to_be_reformed(record, observed, store);
        let projection = &mut observed.projections[at(store)];
        projection.copy = copy;
        // What was to be mended anyway may be put over: its last look was before this.
        let again = self.tally.mended(projection).is_some() || former;
        if projection.unequal_since_ms.is_some() {
            // A put is owed anyway, lawfully lands over this, and its clock runs.
            return;
        }
        let unseen = again || projection.owed;
        if self.tally.equal(record, observed, store) {
            // It undid a damage that nobody has seen.
            return;
        }
        let projection = &mut observed.projections[at(store)];
        projection.damaged = Some(Damaged { what, history, unseen });
        self.tally.damaged += 1;
    }

    /// True while some copy is damaged.
    pub fn is_damaged(&self) -> bool {
        self.tally.damaged > 0
    }

    /// A projection refused a value for good, as it always will.
    pub fn refused_for_good(
        &mut self,
        at_ms: u64,
        site: SiteId,
        store: StoreId,
        record: &RecordId,
        value: &[u8],
    ) {
        // A copy in a former form is as good as equal meanwhile, and is refused in the other one.
        let hash = ContentHash::of(value);
        if let Some(observed) = self.rows[usize::from(site.0)].get_mut(record)
            && observed.hash == Some(hash)
        {
            let projection = &mut observed.projections[at(store)];
            let newly = !std::mem::replace(&mut projection.poisoned, true);
            self.tally.unequal -= usize::from(newly && projection.unequal_since_ms.is_some());
            // A look has found the damage, and nothing that its store takes mends it.
            if self.tally.mended(projection).is_some() {
                self.tally.compare(at_ms, site, record, observed, store);
            }
        }
    }

    /// True when a store refuses what the authority holds of a record.
    pub fn is_refused(&self, site: SiteId, record: &RecordId, store: StoreId) -> bool {
        self.row(site, record).is_some_and(|row| row.projections[at(store)].poisoned)
    }

    /// A coordinator was told of which datasets KV keeps references from now on.
    pub fn told_forms(&mut self, node: NodeId, references: BTreeSet<String>) {
        self.tally.told_forms.insert(node, references);
    }

    /// True while some copy has a form that its store is not to keep it in any more.
    pub fn is_in_former_form(&self) -> bool {
        self.in_former_form().next().is_some()
    }

    pub(super) fn in_former_form(&self) -> impl Iterator<Item = String> {
        self.rows.iter().flatten().flat_map(|(record, row)| {
            let stores = PROJECTIONS.into_iter();
            let former = stores.filter(|s| self.tally.is_in_former_form(record, row, *s));
            former.map(move |store| format!("{record} at {store}"))
        })
    }
}
