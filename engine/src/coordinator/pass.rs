//! Passes: what a look over a store showed, and whether it may be acted on.
//!
//! Invariant: a plan that would delete or rewrite much, or that rests on a listing which cannot be
//! right, is held until an operator approves it. Whether it is held is decided from what the look saw
//! alone, so that a restart does not forget it; but for strangers under a prefix that was just added,
//! of which only the coordinator that was told of it knows that they were there before.

use super::State;
use crate::env::Unavailable;
use crate::record::StoreId;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// A pass over fewer records than this is never held by a brake.
const BRAKE_RECORDS_MIN: usize = 20;
/// A pass that finds less than one copy in so many is held: as good as none.
const BRAKE_LISTED_ONE_IN: usize = 20;
/// A pass that would delete more than one record in so many is held.
const BRAKE_DELETES_ONE_IN: usize = 4;

/// What a look is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Some of what has changed since the last look over everything.
    Recent,
    /// Everything that the store lists.
    Everything,
}

/// What a look over a store showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pass {
    /// Which dataset.
    pub dataset: String,
    /// Where.
    pub store: StoreId,
    /// What it was over.
    pub over: Over,
    /// Copies and records that were held against each other.
    pub compared: usize,
    /// Copies that this coordinator is bringing up to date anyway.
    pub pending: usize,
    /// Pages of the listing that it took.
    pub pages: usize,
    /// Copies that were read one by one for it.
    pub reads: usize,
    /// Copies that differ from the authority.
    pub differing: usize,
    /// Some of their keys.
    pub keys: Vec<String>,
    /// Billed operations that mending all of them takes, the second look included.
    pub predicted: Billed,
    /// Why nothing is done about them.
    pub held: Option<Brake>,
}

/// Operations that the services charge for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Billed {
    /// Pages of a listing.
    pub lists: usize,
    /// Values read from the store.
    pub gets: usize,
    /// Copies put or deleted.
    pub puts: usize,
    /// Rows written in D1: a mark set and a mark cleared for each put, and what is taken in.
    pub rows: usize,
}

impl Pass {
    /// True when the store holds what the authority does.
    pub fn is_clean(&self) -> bool {
        self.differing == 0 && self.pending == 0
    }
}

/// Why a look over a store could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassError {
    /// No such dataset, or it is not kept in that store beside the authority.
    NotKept,
    /// The authority's records are not all known yet.
    Incomplete,
    /// The store does not answer.
    Unavailable(Unavailable),
}

impl From<Unavailable> for PassError {
    fn from(unavailable: Unavailable) -> Self {
        PassError::Unavailable(unavailable)
    }
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassError::NotKept => f.write_str("the dataset is not kept there beside its authority"),
            PassError::Incomplete => {
                f.write_str("the authority's records are still being read; try again")
            }
            PassError::Unavailable(unavailable) => unavailable.fmt(f),
        }
    }
}

impl std::error::Error for PassError {}

/// What an operator lets a pass do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Look, and change nothing.
    Look,
    /// Mend what differs, unless the plan looks wrong.
    Mend,
    /// Mend what differs, however the plan looks.
    MendAll,
}

/// Why a pass changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Brake {
    /// The listing is empty or nearly so, and should not be.
    EmptyListing,
    /// Too many records would be deleted.
    MassDelete,
    /// What is kept there was changed: too many copies would be written anew in another form, or too
    /// many keys that stood under an added prefix would become records.
    ChangedFilter,
}

/// What a look has counted so far, of which the brakes judge. It may end before the listing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) listed: usize,
    /// Records that exist, among those that were compared.
    pub(super) live: usize,
    /// Copies of records that are deleted.
    pub(super) deletes: usize,
    /// Copies of the right version in another form than they are kept in.
    pub(super) reformed: usize,
    /// Copies of records that are not there.
    pub(super) strangers: usize,
}

/// What is known of a projection beside what a look shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// A reload added it or changed what it keeps, and no look over it has been clean since.
    Changed,
    /// The same, and an operator has approved of what that makes.
    Approved,
}

impl Seen {
    pub(super) fn brake(&self, expected: Expected) -> Option<Brake> {
        let Expected { filter, filling } = expected;
        if !filling
            && self.live >= BRAKE_RECORDS_MIN
            && self.listed * BRAKE_LISTED_ONE_IN < self.live
        {
            return Some(Brake::EmptyListing);
        }
        let many =
            |count: usize| count >= BRAKE_RECORDS_MIN && count * BRAKE_DELETES_ONE_IN > self.listed;
        if many(self.deletes) {
            return Some(Brake::MassDelete);
        }
        let changed = match filter {
            None => many(self.reformed),
            Some(Filter::Changed) => many(self.reformed) || many(self.strangers),
            Some(Filter::Approved) => false,
        };
        changed.then_some(Brake::ChangedFilter)
    }
}

/// What a look over a projection may well show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) filter: Option<Filter>,
    /// It is being filled: it is known why there is next to nothing.
    pub(super) filling: bool,
}

impl State {
    pub(super) fn expected(&self, place: &(Arc<str>, StoreId)) -> Expected {
        let filter = self.filters.get(place).copied();
        Expected { filter, filling: self.to_fill.contains(place) }
    }

    /// An operator approves of what is held. Where the filter was changed that holds until a look is
    /// clean, since one look need not get to the end of it.
    pub(super) fn approve(&mut self, place: &(Arc<str>, StoreId)) {
        let pass = self.passes.get(&(place.0.clone(), place.1, Over::Everything));
        let held = pass.is_some_and(|pass| pass.held == Some(Brake::ChangedFilter));
        if held || self.filters.contains_key(place) {
            self.filters.insert(place.clone(), Filter::Approved);
            self.to_fill.insert(place.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Expected = Expected { filter: None, filling: false };

    #[test]
    fn brakes() {
        let brake =
            |live, listed, deletes| Seen { live, listed, deletes, ..Seen::default() }.brake(USUAL);
        assert_eq!(brake(1_000, 0, 0), Some(Brake::EmptyListing));
        assert_eq!(brake(1_000, 49, 0), Some(Brake::EmptyListing));
        assert_eq!(brake(1_000, 50, 0), None);
        assert_eq!(brake(19, 0, 0), None, "too few to tell");
        assert_eq!(brake(1_000, 1_000, 251), Some(Brake::MassDelete));
        assert_eq!(brake(1_000, 1_000, 250), None);
        assert_eq!(brake(0, 19, 19), None, "too few to tell");
        let filling = Expected { filling: true, ..USUAL };
        assert_eq!(Seen { live: 1_000, ..Seen::default() }.brake(filling), None);
    }

    #[test]
    fn a_changed_filter_is_held_until_it_is_approved() {
        let seen = |reformed, strangers| Seen {
            live: 100,
            listed: 100,
            reformed,
            strangers,
            ..Seen::default()
        };
        let of = |filter| Expected { filter, ..USUAL };
        let (changed, approved) = (of(Some(Filter::Changed)), of(Some(Filter::Approved)));
        let held = Some(Brake::ChangedFilter);
        assert_eq!((seen(26, 0).brake(USUAL), seen(25, 0).brake(USUAL)), (held, None));
        assert_eq!((seen(26, 0).brake(changed), seen(26, 0).brake(approved)), (held, None));
        assert_eq!((seen(0, 26).brake(USUAL), seen(0, 26).brake(changed)), (None, held));
        assert_eq!(seen(0, 26).brake(approved), None);
        let deletes = Seen { deletes: 26, ..seen(0, 0) };
        assert_eq!(deletes.brake(approved), Some(Brake::MassDelete), "that is no part of it");
    }
}
