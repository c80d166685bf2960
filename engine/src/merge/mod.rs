//! Values merged by declared rules.
//!
//! ```text
//!            base                     the version at the meet of all histories, where it is known
//!          /  |   \
//!     side  side  side                originals, each with dot, stamp and bytes
//!          \  |   /
//!           merged                    bytes, and what no rule settled
//! ```
//!
//! Invariant: a merge is a pure function of the *set* of sides and the base. All sides are merged at
//! once, in the order of their dots, never in pairs, so that whoever meets them in whatever order
//! makes the same bytes (rules V4 and V5). What nobody touched keeps its spelling.
//!
//! | file | idea |
//! | --- | --- |
//! | `rules` | which strategy a field has |
//! | `fields` | one field: who changed it, and the walk over members |
//! | `scalars` | `max`, `min`, `delta_sum` |
//! | `lists` | `set_union`, `list_map` |
//! | `lines` | `text3` |
//!
//! Members come in the base's order (without a base: the least dot's), then the additions in the
//! order of dots. Which versions meet, what is kept of those that lost, and where a base comes from is
//! left to others.

mod fields;
mod lines;
mod lists;
mod rules;
mod scalars;
#[cfg(test)]
mod tests;

pub use rules::{FieldRules, RULES_MAX, RuleError, Strategy};

use crate::json::{Node, Refused};
use crate::version::{Dot, Stamp};
use fields::Merger;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Sides that are merged at once.
pub const SIDES_MAX: usize = 64;

/// Bytes that are taken apart for one merge, of the base and all sides together.
pub const BYTES_MAX: usize = 16 << 20;

/// Conflicts that a merge lists by field; more are only counted.
pub const CONFLICTS_LISTED: usize = 256;

/// One of the values to merge: its bytes, or its tree.
#[derive(Clone, Copy, Debug)]
pub struct Side<V> {
    /// The write's dot: sides are merged in the order of their dots.
    pub dot: Dot,
    /// The write's stamp: where no rule settles a field, the greater (stamp, dot) does.
    pub stamp: Stamp,
    /// What was written.
    pub value: V,
}

/// What became of the sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The value.
    pub bytes: Vec<u8>,
    /// Fields that no declared rule settled, in the order in which they were met.
    pub unresolved: Vec<FieldConflict>,
    /// More of them than are listed.
    pub not_listed: usize,
    /// What the merge could go by.
    pub base: BaseUse,
}

/// Whether a merge knew what its sides had started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseUse {
    /// It did.
    ThreeWay,
    /// It did not: nothing was counted or taken as removed.
    TwoWay,
}

/// A field that no declared rule settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldConflict {
    /// Where it is in the merged value (RFC 6901).
    pub pointer: String,
    /// What was declared for it.
    pub strategy: Strategy,
    /// What came in the way, and so what was done.
    pub why: Why,
}

impl fmt::Display for FieldConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FieldConflict { pointer, strategy, why } = self;
        write!(f, "{pointer:?} ({strategy}): {why}")
    }
}

/// Why a field was not settled by its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Sides gave it different values. The later writer's stands.
    Edited,
    /// One side deleted it and another changed it. The edit stands.
    DeletedAndEdited,
    /// Its values are not of the kind that the strategy is for. The later writer's stands.
    OtherKind,
    /// The strategy needs the base, which is not known. The later writer's stands.
    NoBase,
    /// The sum is not exact in 64 bits. The later writer's value stands.
    OutOfRange,
    /// An item of the list lacks the member that names it, or two have the same. The later writer's
    /// list stands.
    ItemIds,
    /// Edits of the text touch in so many places. There, the later writer's lines stand.
    LinesTouch(usize),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Edited => f.write_str("edited differently; the later writer's value stands"),
            Why::DeletedAndEdited => {
                f.write_str("deleted by one side and edited by another; the edit stands")
            }
            Why::OtherKind => {
                f.write_str("not of the kind the strategy merges; the later writer's value stands")
            }
            Why::NoBase => {
                f.write_str("what the edits started from is not known; the later writer's stands")
            }
            Why::OutOfRange => {
                f.write_str("the sum is not exact in 64 bits; the later writer's value stands")
            }
            Why::ItemIds => f.write_str(
                "an item lacks its id, or two have the same; the later writer's list stands",
            ),
            Why::LinesTouch(places) => {
                write!(f, "edits touch in {places} places; the later writer's lines stand there")
            }
        }
    }
}

/// Whose bytes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The base's.
    Base,
    /// Those of the side with this dot.
    Side(Dot),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Base => f.write_str("the base"),
            Whose::Side(dot) => write!(f, "the value of {dot}"),
        }
    }
}

/// Why values are not merged: the caller falls back to choosing one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmergeable {
    /// A value is no JSON, or too deep, or has too many parts.
    NotJson(Whose, Refused),
    /// A value is no object, so no row.
    NotARow(Whose),
    /// A value is no UTF-8.
    NotText(Whose),
    /// There is no side at all.
    NoSide,
    /// There are more than [`SIDES_MAX`].
    ManySides(usize),
    /// Together the values have more than [`BYTES_MAX`].
    Large(usize),
}

impl fmt::Display for Unmergeable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unmergeable::NotJson(whose, why) => write!(f, "{whose} {why}"),
            Unmergeable::NotARow(whose) => write!(f, "{whose} is no object with columns"),
            Unmergeable::NotText(whose) => write!(f, "{whose} is no UTF-8 text"),
            Unmergeable::NoSide => f.write_str("there is no value to merge"),
            Unmergeable::ManySides(found) => {
                write!(f, "{found} values are concurrent; at most {SIDES_MAX} are merged at once")
            }
            Unmergeable::Large(bytes) => {
                write!(f, "the values have {bytes} bytes; at most {BYTES_MAX} are merged by field")
            }
        }
    }
}

impl std::error::Error for Unmergeable {}

/// Merges JSON documents.
pub fn json(
    rules: &FieldRules,
    base: Option<&[u8]>,
    sides: &[Side<&[u8]>],
) -> Result<Merged, Unmergeable> {
    from_bytes(rules, base, sides, Cells::Parts)
}

/// Merges rows of a table: column by column, each cell as a whole unless its rule says otherwise.
/// Cells are the same only when they are spelled the same, as [`crate::structured`] spells them.
pub fn columns(
    rules: &FieldRules,
    base: Option<&[u8]>,
    sides: &[Side<&[u8]>],
) -> Result<Merged, Unmergeable> {
    from_bytes(rules, base, sides, Cells::Whole)
}

/// Merges texts by lines; without a base, the later writer's stands.
pub fn text(base: Option<&[u8]>, sides: &[Side<&[u8]>]) -> Result<Merged, Unmergeable> {
    let sides = in_dot_order(sides, |value| value)?;
    within_bounds(base, &sides)?;
    if let Some(bytes) = untouched(base, &sides, false) {
        return Ok(Merged::whole(bytes, base.is_some()));
    }
    let read = |bytes, whose| std::str::from_utf8(bytes).map_err(|_| Unmergeable::NotText(whose));
    let texts: Result<Vec<&str>, _> =
        sides.iter().map(|side| read(side.value, Whose::Side(side.dot))).collect();
    let texts = texts?;
    let rank = |side: usize| (sides[side].stamp, sides[side].dot);
    let (text, why) = match base {
        Some(base) => {
            let merged = lines::merge(read(base, Whose::Base)?, &texts, rank);
            let why = (merged.touching > 0).then_some(Why::LinesTouch(merged.touching));
            (merged.text, why)
        }
        None => {
            let latest = (0..texts.len()).max_by_key(|side| rank(*side)).expect("a side");
            (texts[latest].to_owned(), Some(Why::NoBase))
        }
    };
    let conflict = |why| FieldConflict { pointer: String::new(), strategy: Strategy::Text3, why };
    let unresolved = why.into_iter().map(conflict).collect();
    Ok(Merged { unresolved, ..Merged::whole(text.as_bytes(), base.is_some()) })
}

/// Merges JSON documents whose trees are at hand, with the bytes that [`json`] gives.
pub fn json_trees(
    rules: &FieldRules,
    base: Option<&Node<'_>>,
    sides: &[Side<&Node<'_>>],
) -> Result<Merged, Unmergeable> {
    let sides = in_dot_order(sides, |node: &Node<'_>| node.text().as_bytes())?;
    let spelled: Vec<Side<&[u8]>> =
        sides.iter().map(|side| side.with(side.value.text().as_bytes())).collect();
    let base_bytes = base.map(|base| base.text().as_bytes());
    within_bounds(base_bytes, &spelled)?;
    if let Some(bytes) = untouched(base_bytes, &spelled, rules.count_operations()) {
        return Ok(Merged::whole(bytes, base.is_some()));
    }
    Ok(Merger::run(rules, base, &sides, Cells::Parts))
}

/// Whether what a member holds has fields of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cells {
    Parts,
    Whole,
}

fn from_bytes(
    rules: &FieldRules,
    base: Option<&[u8]>,
    sides: &[Side<&[u8]>],
    cells: Cells,
) -> Result<Merged, Unmergeable> {
    let sides = in_dot_order(sides, |value| value)?;
    within_bounds(base, &sides)?;
    if let Some(bytes) = untouched(base, &sides, rules.count_operations()) {
        return Ok(Merged::whole(bytes, base.is_some()));
    }
    let read = |bytes, whose| {
        let node = Node::parse(bytes).map_err(|why| Unmergeable::NotJson(whose, why))?;
        match cells {
            Cells::Whole if node.members().is_none() => Err(Unmergeable::NotARow(whose)),
            Cells::Whole | Cells::Parts => Ok(node),
        }
    };
    let base = base.map(|base| read(base, Whose::Base)).transpose()?;
    let trees: Result<Vec<Node<'_>>, Unmergeable> =
        sides.iter().map(|side| read(side.value, Whose::Side(side.dot))).collect();
    let trees = trees?;
    let trees: Vec<Side<&Node<'_>>> =
        sides.iter().zip(&trees).map(|(side, tree)| side.with(tree)).collect();
    let mut merged = Merger::run(rules, base.as_ref(), &trees, cells);
    if base.is_none() && sides.iter().all(|side| side.value == sides[0].value) {
        merged.bytes = sides[0].value.to_vec();
    }
    Ok(merged)
}

/// The set of sides: one of each dot, by dot. That a dot has one value is rule V2's; should it have
/// two, the lesser bytes are taken by everyone alike.
fn in_dot_order<'v, V: Copy + 'v>(
    sides: &[Side<V>],
    bytes: impl Fn(V) -> &'v [u8],
) -> Result<Vec<Side<V>>, Unmergeable> {
    if sides.is_empty() {
        return Err(Unmergeable::NoSide);
    }
    let mut sides = sides.to_vec();
    sides.sort_by(|a, b| {
        let rank = |side: &Side<V>| (side.dot, side.stamp);
        rank(a).cmp(&rank(b)).then_with(|| bytes(a.value).cmp(bytes(b.value)))
    });
    sides.dedup_by_key(|side| side.dot);
    match sides.len() {
        many if many > SIDES_MAX => Err(Unmergeable::ManySides(many)),
        _ => Ok(sides),
    }
}

fn within_bounds(base: Option<&[u8]>, sides: &[Side<&[u8]>]) -> Result<(), Unmergeable> {
    let bytes = base.map_or(0, <[u8]>::len) + sides.iter().map(|s| s.value.len()).sum::<usize>();
    if bytes > BYTES_MAX { Err(Unmergeable::Large(bytes)) } else { Ok(()) }
}

/// The bytes that are the result as they are: of the only side that differs from the base, or of
/// sides that are all equal.
fn untouched<'v>(
    base: Option<&'v [u8]>,
    sides: &[Side<&'v [u8]>],
    counts: bool,
) -> Option<&'v [u8]> {
    let mut edits = sides.iter().map(|side| side.value).filter(|value| base != Some(*value));
    let Some(first) = edits.next() else { return base };
    let mut others = edits.peekable();
    if others.peek().is_none() || (!counts && others.all(|other| other == first)) {
        return Some(first);
    }
    None
}

impl<V> Side<V> {
    fn with<W>(&self, value: W) -> Side<W> {
        Side { dot: self.dot, stamp: self.stamp, value }
    }
}

impl Merged {
    fn whole(bytes: &[u8], three_way: bool) -> Self {
        let base = if three_way { BaseUse::ThreeWay } else { BaseUse::TwoWay };
        Merged { bytes: bytes.to_vec(), unresolved: Vec::new(), not_listed: 0, base }
    }
}
