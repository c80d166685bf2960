//! The operations of a JSON patch. <https://www.rfc-editor.org/rfc/rfc6902#section-4>
//!
//! Invariant: an operation that was read has what it needs; members that it does not need are
//! passed over (RFC 6902, 4).

use super::draft::Draft;
use super::{Cannot, OPERATIONS_MAX, PatchError};
use crate::json::{Members, Node};
use jsonptr::{Pointer, PointerBuf};

/// JSON as somebody spelled it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelled(String);

impl Spelled {
    /// Of a value in a document.
    pub fn of(node: &Node<'_>) -> Self {
        Spelled(node.text().to_owned())
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn node(&self) -> Result<Node<'_>, PatchError> {
        Node::parse(self.0.as_bytes()).map_err(|why| PatchError::Malformed {
            operation: None,
            why: format!("a value of the patch {why}"),
        })
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a member, or inserts an item.
    Add {
        /// Where.
        path: PointerBuf,
        /// What.
        value: Spelled,
    },
    /// Removes what is there.
    Remove {
        /// Where.
        path: PointerBuf,
    },
    /// Sets what is there already.
    Replace {
        /// Where.
        path: PointerBuf,
        /// What.
        value: Spelled,
    },
    /// Removes what is at one place and adds it at another.
    Move {
        /// From where.
        from: PointerBuf,
        /// Where to.
        path: PointerBuf,
    },
    /// Adds what is at one place at another.
    Copy {
        /// From where.
        from: PointerBuf,
        /// Where to.
        path: PointerBuf,
    },
    /// Demands that a value is there.
    Test {
        /// Where.
        path: PointerBuf,
        /// What.
        value: Spelled,
    },
}

impl Operation {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Add { .. } => "add",
            Operation::Remove { .. } => "remove",
            Operation::Replace { .. } => "replace",
            Operation::Move { .. } => "move",
            Operation::Copy { .. } => "copy",
            Operation::Test { .. } => "test",
        }
    }

    /// Where it is done.
    pub fn path(&self) -> &Pointer {
        match self {
            Operation::Add { path, .. }
            | Operation::Remove { path }
            | Operation::Replace { path, .. }
            | Operation::Move { path, .. }
            | Operation::Copy { path, .. }
            | Operation::Test { path, .. } => path,
        }
    }

    /// Where it takes its value from.
    pub fn from(&self) -> Option<&Pointer> {
        match self {
            Operation::Move { from, .. } | Operation::Copy { from, .. } => Some(from),
            Operation::Add { .. }
            | Operation::Remove { .. }
            | Operation::Replace { .. }
            | Operation::Test { .. } => None,
        }
    }

    /// The value that it brings.
    pub fn value(&self) -> Option<&Spelled> {
        match self {
            Operation::Add { value, .. }
            | Operation::Replace { value, .. }
            | Operation::Test { value, .. } => Some(value),
            Operation::Remove { .. } | Operation::Move { .. } | Operation::Copy { .. } => None,
        }
    }

    pub(super) fn apply<'b>(
        &self,
        draft: &mut Draft<'b>,
        value: Option<&'b Node<'b>>,
    ) -> Result<(), Cannot> {
        let value = || value.expect("the values are parsed from the same operations");
        match self {
            Operation::Add { path, .. } => draft.add(path, value()),
            Operation::Remove { path } => draft.remove(path).map(drop),
            Operation::Replace { path, .. } => draft.replace(path, value()),
            Operation::Move { from, path } => draft.relocate(from, path),
            Operation::Copy { from, path } => draft.copy(from, path),
            Operation::Test { path, .. } => draft.test(path, value()),
        }
    }
}

/// Reads a patch document.
pub(super) fn list(patch: &Node<'_>) -> Result<Vec<Operation>, PatchError> {
    let malformed = |why: String| PatchError::Malformed { operation: None, why };
    let Some(items) = patch.items() else {
        return Err(malformed("a JSON patch is an array of operations".to_owned()));
    };
    if items.len() > OPERATIONS_MAX {
        let found = items.len();
        return Err(malformed(format!(
            "the patch has {found} operations; at most {OPERATIONS_MAX} are taken at once"
        )));
    }
    let each = items.iter().enumerate().map(|(nth, item)| {
        read(item).map_err(|why| PatchError::Malformed { operation: Some(nth), why })
    });
    each.collect()
}

fn read(item: &Node<'_>) -> Result<Operation, String> {
    let members = item.members().ok_or("an operation is an object")?;
    let path = || pointer(members, "path");
    let from = || pointer(members, "from");
    let value = || members.find("value").map(Spelled::of).ok_or("it needs a \"value\"");
    let op = members.find("op").and_then(Node::string).ok_or("it needs an \"op\" that is text")?;
    Ok(match &*op {
        "add" => Operation::Add { path: path()?, value: value()? },
        "remove" => Operation::Remove { path: path()? },
        "replace" => Operation::Replace { path: path()?, value: value()? },
        "move" => Operation::Move { from: from()?, path: path()? },
        "copy" => Operation::Copy { from: from()?, path: path()? },
        "test" => Operation::Test { path: path()?, value: value()? },
        other => {
            return Err(format!(
                "{other:?} is no operation; there are add, remove, replace, move, copy and test"
            ));
        }
    })
}

fn pointer(members: &Members<'_>, name: &str) -> Result<PointerBuf, String> {
    let text = members.find(name).and_then(Node::string);
    let text = text.ok_or_else(|| format!("it needs a {name:?} that is text"))?;
    PointerBuf::parse(text.as_ref())
        .map_err(|error| format!("{name:?} is {text:?}, which is no JSON Pointer: {error}"))
}

/// Writes a patch document.
pub(super) fn write(operations: &[Operation]) -> Vec<u8> {
    let mut json = Vec::from(b"[");
    for (nth, operation) in operations.iter().enumerate() {
        if nth > 0 {
            json.push(b',');
        }
        let mut text = |name: &str, text: &str| {
            json.extend_from_slice(if name == "op" { b"{" } else { b"," });
            serde_json::to_writer(&mut json, name).expect("text serializes");
            json.push(b':');
            serde_json::to_writer(&mut json, text).expect("text serializes");
        };
        text("op", operation.name());
        text("path", operation.path().as_str());
        if let Some(from) = operation.from() {
            text("from", from.as_str());
        }
        if let Some(value) = operation.value() {
            json.extend_from_slice(b",\"value\":");
            json.extend_from_slice(value.text().as_bytes());
        }
        json.push(b'}');
    }
    json.push(b']');
    json
}
