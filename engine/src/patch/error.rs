//! What a patch can fail by.

use crate::json::{DEPTH_MAX, Refused};
use jsonptr::{Pointer, PointerBuf};
use std::fmt;

/// Why a patch is refused, or does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchError {
    /// Nothing is known of such patches.
    MediaType(String),
    /// The patch is none.
    Malformed {
        /// Which of its operations, from 0; `None`: the whole.
        operation: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// The document is no JSON.
    Document(Refused),
    /// A `test` found another value, or none.
    TestFailed {
        /// Which operation, from 0.
        operation: usize,
        /// What it looked at.
        pointer: PointerBuf,
    },
    /// An operation cannot be done.
    Operation {
        /// Which of them, from 0; `None`: the patch is one.
        operation: Option<usize>,
        /// What it is called.
        name: &'static str,
        /// Where it was to be done.
        pointer: PointerBuf,
        /// What is in the way.
        why: Cannot,
    },
    /// The document would become too large.
    Large,
}

/// What is in an operation's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cannot {
    /// A `test` found something else.
    Differs,
    /// Nothing is there.
    Missing,
    /// Nothing is at the place that is copied or moved.
    NoSource,
    /// What the pointer goes through is not there.
    NoParent,
    /// What the pointer goes through is neither an array nor an object.
    Scalar,
    /// An array has no such index.
    Index(String),
    /// The array has so many items only.
    PastEnd(usize),
    /// A value cannot be moved into itself.
    IntoItself,
    /// The document itself cannot be removed.
    Root,
    /// No integer is there.
    NoInteger(&'static str),
    /// The sum does not fit 64 bits.
    Overflow,
    /// The document would nest too deep.
    Deep,
    /// The operations so far have looked at or copied more than any document needs.
    Work,
}

impl Cannot {
    /// The same trouble where a value was to be taken from.
    pub(super) fn at_source(self) -> Self {
        match self {
            Cannot::Work => Cannot::Work,
            _ => Cannot::NoSource,
        }
    }

    /// True when the trouble is at `from`.
    pub(super) fn of_source(&self) -> bool {
        *self == Cannot::NoSource
    }

    pub(super) fn at(
        self,
        operation: Option<usize>,
        name: &'static str,
        pointer: &Pointer,
    ) -> PatchError {
        let pointer = pointer.to_buf();
        match (self, operation) {
            (Cannot::Differs, Some(operation)) => PatchError::TestFailed { operation, pointer },
            (why, operation) => PatchError::Operation { operation, name, pointer, why },
        }
    }
}

impl fmt::Display for Cannot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cannot::Differs => f.write_str("the value is another"),
            Cannot::Missing => f.write_str("nothing is there"),
            Cannot::NoSource => f.write_str("nothing is there to take"),
            Cannot::NoParent => {
                f.write_str("what the pointer goes through is not there; add it first")
            }
            Cannot::Scalar => {
                f.write_str("what the pointer goes through is neither an array nor an object")
            }
            Cannot::Index(token) => write!(
                f,
                "an array has no index {token:?}; give digits without a zero in front, \
                 or \"-\" to add at the end"
            ),
            Cannot::PastEnd(items) => write!(f, "the array has {items} items"),
            Cannot::IntoItself => f.write_str("a value cannot be moved into itself"),
            Cannot::Root => {
                f.write_str("the document itself cannot be removed; delete the record instead")
            }
            Cannot::NoInteger(found) => write!(f, "no integer is there but {found}"),
            Cannot::Overflow => f.write_str("the sum does not fit 64 bits"),
            Cannot::Deep => write!(f, "the document would nest deeper than {DEPTH_MAX} levels"),
            Cannot::Work => {
                f.write_str("the patch does more work than is allowed; split it, or put the value")
            }
        }
    }
}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatchError::MediaType(found) => write!(
                f,
                "{found:?} is no kind of patch; send {}, {} or {}",
                super::MERGE_PATCH,
                super::JSON_PATCH,
                super::INCREMENT
            ),
            PatchError::Malformed { operation: None, why } => f.write_str(why),
            PatchError::Malformed { operation: Some(nth), why } => {
                write!(f, "operation {nth} of the patch: {why}")
            }
            PatchError::Document(why) => write!(f, "the document {why}"),
            PatchError::TestFailed { operation, pointer } => {
                let pointer = pointer.as_str();
                write!(f, "operation {operation} of the patch: the test of {pointer:?} failed")
            }
            PatchError::Operation { operation, name, pointer, why } => {
                if let Some(nth) = operation {
                    write!(f, "operation {nth} of the patch: ")?;
                }
                write!(f, "{name} at {:?}: {why}", pointer.as_str())
            }
            PatchError::Large => {
                write!(f, "the patch makes a document of more than {} bytes", super::BYTES_MAX)
            }
        }
    }
}

impl std::error::Error for PatchError {}
