//! One field: who changed it, and what is made of the changes.
//!
//! ```text
//! values of a field ─▶ edits (differ from the base), deletions, and the rest
//!   no edit            the base's spelling, or nothing where a side deleted it
//!   one edit           its spelling
//!   several            objects: member by member; else as the field's strategy says;
//!                      else the later writer's, and it is recorded
//! ```
//!
//! Invariant: a side that did not change a field has no part in what becomes of it.

use super::rules::{Matched, Strategy};
use super::{BaseUse, CONFLICTS_LISTED, Cells, FieldConflict, FieldRules, Merged, Side, Why};
use crate::json::Node;
use crate::version::{Dot, Stamp};
use jsonptr::{PointerBuf, Token};
use std::cmp::Ordering;

/// What a field was before the sides changed it.
#[derive(Clone, Copy)]
pub(super) enum Base<'n, 'a> {
    /// Nobody knows.
    Unknown,
    /// It was not there.
    Absent,
    /// This.
    Is(&'n Node<'a>),
}

impl<'n, 'a> Base<'n, 'a> {
    /// What a part of it was.
    pub fn part(self, find: impl FnOnce(&'n Node<'a>) -> Option<&'n Node<'a>>) -> Self {
        match self {
            Base::Unknown => Base::Unknown,
            Base::Absent => Base::Absent,
            Base::Is(node) => find(node).map_or(Base::Absent, Base::Is),
        }
    }

    /// It, where it is known and there.
    pub fn node(self) -> Option<&'n Node<'a>> {
        match self {
            Base::Unknown | Base::Absent => None,
            Base::Is(node) => Some(node),
        }
    }
}

/// What one side has in a field: the side's place, and the value.
#[derive(Clone, Copy)]
pub(super) struct Value<'n, 'a> {
    pub side: usize,
    pub node: Option<&'n Node<'a>>,
}

/// What one side has made of a field.
#[derive(Clone, Copy)]
pub(super) struct Edit<'n, 'a> {
    pub side: usize,
    pub node: &'n Node<'a>,
}

/// A step from a value to one of its parts.
#[derive(Clone, Copy)]
pub(super) enum Step<'n> {
    Member(&'n str),
    Item(usize),
}

/// Writes the merged value.
pub(super) struct Merger<'n> {
    pub out: Vec<u8>,
    /// Places of the sides, for who is later.
    ranks: Vec<(Stamp, Dot)>,
    cells: Cells,
    path: Vec<Step<'n>>,
    unresolved: Vec<FieldConflict>,
    not_listed: usize,
}

impl<'n> Merger<'n> {
    /// Merges sides that are in the order of their dots.
    pub fn run<'a>(
        rules: &FieldRules,
        base: Option<&'n Node<'a>>,
        sides: &[Side<&'n Node<'a>>],
        cells: Cells,
    ) -> Merged {
        let bytes = sides.iter().map(|side| side.value.text().len()).max().unwrap_or(0);
        let mut merger = Merger {
            out: Vec::with_capacity(bytes + bytes / 8),
            ranks: sides.iter().map(|side| (side.stamp, side.dot)).collect(),
            cells,
            path: Vec::new(),
            unresolved: Vec::new(),
            not_listed: 0,
        };
        let values: Vec<Value<'n, 'a>> = sides
            .iter()
            .enumerate()
            .map(|(side, tree)| Value { side, node: Some(tree.value) })
            .collect();
        merger.field(&rules.at_root(), base.map_or(Base::Unknown, Base::Is), &values);
        // Equal trees come here only to have it said that operations could not be counted.
        if base.is_none() && sides.iter().all(|side| side.value.text() == sides[0].value.text()) {
            merger.out = sides[0].value.text().as_bytes().to_vec();
        }
        Merged {
            bytes: merger.out,
            unresolved: merger.unresolved,
            not_listed: merger.not_listed,
            base: if base.is_some() { BaseUse::ThreeWay } else { BaseUse::TwoWay },
        }
    }

    /// Writes a field's merged value; false when the field is gone.
    pub fn field<'a>(
        &mut self,
        rule: &Matched<'_>,
        base: Base<'n, 'a>,
        values: &[Value<'n, 'a>],
    ) -> bool {
        if let Base::Is(base) = base {
            let same = |value: &Value<'n, 'a>| value.node.is_some_and(|v| v.text() == base.text());
            if values.iter().all(same) {
                self.keep(base);
                return true;
            }
        }
        let deleted = base.node().is_some() && values.iter().any(|value| value.node.is_none());
        let edits: Vec<Edit<'n, 'a>> = values
            .iter()
            .filter_map(|value| {
                let node = value.node?;
                let changed = match base {
                    Base::Unknown | Base::Absent => true,
                    Base::Is(base) => self.changed(base, node, deleted),
                };
                changed.then_some(Edit { side: value.side, node })
            })
            .collect();
        match (edits.as_slice(), base) {
            ([], Base::Is(base)) if !deleted => self.keep(base),
            ([], _) => return false,
            ([_, ..], _) => {
                if deleted {
                    self.conflict(rule, Why::DeletedAndEdited);
                }
                self.edits(rule, base, &edits);
            }
        }
        true
    }

    /// Whether objects that are spelled differently mean the same is left to their members, unless a
    /// deletion hangs on it: else it would be asked again on every level.
    fn changed(&self, base: &Node<'_>, node: &Node<'_>, deleted: bool) -> bool {
        if base.text() == node.text() {
            return false;
        }
        let objects = base.members().is_some() && node.members().is_some();
        self.is_cell() || (objects && !deleted) || !base.same(node)
    }

    fn edits<'a>(&mut self, rule: &Matched<'_>, base: Base<'n, 'a>, edits: &[Edit<'n, 'a>]) {
        let first = edits[0];
        if edits.len() == 1 {
            return self.keep(first.node);
        }
        let equal = edits[1..].iter().all(|edit| edit.node.text() == first.node.text());
        if equal && !rule.counts() {
            return self.keep(first.node);
        }
        let objects = edits.iter().all(|edit| edit.node.members().is_some());
        let over_object = base.node().is_none_or(|base| base.members().is_some());
        let whole = *rule.strategy == Strategy::Lww && !rule.has_longer();
        if objects && over_object && !whole && !self.is_cell() {
            return self.members(rule, base, edits);
        }
        // What goes whole was changed only by those that mean something else by it.
        let of_base = base.node().filter(|base| base.members().is_some() && !self.is_cell());
        let told: Vec<Edit<'n, 'a>> = match of_base {
            Some(base) => edits.iter().filter(|edit| !base.same(edit.node)).copied().collect(),
            None => edits.to_vec(),
        };
        match (told.as_slice(), of_base) {
            ([], Some(base)) => self.keep(base),
            ([edit], _) => self.keep(edit.node),
            ([], None) | ([_, _, ..], _) => self.several(rule, base, &told),
        }
    }

    /// Several values that are not merged by their members.
    fn several<'a>(&mut self, rule: &Matched<'_>, base: Base<'n, 'a>, edits: &[Edit<'n, 'a>]) {
        let alike = self.alike(edits);
        let done = match rule.strategy {
            // A counter's equal edits are two; of what does not count they are one.
            Strategy::DeltaSum => self.delta_sum(base, edits),
            _ if alike && !rule.counts() => {
                self.keep(edits[0].node);
                Ok(())
            }
            Strategy::Max => self.extreme(edits, Ordering::Greater),
            Strategy::Min => self.extreme(edits, Ordering::Less),
            Strategy::SetUnion => self.set_union(base, edits),
            Strategy::ListMap(id) => self.list_map(rule, id, base, edits),
            Strategy::Text3 => self.text3(rule, base, edits),
            Strategy::MergeRecursive => Err(Why::Edited),
            Strategy::Lww => {
                self.latest(edits);
                Ok(())
            }
        };
        match done {
            Ok(()) => {}
            // What is no number cannot count, so equal edits of it are one after all.
            Err(Why::OtherKind | Why::Edited) if alike => self.keep(edits[0].node),
            Err(why) => {
                self.conflict(rule, why);
                self.latest(edits);
            }
        }
    }

    /// Member by member, in the base's order, then in the order in which the sides add.
    fn members<'a>(&mut self, rule: &Matched<'_>, base: Base<'n, 'a>, edits: &[Edit<'n, 'a>]) {
        let mut values: Vec<Value<'n, 'a>> = Vec::with_capacity(edits.len());
        let mut separator = b'{';
        let of_base = base.node().and_then(Node::members);
        for (nth, edit) in edits.iter().enumerate() {
            let from_base = of_base.filter(|_| nth == 0);
            let own = edit.node.members().expect("only objects come here");
            // The base's members come with the first side, those of the side itself after them.
            let before = &edits[..nth];
            let known = |at: usize, name: &str| {
                of_base.is_some_and(|members| members.find_near(at, name).is_some())
                    || before.iter().any(|earlier| {
                        let members = earlier.node.members().expect("only objects come here");
                        members.find_near(at, name).is_some()
                    })
            };
            let added = own.iter().enumerate().filter(|(at, member)| !known(*at, &member.name));
            let each = from_base.into_iter().flat_map(|members| members.iter().enumerate());
            for (at, member) in each.chain(added) {
                let name: &'n str = &member.name;
                values.clear();
                values.extend(edits.iter().map(|edit| {
                    let members = edit.node.members().expect("only objects come here");
                    Value { side: edit.side, node: members.find_near(at, name) }
                }));
                let was = base.part(|node| node.members()?.find_near(at, name));
                let start = self.out.len();
                self.out.push(separator);
                self.out.extend_from_slice(member.spelled.as_bytes());
                self.out.push(b':');
                self.path.push(Step::Member(name));
                let there = self.field(&rule.member(name), was, &values);
                self.path.pop();
                match there {
                    true => separator = b',',
                    false => self.out.truncate(start),
                }
            }
        }
        if separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }

    /// A part of a value that is merged in its own right.
    pub fn item<'a>(
        &mut self,
        rule: &Matched<'_>,
        at: usize,
        base: Base<'n, 'a>,
        values: &[Value<'n, 'a>],
    ) -> bool {
        self.path.push(Step::Item(at));
        let there = self.field(rule, base, values);
        self.path.pop();
        there
    }

    /// True when all edits mean the same.
    fn alike(&self, edits: &[Edit<'n, '_>]) -> bool {
        let first = edits[0].node;
        edits[1..].iter().all(|edit| match self.is_cell() {
            true => edit.node.text() == first.text(),
            false => edit.node.same(first),
        })
    }

    /// True inside a row: what stands there is one cell.
    pub fn is_cell(&self) -> bool {
        self.cells == Cells::Whole && !self.path.is_empty()
    }

    /// Writes a value as it is spelled.
    pub fn keep(&mut self, node: &Node<'_>) {
        self.out.extend_from_slice(node.text().as_bytes());
    }

    /// Writes the later writer's value.
    fn latest(&mut self, edits: &[Edit<'n, '_>]) {
        let latest = edits.iter().max_by_key(|edit| self.rank(edit.side)).expect("some edit");
        self.keep(latest.node);
    }

    /// Greater for the later writer.
    pub fn rank(&self, side: usize) -> (Stamp, Dot) {
        self.ranks[side]
    }

    /// Records what no rule settled.
    pub fn conflict(&mut self, rule: &Matched<'_>, why: Why) {
        if self.unresolved.len() == CONFLICTS_LISTED {
            self.not_listed += 1;
            return;
        }
        let pointer = PointerBuf::from_tokens(self.path.iter().map(|step| match step {
            Step::Member(name) => Token::new(*name),
            Step::Item(at) => Token::from(*at),
        }));
        let pointer = pointer.to_string();
        self.unresolved.push(FieldConflict { pointer, strategy: rule.strategy.clone(), why });
    }
}
