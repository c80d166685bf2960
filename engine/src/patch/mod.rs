//! Changes to a JSON document that are kept and carried as what they do.
//!
//! ```text
//! application/merge-patch+json                RFC 7396   {"price": 2, "old": null}
//! application/json-patch+json                 RFC 6902   [{"op": "add", "path": "/tags/-", "value": "x"}]
//! application/vnd.tidelock.increment+json     ours       {"pointer": "/stock", "by": -1}
//! ```
//!
//! Invariant: a patch is applied as a whole or not at all, and what it does not touch keeps its
//! spelling. That is why documents are not `serde_json::Value`s and the operations are not those of
//! the `json-patch` crate, which works on them: 1.10 would come back as 1.1, 1e400 not at all, and
//! members in another order. Pointers are `jsonptr`'s; the tests hold the results against that crate's.
//!
//! A bad patch costs no more than a good one: operations, and the work and growth that they cause, are
//! bounded. To which version a patch is applied (rule V7) is left to others.

mod draft;
mod error;
mod operation;
#[cfg(test)]
mod tests;

pub use error::{Cannot, PatchError};
pub use operation::{Operation, Spelled};

use crate::json::Node;
use draft::Draft;
use jsonptr::PointerBuf;
use serde::{Deserialize, Serialize};

/// Media type of merge patches (RFC 7396).
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// Media type of JSON patches (RFC 6902).
pub const JSON_PATCH: &str = "application/json-patch+json";
/// Media type of increments: an object with `pointer` and `by`.
pub const INCREMENT: &str = "application/vnd.tidelock.increment+json";

/// Operations in one JSON patch.
pub const OPERATIONS_MAX: usize = 4_096;

/// Bytes of a document that a patch makes.
pub const BYTES_MAX: usize = 32 << 20;

/// A change to a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7396: members that are set, or with null removed.
    Merge(Spelled),
    /// RFC 6902: operations, one after another.
    Operations(Vec<Operation>),
    /// Adds to an integer, exactly.
    Increment {
        /// Where it is. What is not there, beside something that is, counts as 0.
        pointer: PointerBuf,
        /// How much.
        by: i64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Increment {
    pointer: String,
    by: i64,
}

impl Patch {
    /// Reads a patch of a media type; parameters such as `;charset=utf-8` say nothing here.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, PatchError> {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let malformed = |why: String| PatchError::Malformed { operation: None, why };
        let read = || Node::parse(bytes).map_err(|why| malformed(format!("the patch {why}")));
        if essence.eq_ignore_ascii_case(MERGE_PATCH) {
            return Ok(Patch::Merge(Spelled::of(&read()?)));
        }
        if essence.eq_ignore_ascii_case(JSON_PATCH) {
            return operation::list(&read()?).map(Patch::Operations);
        }
        if essence.eq_ignore_ascii_case(INCREMENT) {
            let Increment { pointer, by } = serde_json::from_slice(bytes).map_err(|error| {
                malformed(format!("an increment is {{\"pointer\": \"/..\", \"by\": 1}}: {error}"))
            })?;
            let pointer = PointerBuf::parse(pointer)
                .map_err(|error| malformed(format!("the pointer is none: {error}")))?;
            return Ok(Patch::Increment { pointer, by });
        }
        Err(PatchError::MediaType(media_type.to_owned()))
    }

    /// The media type under which [`Patch::to_bytes`] is read.
    pub fn media_type(&self) -> &'static str {
        match self {
            Patch::Merge(_) => MERGE_PATCH,
            Patch::Operations(_) => JSON_PATCH,
            Patch::Increment { .. } => INCREMENT,
        }
    }

    /// The form in which it is kept and carried.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Patch::Merge(patch) => patch.text().as_bytes().to_vec(),
            Patch::Operations(operations) => operation::write(operations),
            Patch::Increment { pointer, by } => {
                let increment = Increment { pointer: pointer.to_string(), by: *by };
                serde_json::to_vec(&increment).expect("text and a number serialize")
            }
        }
    }

    /// The document after the patch.
    pub fn apply(&self, document: &[u8]) -> Result<Vec<u8>, PatchError> {
        let document = Node::parse(document).map_err(PatchError::Document)?;
        let values = self.values();
        let values: Result<Vec<Node<'_>>, PatchError> =
            values.into_iter().map(Spelled::node).collect();
        let values = values?;
        let mut draft = Draft::new(&document);
        match self {
            Patch::Merge(_) => draft.merge(&values[0]),
            Patch::Increment { pointer, by } => {
                draft.increment(pointer, *by).map_err(|why| why.at(None, "increment", pointer))?
            }
            Patch::Operations(operations) => {
                let mut values = values.iter();
                for (nth, operation) in operations.iter().enumerate() {
                    let value = operation.value().and_then(|_| values.next());
                    operation.apply(&mut draft, value).map_err(|why| {
                        let pointer = match why.of_source() {
                            true => operation.from().unwrap_or(operation.path()),
                            false => operation.path(),
                        };
                        why.at(Some(nth), operation.name(), pointer)
                    })?;
                }
            }
        }
        let bytes = draft.into_bytes();
        if bytes.len() > BYTES_MAX { Err(PatchError::Large) } else { Ok(bytes) }
    }

    /// The values that it brings, in the order of its operations.
    fn values(&self) -> Vec<&Spelled> {
        match self {
            Patch::Merge(patch) => vec![patch],
            Patch::Operations(operations) => {
                operations.iter().filter_map(Operation::value).collect()
            }
            Patch::Increment { .. } => Vec::new(),
        }
    }
}
