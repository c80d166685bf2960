//! Chosen fields of a value: what a projection keeps with `keep = ["sku", "price"]`.
//!
//! Invariant: a partial copy is never taken for the value. It says that it is one, and of which
//! fields, so that a change of the list shows in every copy that was made before.

use crate::structured::Members;
use crate::version::ContentHash;
use bytes::Bytes;
use std::sync::Arc;

/// Hexadecimal digits that name a list of fields in a copy's metadata.
const ID_DIGITS: usize = 16;

/// Top-level members of a JSON object, in the order in which a copy has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    names: Arc<[String]>,
    id: Arc<str>,
}

impl Fields {
    /// Of these names.
    pub fn new(names: Vec<String>) -> Self {
        let spelled = serde_json::to_vec(&names).expect("text always serializes");
        let mut id = ContentHash::of(&spelled).to_text();
        id.truncate(ID_DIGITS);
        Fields { names: names.into(), id: id.into() }
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Stands for the list in a copy's metadata.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The part of a value that has these fields alone, each spelled as the value spells it.
    /// Fields that the value lacks are left out; a value that is no object has none.
    pub fn of(&self, value: &[u8]) -> Bytes {
        let members: Vec<_> =
            serde_json::from_slice::<Members<'_>>(value).map(|m| m.0).unwrap_or_default();
        let mut part = vec![b'{'];
        for name in self.names.iter() {
            // Of members with one name the last counts, as for every reader of JSON.
            let Some((_, raw)) = members.iter().rev().find(|(found, _)| found == name) else {
                continue;
            };
            if part.len() > 1 {
                part.push(b',');
            }
            serde_json::to_writer(&mut part, name).expect("text always serializes");
            part.push(b':');
            part.extend_from_slice(raw.get().as_bytes());
        }
        part.push(b'}');
        Bytes::from(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let fields = Fields::new(vec!["b".to_owned(), "a\"".to_owned()]);
        let check = |value: &str, part: &str| {
            assert_eq!(fields.of(value.as_bytes()), part.as_bytes(), "{value}");
        };
        check(r#"{"a\"":1.50, "x":0, "b":{"$integer":"9007199254740993"}}"#, {
            r#"{"b":{"$integer":"9007199254740993"},"a\"":1.50}"#
        });
        check(r#"{"b":1,"b":[2, 3]}"#, r#"{"b":[2, 3]}"#);
        check(r#"{"B":1}"#, "{}");
        check("[1]", "{}");
        check("7", "{}");
    }

    #[test]
    fn a_list_is_named_by_its_names_and_their_order() {
        let id = |names: &[&str]| {
            Fields::new(names.iter().map(|name| name.to_string()).collect()).id().to_owned()
        };
        assert_eq!(id(&["a", "b"]).len(), ID_DIGITS);
        assert_eq!(id(&["a", "b"]), id(&["a", "b"]));
        assert_ne!(id(&["a", "b"]), id(&["b", "a"]));
        assert_ne!(id(&["a", "b"]), id(&["a,b"]));
    }
}
