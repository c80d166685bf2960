//! Arrays without an order of their own, and texts: `set_union`, `list_map` and `text3`.
//!
//! Invariant: an item is told by what it means, so that one spelled in two ways is one; and the
//! time to match items grows with their number times its logarithm.

use super::fields::{Base, Edit, Merger, Value};
use super::rules::Matched;
use super::{Why, lines};
use crate::json::Node;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The items of a list by what their id says, and the ids in their order.
struct Identified<'n, 'a> {
    by_id: BTreeMap<String, &'n Node<'a>>,
    order: Vec<String>,
}

impl<'n> Merger<'n> {
    /// The base's items that no edit removed, then what the edits added.
    pub(super) fn set_union<'a>(
        &mut self,
        base: Base<'n, 'a>,
        edits: &[Edit<'n, 'a>],
    ) -> Result<(), Why> {
        let of_base: &'n [Node<'a>] = match base {
            Base::Unknown | Base::Absent => &[],
            Base::Is(node) => node.items().ok_or(Why::OtherKind)?,
        };
        let keyed = |items: &'n [Node<'a>]| -> Vec<(String, &'n Node<'a>)> {
            items.iter().map(|item| (canonical(item), item)).collect()
        };
        let of_base = keyed(of_base);
        let was: BTreeSet<&str> = of_base.iter().map(|(key, _)| key.as_str()).collect();
        let lists: Result<Vec<_>, Why> =
            edits.iter().map(|edit| edit.node.items().map(keyed).ok_or(Why::OtherKind)).collect();
        let lists = lists?;
        let mut removed: BTreeSet<&str> = BTreeSet::new();
        for list in &lists {
            let has: BTreeSet<&str> = list.iter().map(|(key, _)| key.as_str()).collect();
            removed.extend(was.difference(&has));
        }
        let mut written: BTreeSet<&str> = BTreeSet::new();
        let added = lists.iter().flatten().filter(|(key, _)| !was.contains(key.as_str()));
        let kept = of_base.iter().filter(|(key, _)| !removed.contains(key.as_str()));
        self.out.push(b'[');
        for (key, item) in kept.chain(added) {
            if written.insert(key) {
                if written.len() > 1 {
                    self.out.push(b',');
                }
                self.keep(item);
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// Item by item, in the base's order, then in the order in which the edits add.
    pub(super) fn list_map<'a>(
        &mut self,
        rule: &Matched<'_>,
        id: &str,
        base: Base<'n, 'a>,
        edits: &[Edit<'n, 'a>],
    ) -> Result<(), Why> {
        let of_base = match base {
            Base::Unknown | Base::Absent => {
                Identified { by_id: BTreeMap::new(), order: Vec::new() }
            }
            Base::Is(node) => identified(node, id)?,
        };
        let lists: Result<Vec<_>, Why> =
            edits.iter().map(|edit| identified(edit.node, id)).collect();
        let lists = lists?;
        let rule = rule.item();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut written = 0;
        self.out.push(b'[');
        for key in of_base.order.iter().chain(lists.iter().flat_map(|list| &list.order)) {
            if !seen.insert(key) {
                continue;
            }
            let values: Vec<Value<'n, 'a>> = edits
                .iter()
                .zip(&lists)
                .map(|(edit, list)| Value { side: edit.side, node: list.by_id.get(key).copied() })
                .collect();
            let was = base.part(|_| of_base.by_id.get(key).copied());
            let start = self.out.len();
            if written > 0 {
                self.out.push(b',');
            }
            match self.item(&rule, written, was, &values) {
                true => written += 1,
                false => self.out.truncate(start),
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// By lines, where the base is text.
    pub(super) fn text3<'a>(
        &mut self,
        rule: &Matched<'_>,
        base: Base<'n, 'a>,
        edits: &[Edit<'n, 'a>],
    ) -> Result<(), Why> {
        let texts: Option<Vec<Cow<'_, str>>> =
            edits.iter().map(|edit| edit.node.string()).collect();
        let texts = texts.ok_or(Why::OtherKind)?;
        let base = match base {
            Base::Unknown => return Err(Why::NoBase),
            Base::Absent => return Err(Why::Edited),
            Base::Is(node) => node.string().ok_or(Why::OtherKind)?,
        };
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        let merged = lines::merge(&base, &texts, |edit| self.rank(edits[edit].side));
        if merged.touching > 0 {
            self.conflict(rule, Why::LinesTouch(merged.touching));
        }
        serde_json::to_writer(&mut self.out, &merged.text).expect("text serializes");
        Ok(())
    }
}

fn canonical(node: &Node<'_>) -> String {
    let mut key = String::new();
    node.push_canonical(&mut key);
    key
}

fn identified<'n, 'a>(list: &'n Node<'a>, id: &str) -> Result<Identified<'n, 'a>, Why> {
    let items = list.items().ok_or(Why::OtherKind)?;
    let mut by_id = BTreeMap::new();
    let mut order = Vec::with_capacity(items.len());
    for item in items {
        let members = item.members().ok_or(Why::ItemIds)?;
        let named =
            members.find(id).filter(|named| named.number().is_some() || named.string().is_some());
        let key = canonical(named.ok_or(Why::ItemIds)?);
        if by_id.insert(key.clone(), item).is_some() {
            return Err(Why::ItemIds);
        }
        order.push(key);
    }
    Ok(Identified { by_id, order })
}
