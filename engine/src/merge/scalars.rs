//! Numbers and ordered values: `max`, `min` and `delta_sum`.
//!
//! Invariant: sums are exact or not made. Fractions are added as decimals (`0.1` and `0.2` are
//! `0.3`), so that neither the order of the sides nor a processor has a say.

use super::Why;
use super::fields::{Base, Edit, Merger};
use crate::json::{Amount, Decimal, Node};
use crate::structured::Cell;
use std::cmp::Ordering;

/// A value that can be greater than another of its kind.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Ordered {
    Number(Decimal),
    Text(String),
}

impl Ordered {
    fn of(node: &Node<'_>, cell: bool) -> Option<Self> {
        if let Some(number) = number(node, cell) {
            return Decimal::of(&number).map(Ordered::Number);
        }
        node.string().map(|text| Ordered::Text(text.into_owned()))
    }
}

/// The text of a number; of a cell also that of `{"$integer":"9007199254740993"}`.
fn number(node: &Node<'_>, cell: bool) -> Option<String> {
    if let Some(number) = node.number() {
        return Some(number.to_owned());
    }
    let integer = node.members().filter(|members| cell && members.len() == 1)?.find("$integer")?;
    let text = integer.string()?;
    text.parse::<i64>().ok().map(|n| n.to_string())
}

impl<'n> Merger<'n> {
    /// The greatest, or the least, of the edits; of equal ones the least dot's spelling.
    pub(super) fn extreme(&mut self, edits: &[Edit<'n, '_>], wanted: Ordering) -> Result<(), Why> {
        let cell = self.is_cell();
        let mut found: Option<(Ordered, &Node<'_>)> = None;
        for edit in edits {
            let value = Ordered::of(edit.node, cell).ok_or(Why::OtherKind)?;
            match &found {
                Some((Ordered::Number(_), _)) if matches!(value, Ordered::Text(_)) => {
                    return Err(Why::OtherKind);
                }
                Some((Ordered::Text(_), _)) if matches!(value, Ordered::Number(_)) => {
                    return Err(Why::OtherKind);
                }
                Some((best, _)) if value.cmp(best) != wanted => {}
                Some(_) | None => found = Some((value, edit.node)),
            }
        }
        let (_, node) = found.expect("some edit");
        self.keep(node);
        Ok(())
    }

    /// The base and the sum of what the edits added to it. A counter that was not there was 0.
    pub(super) fn delta_sum<'a>(
        &mut self,
        base: Base<'n, 'a>,
        edits: &[Edit<'n, 'a>],
    ) -> Result<(), Why> {
        let cell = self.is_cell();
        let amount = |node: &Node<'_>| {
            let number = number(node, cell).ok_or(Why::OtherKind)?;
            Amount::of(&number).ok_or(Why::OutOfRange)
        };
        let amounts: Result<Vec<Amount>, Why> =
            edits.iter().map(|edit| amount(edit.node)).collect();
        let amounts = amounts?;
        let start = match base {
            Base::Unknown => return Err(Why::NoBase),
            Base::Absent => Amount::ZERO,
            Base::Is(node) => amount(node)?,
        };
        let sum = amounts.into_iter().try_fold(start, |sum, amount| {
            amount.checked_sub(start).and_then(|delta| sum.checked_add(delta))
        });
        let sum = sum.ok_or(Why::OutOfRange)?;
        match sum.to_i64() {
            Some(n) if cell => Cell::Integer(n).write_json(&mut self.out),
            Some(_) | None => {
                let text = sum.to_text().ok_or(Why::OutOfRange)?;
                self.out.extend_from_slice(text.as_bytes());
            }
        }
        Ok(())
    }
}
