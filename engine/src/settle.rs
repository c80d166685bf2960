//! What is shown of several values that nobody has superseded.
//!
//! ```text
//! (ruling, set of values, their bytes, what they were written over) -> what is shown, what is kept
//!
//!      v0                 two that were written over v0 are merged over it
//!     /  \
//!    w    y               three that have not one version in common are merged in the order in which
//!   / \   |               they came apart: x and z over w, and what that makes with y over v0
//!  x   z  |
//! ```
//!
//! Invariant: a pure function of the set. Every ruling ranks or merges what nobody has superseded, so
//! it does not matter who meets whom first (rule V4); what a merge lacks, be it the version that the
//! values have in common or the bytes of one of them, makes its result give way to that of whoever had
//! it (rule V5, [`Basis`]).

use crate::audit::Words;
use crate::conflict::By;
use crate::merge::{self, BaseUse, FieldConflict, Merged, Side, Unmergeable, Whose};
use crate::policy::{Conflicts, Dataset, Kind, Ruling, UserRule};
use crate::record::{Loser, RecordId, StoreId, Stored, Written};
use crate::resolve::{self, Held};
use crate::rule::Resolved;
use crate::structured::Schema;
use crate::version::{Basis, Dot, NodeId, Sibling, Stamp, Version, VersionVector};
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What decides, and what the values are.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'p> {
    /// For this record's key.
    pub ruling: &'p Ruling,
    /// How fields are merged, where they are.
    pub conflicts: &'p Conflicts,
    /// What the values are.
    pub kind: Kind,
    /// The columns of a structured dataset, as every row of it is spelled.
    pub schema: Option<&'p Schema>,
    /// The record's key.
    pub key: &'p str,
}

impl<'p> Rules<'p> {
    /// Those for a record of a dataset.
    pub fn of(dataset: &'p Dataset, record: &'p RecordId) -> Self {
        Rules {
            ruling: dataset.conflict.ruling(&record.key),
            conflicts: &dataset.conflict,
            kind: dataset.kind,
            schema: dataset.table.as_ref().and_then(|table| table.schema.as_deref()),
            key: &record.key,
        }
    }
}

/// A set that is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The set, with the bytes of what is shown.
    pub held: Held,
    /// Every value that is not shown as it was written, and whose bytes are at hand: to be made durable
    /// with what is shown (rule V6).
    pub losers: Vec<Loser>,
    /// What decided.
    pub by: By,
    /// Which fields of a merge no declared rule settled, or why a rule gave no answer.
    pub why: Option<Words>,
}

/// What decided of a set that was settled elsewhere, under the same ruling.
pub fn decided(ruling: &Ruling, set: &Version) -> By {
    if !set.is_apart() {
        return By::Lww;
    }
    match (ruling, set.basis()) {
        (Ruling::Merge, Basis::ThreeWay) => By::MergeThreeWay,
        (Ruling::Merge, Basis::TwoWay) => By::MergeTwoWay,
        // Beside deletes alone a value is not merged.
        (Ruling::Merge, Basis::Chosen | Basis::Unsettled) => By::EditWins,
        (Ruling::Rule { rule, .. }, Basis::ThreeWay | Basis::TwoWay) => {
            By::Rule(rule.name().clone())
        }
        (Ruling::Rule { rule, .. }, Basis::Chosen | Basis::Unsettled) => {
            By::RuleFellBack(rule.name().clone())
        }
        (Ruling::Lww, _) => By::Lww,
        (Ruling::KeepSiblings, _) => By::KeepSiblings,
        (Ruling::PreferStore(_), _) => By::PreferStore,
        (Ruling::DeleteWins, _) => By::DeleteWins,
        (Ruling::EditWins, _) => By::EditWins,
    }
}

/// What is known of a set's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    by_dot: BTreeMap<Dot, Stored>,
}

impl Values {
    /// Takes note of a value's bytes, if they are its own: under one dot the value stands that its writer
    /// gave, and where several were merged, what was made of them.
    pub fn note(&mut self, of: &Version, sibling: &Sibling, value: &Stored) {
        if matches!(value, Stored::Erased(_)) {
            return;
        }
        let named = of.siblings().iter().find(|own| own.dot == sibling.dot);
        if named.is_some_and(|own| own.hash == sibling.hash) {
            self.by_dot.entry(sibling.dot).or_insert_with(|| value.clone());
        }
    }

    /// Takes note of what is shown of a version.
    pub fn note_shown(&mut self, of: &Version, held: &Held) {
        self.note(of, held.version.current(), &held.value);
    }

    /// The bytes of a value, if they are at hand. A delete has none.
    fn of(&self, sibling: &Sibling) -> Option<&Stored> {
        if sibling.deleted { Some(&Stored::Tombstone) } else { self.by_dot.get(&sibling.dot) }
    }
}

/// Settles a set of several values. `None`: no bytes of any of them are at hand.
pub fn settle(
    rules: Rules<'_>,
    set: &Version,
    values: &Values,
    writes: &[Written],
) -> Option<Settled> {
    let known: Vec<&Sibling> =
        set.siblings().iter().filter(|sibling| values.of(sibling).is_some()).collect();
    let all = known.len() == set.siblings().len();
    let chosen_as = |by: By, why: Option<Words>, rank: &dyn Fn(&Sibling) -> bool| {
        let of = if all { set.siblings().iter().collect() } else { known.clone() };
        let shown = of.into_iter().max_by_key(|s| (rank(s), s.stamp, s.dot))?;
        let value = values.of(shown)?.clone();
        // What the bytes are missing of could be what is to be shown.
        let basis = if all { Basis::Chosen } else { Basis::Unsettled };
        Some(finish(set, values, *shown, value, basis, by, why))
    };
    let chosen = |by: By, rank: &dyn Fn(&Sibling) -> bool| chosen_as(by, None, rank);
    let by_ruling = decided(rules.ruling, set);
    match rules.ruling {
        Ruling::Lww
        | Ruling::KeepSiblings
        | Ruling::PreferStore(_)
        | Ruling::DeleteWins
        | Ruling::EditWins => chosen(by_ruling, &|sibling| prefers(rules.ruling, sibling)),
        Ruling::Merge => {
            let made = if all { merged(rules, set, values, writes) } else { Err(None) };
            match made {
                Ok((shown, bytes, basis, unresolved)) => {
                    let by = match basis {
                        Basis::ThreeWay => By::MergeThreeWay,
                        Basis::Unsettled | Basis::Chosen | Basis::TwoWay => By::MergeTwoWay,
                    };
                    let value = Stored::Inline(bytes);
                    Some(finish(set, values, shown, value, basis, by, listed(&unresolved)))
                }
                // Deletes beside at most one value: there is nothing to merge.
                Err(None) if all => chosen(By::EditWins, &|sibling| !sibling.deleted),
                Err(why) => {
                    let why = why.map(|why| Words::from(why.to_string()));
                    chosen_as(By::MergeFellBack, why, &|sibling| !sibling.deleted)
                }
            }
        }
        Ruling::Rule { rule, fallback } => {
            let made = if all { ruled(rules, rule, set, values, writes) } else { Err(None) };
            match made {
                Ok((shown, value, basis)) => {
                    let by = By::Rule(rule.name().clone());
                    Some(finish(set, values, shown, value, basis, by, None))
                }
                Err(why) => {
                    if let Some(why) = &why {
                        let (rule, key) = (rule.name(), rules.key);
                        tracing::warn!(%rule, key, %why, "a rule gave no answer: its fallback decides");
                    }
                    let by = By::RuleFellBack(rule.name().clone());
                    let why = why.as_deref().map(Words::from);
                    chosen_as(by, why, &|sibling| prefers(fallback, sibling))
                }
            }
        }
    }
}

/// The same without values that the authority does not take: they are no part of the set any more, and those
/// whose bytes are at hand are kept as losers.
pub fn settle_without(
    rules: Rules<'_>,
    set: &Version,
    refused: &[Dot],
    values: &Values,
    writes: &[Written],
) -> Option<Settled> {
    if refused.is_empty() {
        return settle(rules, set, values, writes);
    }
    let rest = set.without(refused);
    let mut settled = settle(rules, &rest, values, writes)?;
    let winner = settled.held.version.current().dot;
    let refused = set.siblings().iter().filter(|sibling| !rest.siblings().contains(sibling));
    for sibling in refused {
        let problem = format!("D1 does not take {}", sibling.dot);
        let why = settled.why.take().map_or(problem.clone(), |why| format!("{why}; {problem}"));
        settled.why = Some(Words::from(why));
        let value = values.of(sibling).cloned();
        settled.losers.extend(value.map(|value| Loser { sibling: *sibling, value, winner }));
    }
    if !rest.is_apart() {
        settled.by = decided(rules.ruling, set);
    }
    Some(settled)
}

/// The fields that no rule settles, one after another.
fn listed(unresolved: &[FieldConflict]) -> Option<Words> {
    let each: Vec<String> = unresolved.iter().map(FieldConflict::to_string).collect();
    (!each.is_empty()).then(|| each.join("; ").into())
}

/// What a ruling that chooses one of the values puts before the later stamp.
fn prefers(ruling: &Ruling, sibling: &Sibling) -> bool {
    let is_delete = sibling.deleted && !sibling.is_expired_form();
    let is_foreign = sibling.dot.actor.node == NodeId::FOREIGN;
    match ruling {
        Ruling::KeepSiblings => !sibling.deleted,
        Ruling::PreferStore(store) => is_foreign == (*store == StoreId::D1),
        Ruling::DeleteWins => is_delete,
        Ruling::EditWins => !is_delete,
        Ruling::Lww | Ruling::Merge | Ruling::Rule { .. } => false,
    }
}

/// What a record was when its history was this, made of what was written to it; a delete: nothing was
/// there. `None`: some of that is not kept any more.
pub fn stood(rules: Rules<'_>, writes: &[Written], at: &VersionVector) -> Option<Stored> {
    if at.is_empty() {
        return Some(Stored::Tombstone);
    }
    let found = Merging::of(rules, writes).stood(at, 0)?;
    Some(found.map_or(Stored::Tombstone, Stored::Inline))
}

fn finish(
    set: &Version,
    values: &Values,
    shown: Sibling,
    value: Stored,
    basis: Basis,
    by: By,
    why: Option<Words>,
) -> Settled {
    let beside = set.siblings().iter().filter(|sibling| **sibling != shown);
    let losers = beside.filter_map(|sibling| {
        let value = values.of(sibling)?.clone();
        Some(Loser { sibling: *sibling, value, winner: shown.dot })
    });
    let losers = losers.collect();
    let version = match by {
        // The others are kept as losers alone.
        By::Lww => Version::settled(set.history.clone(), shown),
        _ => set.showing(shown, basis),
    };
    Settled { held: Held { version, value }, losers, by, why }
}

/// Why a rule was not asked, or gave no answer; `None`: not all bytes are at hand.
type NoAnswer = Option<Cow<'static, str>>;

/// One of several values, as a rule is given it.
struct Beside<'v> {
    sibling: &'v Sibling,
    over: &'v VersionVector,
    value: &'v Stored,
}

/// Asks a user's rule.
fn ruled(
    rules: Rules<'_>,
    rule: &UserRule,
    set: &Version,
    values: &Values,
    writes: &[Written],
) -> Result<(Sibling, Stored, Basis), NoAnswer> {
    let beside = set.sides().filter_map(|(sibling, over)| {
        values.of(sibling).map(|value| Beside { sibling, over, value })
    });
    let beside: Vec<Beside<'_>> = beside.collect();
    let (value, basis) = Merging::of(rules, writes).ruled(rule, &beside, 0).map_err(Some)?;
    let latest = |of: &dyn Fn(&Beside<'_>) -> bool| {
        let of = beside.iter().filter(|beside| of(beside)).map(|beside| beside.sibling);
        of.max_by_key(|sibling| (sibling.stamp, sibling.dot))
    };
    // One of them, or what was made of them: under the name of a write of its kind, since a delete's name
    // is never that of a value.
    if let Some(one) = latest(&|beside| *beside.value == value) {
        return Ok((*one, value, basis));
    }
    let named = latest(&|beside| !beside.sibling.deleted);
    let named = named.ok_or(Some(Cow::from("it makes a value of nothing but deletes")))?;
    Ok((resolve::sibling(named.dot, named.stamp, &value), value, basis))
}

/// One value, or several that were merged already.
#[derive(Clone, Debug)]
struct Part {
    /// What it was written over; of several what any was. Themselves are in nothing that they are merged
    /// with, and a history that had them would have what their writers had not seen as well.
    over: VersionVector,
    dot: Dot,
    stamp: Stamp,
    bytes: Bytes,
}

/// A merge under way.
struct Merging<'m> {
    rules: Rules<'m>,
    writes: &'m [Written],
    /// What the record was at these histories.
    known: Vec<(VersionVector, Option<Stood>)>,
    basis: Basis,
    unresolved: Vec<FieldConflict>,
}

/// What a record was; `None`: there was none.
type Stood = Option<Bytes>;

type Made = (Sibling, Bytes, Basis, Vec<FieldConflict>);

/// Merges the values of a set that are no deletes. An error without a cause: there are not two.
fn merged(
    rules: Rules<'_>,
    set: &Version,
    values: &Values,
    writes: &[Written],
) -> Result<Made, Option<Unmergeable>> {
    let mut parts = Vec::new();
    for (sibling, over) in set.sides().filter(|(sibling, _)| !sibling.deleted) {
        let bytes = match values.of(sibling) {
            Some(Stored::Inline(bytes)) => bytes.clone(),
            // It stands elsewhere, and was too large to be brought.
            Some(Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_)) | None => {
                let bytes = usize::try_from(sibling.bytes).unwrap_or(usize::MAX);
                return Err(Some(Unmergeable::Large(bytes)));
            }
        };
        let Sibling { dot, stamp, .. } = *sibling;
        parts.push(Part { over: over.clone(), dot, stamp, bytes });
    }
    if parts.len() < 2 {
        return Err(None);
    }
    let mut merging = Merging::of(rules, writes);
    let bytes = merging.merge(parts, 0)?.bytes;
    let bytes = match rules.schema {
        // As the table's columns spell it, as every row is.
        Some(schema) => {
            let accepted = schema.accept(rules.key, &bytes);
            Bytes::from(accepted.map_err(|_| Some(Unmergeable::NotARow(Whose::Base)))?)
        }
        None => bytes,
    };
    let latest = set.siblings().iter().filter(|sibling| !sibling.deleted);
    let latest = latest.max_by_key(|sibling| (sibling.stamp, sibling.dot)).expect("two are live");
    let shown = Sibling {
        expires_at_ms: latest.expires_at_ms,
        ..resolve::sibling(latest.dot, latest.stamp, &Stored::Inline(bytes.clone()))
    };
    Ok((shown, bytes, merging.basis, merging.unresolved))
}

impl<'m> Merging<'m> {
    fn of(rules: Rules<'m>, writes: &'m [Written]) -> Self {
        let (known, unresolved) = (Vec::new(), Vec::new());
        Merging { rules, writes, known, basis: Basis::ThreeWay, unresolved }
    }

    /// Makes one of several, those first that came apart last.
    fn merge(&mut self, mut parts: Vec<Part>, depth: usize) -> Result<Part, Option<Unmergeable>> {
        while parts.len() > 1 {
            let (common, group) = deepest(&parts);
            let (mut taken, mut kept) = (Vec::new(), Vec::new());
            for (at, part) in parts.into_iter().enumerate() {
                if group.contains(&at) { &mut taken } else { &mut kept }.push(part);
            }
            let base = self.base(&common, &taken, depth);
            kept.push(self.merge_over(base.as_deref(), &taken)?);
            parts = kept;
        }
        Ok(parts.pop().expect("a merge is asked for of some"))
    }

    fn merge_over(
        &mut self,
        base: Option<&[u8]>,
        parts: &[Part],
    ) -> Result<Part, Option<Unmergeable>> {
        let side = |part| {
            let Part { dot, stamp, bytes, .. }: &Part = part;
            Side { dot: *dot, stamp: *stamp, value: &bytes[..] }
        };
        let sides: Vec<Side<&[u8]>> = parts.iter().map(side).collect();
        let fields = &self.rules.conflicts.fields;
        let made = match self.rules.kind {
            Kind::Json => merge::json(fields, base, &sides),
            Kind::Structured => merge::columns(fields, base, &sides),
            Kind::Text => merge::text(base, &sides),
            Kind::Binary => Err(Unmergeable::NotText(Whose::Side(sides[0].dot))),
        };
        let Merged { bytes, unresolved, base, .. } = made.map_err(Some)?;
        if base == BaseUse::TwoWay {
            self.basis = Basis::TwoWay;
        }
        self.unresolved.extend(unresolved);
        let (stamp, dot) = parts.iter().map(|part| (part.stamp, part.dot)).max().expect("of some");
        let over = parts.iter().fold(VersionVector::new(), |all, part| all.join(&part.over));
        Ok(Part { over, dot, stamp, bytes: Bytes::from(bytes) })
    }

    /// What some parts were written over, if it is known: what the record was when their writers had one
    /// history, no older one (DESIGN, "Base"). Where they had none there was nothing. It is made of the
    /// writes themselves, since no coordinator need ever have held just that version: two may have taken in
    /// the same writes by different ways.
    fn base(&mut self, common: &VersionVector, parts: &[Part], depth: usize) -> Option<Bytes> {
        let is_object = |part: &Part| part.bytes.trim_ascii_start().starts_with(b"{");
        let nothing = match self.rules.kind {
            Kind::Json | Kind::Structured => {
                parts.iter().all(is_object).then(|| Bytes::from_static(b"{}"))
            }
            Kind::Text => Some(Bytes::new()),
            Kind::Binary => None,
        };
        if common.is_empty() {
            return nothing;
        }
        let known = self.known.iter().find(|(at, _)| at == common).map(|(_, stood)| stood.clone());
        let stood = match known {
            Some(known) => known,
            None => {
                let found = self.stood(common, depth);
                self.known.push((common.clone(), found.clone()));
                found
            }
        };
        stood.and_then(|stood| stood.or(nothing))
    }

    /// What the record was when it included just this; `None`: nobody knows.
    fn stood(&mut self, at: &VersionVector, depth: usize) -> Option<Stood> {
        if depth == DEPTH_MAX {
            return None;
        }
        let included: Vec<&Written> =
            self.writes.iter().filter(|written| at.covers_dot(written.sibling.dot)).collect();
        let superseded = |written: &Written| {
            let dot = written.sibling.dot;
            included.iter().any(|by| by.sibling.dot != dot && by.over.covers_dot(dot))
        };
        let newest = included.iter().filter(|written| !superseded(written));
        let mut newest: Vec<&Written> = newest.copied().collect();
        newest.sort_by_key(|written| written.sibling.dot);
        newest.dedup_by_key(|written| written.sibling.dot);
        let mut reached = VersionVector::new();
        for Written { sibling, over, .. } in &newest {
            reached = reached.join(over);
            reached.include(sibling.dot);
        }
        if reached != *at {
            // Some of it is not kept any more.
            return None;
        }
        if let Ruling::Rule { rule, fallback } = self.rules.ruling {
            return self.stood_ruled(rule, fallback, &newest, depth);
        }
        let mut parts: Vec<Part> = Vec::new();
        for Written { sibling, over, value } in newest {
            match value {
                Stored::Inline(bytes) if !sibling.deleted => {
                    let (over, bytes) = (over.clone(), bytes.clone());
                    parts.push(Part { over, dot: sibling.dot, stamp: sibling.stamp, bytes });
                }
                Stored::Inline(_) | Stored::Tombstone => {}
                Stored::Reference { .. } | Stored::Erased(_) => return None,
            }
        }
        if parts.is_empty() {
            return Some(None);
        }
        let (basis, unresolved) = (self.basis, self.unresolved.len());
        let made = self.merge(parts, depth + 1).ok();
        self.unresolved.truncate(unresolved);
        // Of what was made without its own base nothing follows exactly.
        let exact = self.basis == basis;
        made.filter(|_| exact).map(|part| Some(part.bytes))
    }

    /// What a rule makes of values, all at once, over what they have in common.
    fn ruled(
        &mut self,
        rule: &UserRule,
        values: &[Beside<'_>],
        depth: usize,
    ) -> Result<(Stored, Basis), Cow<'static, str>> {
        let mut sides: Vec<Side<Option<&[u8]>>> = Vec::new();
        for Beside { sibling, value, .. } in values {
            let value = match value {
                Stored::Inline(bytes) => Some(&bytes[..]),
                Stored::Tombstone => None,
                Stored::Erased(_) => return Err("the bytes of a value were erased".into()),
                Stored::Reference { .. } => {
                    return Err("a value stands elsewhere, and was too large to be brought".into());
                }
            };
            sides.push(Side { dot: sibling.dot, stamp: sibling.stamp, value });
        }
        let over = values.iter().map(|beside| beside.over.clone());
        let common = over.reduce(|all, over| all.meet(&over)).expect("a rule is asked of some");
        let stood = if common.is_empty() { Some(None) } else { self.stood(&common, depth) };
        let basis = if stood.is_some() { Basis::ThreeWay } else { Basis::TwoWay };
        let answer = rule.rule().resolve(stood.flatten().as_deref(), &sides);
        let Resolved { value } = answer.map_err(|failed| failed.to_string())?;
        let value = match (value, self.rules.schema) {
            (None, _) => Stored::Tombstone,
            // As the table's columns spell it, as every row is.
            (Some(bytes), Some(schema)) => {
                let accepted = schema.accept(self.rules.key, &bytes);
                Stored::Inline(accepted.map_err(|problem| problem.to_string())?.into())
            }
            (Some(bytes), None) => Stored::Inline(bytes.into()),
        };
        Ok((value, basis))
    }

    /// What a rule, or its fallback, had shown of some writes.
    fn stood_ruled(
        &mut self,
        rule: &UserRule,
        fallback: &Ruling,
        newest: &[&Written],
        depth: usize,
    ) -> Option<Stood> {
        let shown = match newest {
            [] => return Some(None),
            [one] => one.value.clone(),
            several => {
                let beside = several.iter().map(|written| {
                    let Written { sibling, over, value } = written;
                    Beside { sibling, over, value }
                });
                match self.ruled(rule, &beside.collect::<Vec<_>>(), depth + 1) {
                    Ok((shown, Basis::ThreeWay)) => shown,
                    Ok((_, Basis::Unsettled | Basis::Chosen | Basis::TwoWay)) => return None,
                    Err(_) => {
                        let rank = |written: &&&Written| {
                            let sibling = &written.sibling;
                            (prefers(fallback, sibling), sibling.stamp, sibling.dot)
                        };
                        several.iter().max_by_key(rank)?.value.clone()
                    }
                }
            }
        };
        match shown {
            Stored::Tombstone => Some(None),
            Stored::Inline(bytes) => Some(Some(bytes)),
            Stored::Reference { .. } | Stored::Erased(_) => None,
        }
    }
}

/// What a merge starts from may be a merge itself, and so on.
const DEPTH_MAX: usize = 32;

/// Those that came apart last, by their places: they have a longer history in common than any others,
/// and each two of them the same.
fn deepest(parts: &[Part]) -> (VersionVector, Vec<usize>) {
    let depth = |common: &VersionVector| common.iter().map(|(_, n)| u128::from(*n)).sum::<u128>();
    let mut best: Option<(u128, VersionVector, usize, usize)> = None;
    for i in 0..parts.len() {
        for j in i + 1..parts.len() {
            let common = parts[i].over.meet(&parts[j].over);
            let deep = depth(&common);
            if best.as_ref().is_none_or(|(most, ..)| deep > *most) {
                best = Some((deep, common, i, j));
            }
        }
    }
    let (_, common, i, j) = best.expect("there are two parts at the least");
    let mut group = vec![i, j];
    for at in 0..parts.len() {
        let same = |other: &usize| parts[at].over.meet(&parts[*other].over) == common;
        if !group.contains(&at) && group.iter().all(same) {
            group.push(at);
        }
    }
    group.sort_unstable();
    (common, group)
}

#[cfg(test)]
mod tests;
