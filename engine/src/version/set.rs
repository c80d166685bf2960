//! Versions of several values: what stays, what goes, and what is shown of them.
//!
//! ```text
//! join: a value stays when both sides have it, or when the other side has never seen it
//!
//! history  {A:3, B:2}      siblings  A:3 over {A:1, B:1}      what its writer had read
//!                                    B:2 over {A:1, B:1}
//!                          shown     what the policy makes of the two
//! ```
//!
//! Invariant: the set is the join of those that met, whatever the order, and no policy takes anything
//! out of it: a value leaves when a write over it arrives (rule V4), or when the authority does
//! not take it and somebody writes beside it. What a value was written over is
//! kept with it, since only that tells which version two of them have in common; the join's history,
//! which both share, does not.

use super::{Dot, Sibling, Version, VersionVector};
use serde::de::{Error, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// What a version of several values has beside them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Apart {
    /// What each value was written over, in the values' order.
    over: Vec<VersionVector>,
    pub(super) shown: Sibling,
    basis: Basis,
}

/// Where the value that is shown comes from. The greater one stands where the same set was settled
/// twice, once with less at hand (rule V5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Nobody has settled the set yet: the last writer's is shown.
    Unsettled,
    /// It is one of the set.
    Chosen,
    /// It was merged, and what the values had started from was not known.
    TwoWay,
    /// It was merged over what the values had started from.
    ThreeWay,
}

impl Version {
    /// A write whose writer had read `context` and nothing else of what is known: what that does not
    /// cover stays beside it.
    pub fn write_beside(known: &Version, context: &VersionVector, sibling: Sibling) -> Self {
        let mut history = known.history.clone();
        history.include(sibling.dot);
        let unseen = known.sides().filter(|(value, _)| !context.covers_dot(value.dot));
        let unseen = unseen.map(|(value, over)| (*value, over.clone()));
        Version::of(history, unseen.chain([(sibling, context.clone())]).collect())
    }

    /// Each value, and what it was written over. A value that is alone has superseded all that its
    /// version includes.
    pub fn sides(&self) -> impl Iterator<Item = (&Sibling, &VersionVector)> {
        let over = |at: usize| self.apart.as_ref().map_or(&self.history, |apart| &apart.over[at]);
        self.siblings.iter().enumerate().map(move |(at, sibling)| (sibling, over(at)))
    }

    /// True when there are several values.
    pub fn is_apart(&self) -> bool {
        self.apart.is_some()
    }

    /// Where what is shown comes from.
    pub fn basis(&self) -> Basis {
        self.apart.as_ref().map_or(Basis::Chosen, |apart| apart.basis)
    }

    /// The value of the set that is shown; `None`: what is shown was made of several.
    pub fn chosen(&self) -> Option<&Sibling> {
        let shown = self.current();
        self.siblings.iter().find(|sibling| *sibling == shown)
    }

    /// The join of two dotted version vector sets (rule V4), not settled.
    pub fn join(&self, other: &Self) -> Self {
        let mut sides: Vec<(Sibling, VersionVector)> = Vec::with_capacity(2);
        for (mine, theirs) in [(self, other), (other, self)] {
            for (sibling, over) in mine.sides() {
                let beside = theirs.sides().find(|(other, _)| other.dot == sibling.dot);
                match beside {
                    // Of two of one write the one whose time has passed stays, over what both had seen.
                    Some((other, also)) => {
                        let ended = if other.is_expired_form() { other } else { sibling };
                        sides.push((*ended, over.meet(also)));
                    }
                    None if theirs.history.covers_dot(sibling.dot) => {}
                    None => sides.push((*sibling, over.clone())),
                }
            }
        }
        Version::of(self.history.join(&other.history), sides)
    }

    /// The same values, of which this is shown.
    pub fn showing(&self, shown: Sibling, basis: Basis) -> Self {
        debug_assert!(self.siblings.iter().any(|sibling| sibling.dot == shown.dot));
        match &self.apart {
            Some(apart) => {
                let apart = Apart { over: apart.over.clone(), shown, basis };
                Version { apart: Some(Arc::new(apart)), ..self.clone() }
            }
            None => self.clone(),
        }
    }

    /// The same values, of which the current one alone is kept.
    pub fn collapsed(&self) -> Self {
        Version::settled(self.history.clone(), *self.current())
    }

    /// The same without some of its values, as if what is left had been written over those. Unless nothing
    /// would be left.
    pub fn without(&self, dots: &[Dot]) -> Self {
        let sides = self.sides().filter(|(sibling, _)| !dots.contains(&sibling.dot));
        let sides: Vec<_> = sides.map(|(sibling, over)| (*sibling, over.clone())).collect();
        if sides.is_empty() || sides.len() == self.siblings.len() {
            return self.clone();
        }
        Version::of(self.history.clone(), sides)
    }

    /// The same values in a longer history.
    pub fn including(&self, history: &VersionVector) -> Self {
        Version { history: self.history.join(history), ..self.clone() }
    }

    /// True when nothing of the other is missing here: it includes all its writes and, where the two
    /// are one set that was settled twice, what is shown here is what stays. Of two such the one stays that
    /// lacks values of the other: an authority does not take those (their join lacks them too).
    pub fn includes(&self, other: &Self) -> bool {
        match self.compare(other) {
            Some(Ordering::Greater) => true,
            Some(Ordering::Equal) => match (self.is_part_of(other), other.is_part_of(self)) {
                (true, false) => true,
                (false, true) => false,
                (true, true) | (false, false) => {
                    !(self.is_apart() && other.is_apart()) || self.rank() >= other.rank()
                }
            },
            Some(Ordering::Less) | None => false,
        }
    }

    /// True when each value is one of the other's.
    fn is_part_of(&self, other: &Self) -> bool {
        let theirs = |sibling: &Sibling| other.siblings.iter().any(|own| own.dot == sibling.dot);
        self.siblings.iter().all(theirs)
    }

    fn rank(&self) -> (Basis, [u8; 32]) {
        (self.basis(), self.current().hash.0)
    }

    fn of(history: VersionVector, mut sides: Vec<(Sibling, VersionVector)>) -> Self {
        sides.sort_by_key(|(sibling, _)| sibling.dot);
        sides.dedup_by_key(|(sibling, _)| sibling.dot);
        let (siblings, over): (Vec<Sibling>, Vec<VersionVector>) = sides.into_iter().unzip();
        let latest = siblings.iter().max_by_key(|sibling| (sibling.stamp, sibling.dot));
        let shown = *latest.expect("the newest writes of a join are superseded by nobody");
        let apart =
            (siblings.len() > 1).then(|| Arc::new(Apart { over, shown, basis: Basis::Unsettled }));
        Version { history, siblings: siblings.into(), apart }
    }

    fn checked(
        history: VersionVector,
        siblings: Vec<Sibling>,
        apart: Option<Apart>,
    ) -> Result<Self, &'static str> {
        if siblings.is_empty() {
            return Err("a version has at least one value");
        }
        if !siblings.is_sorted_by(|a, b| a.dot < b.dot) {
            return Err("a version's values stand in the order of their dots");
        }
        if !siblings.iter().all(|sibling| history.covers_dot(sibling.dot)) {
            return Err("a version's history covers its values");
        }
        match &apart {
            None if siblings.len() > 1 => {
                return Err("a version of several values says what each was written over");
            }
            Some(apart)
                if siblings.len() == 1
                    || apart.over.len() != siblings.len()
                    || !siblings.iter().any(|sibling| sibling.dot == apart.shown.dot) =>
            {
                return Err("what a version says of its values is of them");
            }
            None | Some(_) => {}
        }
        Ok(Version { history, siblings: siblings.into(), apart: apart.map(Arc::new) })
    }
}

/// As text: rows in D1.
#[derive(Serialize, Deserialize)]
struct Text<H, S, A> {
    history: H,
    siblings: S,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    apart: Option<A>,
}

fn none<A>() -> Option<A> {
    None
}

/// As bytes, a version of one value is what it was before there could be several, so journals of that
/// time are read as they are.
impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Version { history, siblings, apart } = self;
        if serializer.is_human_readable() {
            return Text { history, siblings, apart: apart.as_ref() }.serialize(serializer);
        }
        let mut tuple = serializer.serialize_tuple(if apart.is_some() { 3 } else { 2 })?;
        tuple.serialize_element(history)?;
        tuple.serialize_element(siblings)?;
        if let Some(apart) = apart {
            tuple.serialize_element(&**apart)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let Text { history, siblings, apart } =
                Text::<VersionVector, Vec<Sibling>, Apart>::deserialize(deserializer)?;
            return Version::checked(history, siblings, apart).map_err(D::Error::custom);
        }
        deserializer.deserialize_tuple(3, Compact)
    }
}

struct Compact;

impl<'de> Visitor<'de> for Compact {
    type Value = Version;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a version")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Version, A::Error> {
        let ends = || A::Error::custom("a version ends early");
        let history: VersionVector = seq.next_element()?.ok_or_else(ends)?;
        let siblings: Vec<Sibling> = seq.next_element()?.ok_or_else(ends)?;
        let apart = if siblings.len() > 1 {
            Some(seq.next_element::<Apart>()?.ok_or_else(ends)?)
        } else {
            None
        };
        Version::checked(history, siblings, apart).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, ContentHash, Dot, NodeId, Stamp};
    use proptest::prelude::*;

    fn sibling(node: u16, counter: u64, wall_ms: u64) -> Sibling {
        let dot = Dot { actor: Actor { node: NodeId(node), incarnation: 7 }, counter };
        let hash = ContentHash::of(&[u8::try_from(node).unwrap(), u8::try_from(counter).unwrap()]);
        let stamp = Stamp { wall_ms, logical: 0 };
        Sibling { dot, stamp, hash, bytes: 2, deleted: false, expires_at_ms: None }
    }

    fn dots(version: &Version) -> Vec<(u16, u64)> {
        let each = version.siblings().iter().map(|sibling| sibling.dot);
        each.map(|dot| (dot.actor.node.0, dot.counter)).collect()
    }

    /// Writes at several replicas that meet at random: at each step one writes, over all that it has
    /// or over what some reader had seen before, or takes in what another has.
    fn run(steps: &[(usize, u8, usize)]) -> Vec<Version> {
        let mut replicas: Vec<Option<Version>> = vec![None; 4];
        let mut read: Vec<VersionVector> = vec![VersionVector::new()];
        for (at, (replica, act, other)) in steps.iter().enumerate() {
            let wall_ms = 1_000 + at as u64;
            let new = sibling(u16::try_from(*replica).unwrap(), at as u64 + 1, wall_ms);
            let here = replicas[*replica].clone();
            let seen = read[other * 7 % read.len()].clone();
            replicas[*replica] = match (act, here) {
                (0..=2, None) => Some(Version::write(&VersionVector::new(), new)),
                (0 | 1, Some(here)) => Some(Version::write(&here.history, new)),
                (2, Some(here)) if here.history.covers(&seen) => {
                    Some(Version::write_beside(&here, &seen, new))
                }
                (_, here) => match (here, replicas[*other].clone()) {
                    (Some(here), Some(there)) => Some(here.join(&there)),
                    (here, there) => here.or(there),
                },
            };
            read.extend(replicas[*replica].as_ref().map(|version| version.history.clone()));
        }
        replicas.into_iter().flatten().collect()
    }

    #[test]
    fn a_write_with_an_old_context_stands_beside_what_it_had_not_seen() {
        let first = Version::write(&VersionVector::new(), sibling(1, 1, 10));
        let second = Version::write(&first.history, sibling(1, 2, 20));
        let late = Version::write_beside(&second, &first.history, sibling(1, 3, 30));
        assert_eq!(dots(&late), [(1, 2), (1, 3)]);
        let over: Vec<&VersionVector> = late.sides().map(|(_, over)| over).collect();
        assert_eq!(over, [&second.history, &first.history]);
        assert_eq!(over[0].meet(over[1]), first.history, "what the two have in common");
        // Who has the first of the two alone does not take it for superseded.
        assert_eq!(dots(&late.join(&second)), [(1, 2), (1, 3)]);
        assert_eq!(second.compare(&late), Some(Ordering::Less));
        // And a context that has seen both supersedes both.
        let all = Version::write_beside(&late, &late.history, sibling(1, 4, 40));
        assert_eq!(dots(&all), [(1, 4)]);
        assert!(!all.is_apart());
    }

    #[test]
    fn what_is_left_out_of_a_set_stays_out_wherever_it_is_met_again() {
        let refused = Version::write(&VersionVector::new(), sibling(1, 1, 10));
        let set = Version::write_beside(&refused, &VersionVector::new(), sibling(2, 1, 20));
        let rest = set.without(&[refused.current().dot]);
        assert_eq!((dots(&rest), &rest.history), (vec![(2, 1)], &set.history));
        for other in [&refused, &set] {
            assert_eq!(dots(&rest.join(other)), [(2, 1)]);
            assert_eq!(dots(&other.join(&rest)), [(2, 1)]);
        }
        assert!(
            rest.includes(&set) && !set.includes(&rest),
            "one history, and it stands at every site"
        );
        let all: Vec<Dot> = set.siblings().iter().map(|sibling| sibling.dot).collect();
        assert_eq!(set.without(&all), set, "something is shown");
    }

    #[test]
    fn of_one_set_settled_twice_the_better_founded_stays() {
        let (a, b) = (sibling(1, 1, 10), sibling(2, 1, 20));
        let set = Version::write(&VersionVector::new(), a)
            .join(&Version::write(&VersionVector::new(), b));
        let shown = |n: u64| Sibling { hash: sibling(9, n, 1).hash, ..b };
        let two = set.showing(shown(1), Basis::TwoWay);
        let three = set.showing(shown(2), Basis::ThreeWay);
        assert!(three.includes(&two) && !two.includes(&three) && two.includes(&two));
        assert_eq!(three.current().hash, shown(2).hash);
        assert!(three.chosen().is_none() && set.chosen() == Some(&b));
        assert_ne!(three.id(), two.id());
    }

    #[test]
    fn bytes_of_one_value_are_those_of_before_there_could_be_several() {
        let one = Version::write(&VersionVector::new(), sibling(1, 1, 10));
        let two = one.join(&Version::write(&VersionVector::new(), sibling(2, 1, 20)));
        let before = postcard::to_stdvec(&(&one.history, vec![*one.current()])).unwrap();
        assert_eq!(postcard::to_stdvec(&one).unwrap(), before);
        for version in [one, two] {
            // What follows is read as well: nothing more is taken, and nothing less.
            let bytes = postcard::to_stdvec(&(&version, 7_u8, &version)).unwrap();
            let read: (Version, u8, Version) = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(read, (version.clone(), 7, version.clone()));
            let text = serde_json::to_string(&version).unwrap();
            assert_eq!(serde_json::from_str::<Version>(&text).unwrap(), version);
            assert_eq!(text.contains("apart"), version.is_apart());
        }
    }

    proptest! {
        #[test]
        fn meeting_in_any_order_makes_one_set(
            steps in proptest::collection::vec((0usize..4, 0u8..5, 0usize..4), 1..24),
        ) {
            let versions = run(&steps);
            let fold = |order: &mut dyn Iterator<Item = &Version>| {
                order.cloned().reduce(|a, b| a.join(&b))
            };
            let forward = fold(&mut versions.iter());
            prop_assert_eq!(&forward, &fold(&mut versions.iter().rev()));
            for (a, b) in versions.iter().zip(versions.iter().skip(1)) {
                prop_assert_eq!(a.join(b), b.join(a));
                prop_assert_eq!(a.join(b).join(a), a.join(b));
                // One that covers another has all that is left of it.
                if a.compare(b) == Some(Ordering::Greater) {
                    prop_assert_eq!(&a.join(b), a);
                }
            }
        }
    }
}
