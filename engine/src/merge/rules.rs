//! What the owner of the data declared for each field.
//!
//! ```text
//! "/stock"         = "delta_sum"             this member, and the numbers under it
//! "/lines"         = { list_map = "sku" }    an array of objects, matched by that member
//! "/lines/*/qty"   = "max"                   in every item of the array, or every member
//! ""               = "lww"                   everything that no longer pointer names
//! ```
//!
//! The longest pointer that a field is at, or under, says how it is merged; of two as long, the one
//! that has a name where the other has `*`, from the left. Items of arrays are matched by `*` alone,
//! since an index is not the same item on both sides. Fields that nothing names are merged as
//! `merge_recursive`.
//!
//! Invariant: rules that were accepted can be looked up for any document in time that is bounded
//! by their number.

use crate::json::{Node, Shape};
use jsonptr::Pointer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Rules in one dataset.
pub const RULES_MAX: usize = 256;

/// How the edits of a field are made one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The greatest of the values that sides gave it: numbers by value, text by code points.
    Max,
    /// The least.
    Min,
    /// A counter: the base and what every side added to it. Two equal changes count twice.
    DeltaSum,
    /// An array without order: the base without what any side removed, and what sides added.
    SetUnion,
    /// An array of objects, matched by the member of this name and merged item by item.
    ListMap(String),
    /// Text, merged by lines.
    Text3,
    /// Objects member by member; anything else goes to the later writer.
    MergeRecursive,
    /// The later writer's value, as a whole.
    Lww,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Strategy::Max => f.write_str("max"),
            Strategy::Min => f.write_str("min"),
            Strategy::DeltaSum => f.write_str("delta_sum"),
            Strategy::SetUnion => f.write_str("set_union"),
            Strategy::ListMap(id) => write!(f, "list_map = {id:?}"),
            Strategy::Text3 => f.write_str("text3"),
            Strategy::MergeRecursive => f.write_str("merge_recursive"),
            Strategy::Lww => f.write_str("lww"),
        }
    }
}

/// Why rules are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// A pointer is none.
    Pointer {
        /// As it was given.
        pointer: String,
        /// What is wrong.
        why: String,
    },
    /// There are more than [`RULES_MAX`].
    TooMany(usize),
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Pointer { pointer, why } => write!(
                f,
                "{pointer:?} is no JSON Pointer (RFC 6901): {why}; \
                 write \"/member/inner\", with ~1 for a slash and ~0 for a tilde in a name"
            ),
            RuleError::TooMany(found) => {
                write!(f, "{found} fields have rules; at most {RULES_MAX} may: use * for names")
            }
        }
    }
}

impl std::error::Error for RuleError {}

/// The strategies of a dataset's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldRules {
    root: Rule,
}

/// What is declared at one pointer and under it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    strategy: Option<Strategy>,
    named: BTreeMap<String, Rule>,
    any: Option<Box<Rule>>,
    /// Here or below, something counts.
    counts: bool,
}

impl FieldRules {
    /// Of pointers and their strategies.
    pub fn new<'p>(
        rules: impl IntoIterator<Item = (&'p str, Strategy)>,
    ) -> Result<Self, RuleError> {
        let mut root = Rule::default();
        let mut count = 0;
        for (text, strategy) in rules {
            count += 1;
            if count > RULES_MAX {
                return Err(RuleError::TooMany(count));
            }
            let refused = |why: String| RuleError::Pointer { pointer: text.to_owned(), why };
            let pointer = Pointer::parse(text).map_err(|error| refused(error.to_string()))?;
            if pointer.count() > crate::json::DEPTH_MAX {
                return Err(refused("no document is so deep".to_owned()));
            }
            let counts = strategy == Strategy::DeltaSum;
            let mut at = &mut root;
            at.counts |= counts;
            for token in pointer.tokens() {
                let name = token.decoded();
                at = match &*name {
                    "*" => at.any.get_or_insert_default(),
                    name => at.named.entry(name.to_owned()).or_default(),
                };
                at.counts |= counts;
            }
            if at.strategy.replace(strategy).is_some() {
                return Err(refused("it is given twice".to_owned()));
            }
        }
        Ok(FieldRules { root })
    }

    /// True when some field counts operations, so that equal bytes are not the same edit.
    pub fn count_operations(&self) -> bool {
        self.root.counts
    }

    /// True when what is added to a number there is added once, whatever else a merge finds: it is a counter,
    /// and its place is the same in every document, by names and by what tells items apart.
    pub fn counts_at(&self, document: &Node<'_>, pointer: &Pointer) -> bool {
        let (mut at, mut matched) = (Some(document), self.at_root());
        for token in pointer.tokens() {
            let name = token.decoded();
            let items = at.and_then(Node::items);
            if items.is_some() && !matches!(matched.strategy, Strategy::ListMap(_)) {
                return false;
            }
            matched = if items.is_some() { matched.item() } else { matched.member(&name) };
            at = match at.map(Node::shape) {
                Some(Shape::Array(items)) => name.parse().ok().and_then(|at: usize| items.get(at)),
                Some(Shape::Object(members)) => members.find(&name),
                Some(Shape::Scalar) | None => None,
            };
        }
        *matched.strategy == Strategy::DeltaSum
    }

    /// What holds for the whole document.
    pub(super) fn at_root(&self) -> Matched<'_> {
        Matched::of(vec![&self.root], &Strategy::MergeRecursive)
    }
}

/// What holds for one field: its strategy, and the rules that may name something under it.
#[derive(Debug)]
pub(super) struct Matched<'r> {
    pub strategy: &'r Strategy,
    /// The rules at this very place, the most special first.
    below: Vec<&'r Rule>,
}

impl<'r> Matched<'r> {
    fn of(below: Vec<&'r Rule>, inherited: &'r Strategy) -> Self {
        let own = below.iter().find_map(|rule| rule.strategy.as_ref());
        Matched { strategy: own.unwrap_or(inherited), below }
    }

    /// For the member of this name.
    pub fn member(&self, name: &str) -> Self {
        let mut below = Vec::new();
        for rule in &self.below {
            below.extend(rule.named.get(name));
            below.extend(rule.any.as_deref());
        }
        Matched::of(below, self.strategy)
    }

    /// For the items of an array: what is declared for the array is not declared for them.
    pub fn item(&self) -> Self {
        let below = self.below.iter().filter_map(|rule| rule.any.as_deref()).collect();
        Matched::of(below, &Strategy::MergeRecursive)
    }

    /// True when something under this field has a rule of its own.
    pub fn has_longer(&self) -> bool {
        self.below.iter().any(|rule| rule.any.is_some() || !rule.named.is_empty())
    }

    /// True when this field counts operations, or something under it does.
    pub fn counts(&self) -> bool {
        *self.strategy == Strategy::DeltaSum || self.below.iter().any(|rule| rule.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_counts_where_its_place_is_the_same_everywhere() {
        let rules = FieldRules::new([
            ("/n", Strategy::DeltaSum),
            ("/stock", Strategy::DeltaSum),
            ("/stock/note", Strategy::Lww),
            ("/lines", Strategy::ListMap("id".into())),
            ("/lines/*/qty", Strategy::DeltaSum),
            ("/list/*/qty", Strategy::DeltaSum),
        ])
        .unwrap();
        let document = br#"{"n": 1, "m": 1, "stock": {"a": 1}, "lines": [{"id": 1, "qty": 1}],
                            "list": [{"qty": 1}]}"#;
        let document = Node::parse(document).unwrap();
        for (pointer, counts) in [
            ("/n", true),
            ("/m", false),
            ("", false),
            ("/stock/a", true),
            ("/stock/new", true),
            ("/stock/note", false),
            ("/lines/0/qty", true),
            ("/lines/0/price", false),
            // The first on one side may be another than on the other.
            ("/list/0/qty", false),
        ] {
            let pointer = Pointer::parse(pointer).unwrap();
            assert_eq!(rules.counts_at(&document, pointer), counts, "{pointer}");
        }
    }

    #[test]
    fn the_longest_pointer_says() {
        let rules = FieldRules::new([
            ("/a", Strategy::Max),
            ("/a/b/c", Strategy::Lww),
            ("/a/*/c", Strategy::Min),
            ("/l", Strategy::ListMap("id".into())),
            ("/l/*/n", Strategy::DeltaSum),
            ("/s~1t", Strategy::Text3),
        ])
        .unwrap();
        let at = |path: &[&str]| {
            let mut matched = rules.at_root();
            for segment in path {
                matched = match *segment {
                    "#" => matched.item(),
                    name => matched.member(name),
                };
            }
            matched.strategy.to_string()
        };
        assert_eq!(at(&[]), "merge_recursive");
        assert_eq!(at(&["z", "y"]), "merge_recursive");
        assert_eq!(at(&["a"]), "max");
        assert_eq!(at(&["a", "z"]), "max");
        assert_eq!(at(&["a", "b", "c"]), "lww");
        assert_eq!(at(&["a", "z", "c"]), "min");
        assert_eq!(at(&["l"]), "list_map = \"id\"");
        assert_eq!(at(&["l", "#"]), "merge_recursive");
        assert_eq!(at(&["l", "#", "n"]), "delta_sum");
        assert_eq!(at(&["s/t"]), "text3");
        assert!(rules.count_operations() && rules.at_root().counts());
        assert!(rules.at_root().member("l").counts() && !rules.at_root().member("a").counts());
        assert!(rules.at_root().member("a").has_longer());
        assert!(!rules.at_root().member("a").member("b").member("c").has_longer());
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for pointer in ["stock", "/a~2", "/a~"] {
            let error = FieldRules::new([(pointer, Strategy::Max)]).unwrap_err();
            assert!(error.to_string().contains(pointer), "{error}");
        }
        let twice = FieldRules::new([("/a", Strategy::Max), ("/a", Strategy::Min)]).unwrap_err();
        assert!(twice.to_string().contains("twice"));
        let names: Vec<String> = (0..=RULES_MAX).map(|n| format!("/{n}")).collect();
        let many = FieldRules::new(names.iter().map(|name| (name.as_str(), Strategy::Max)));
        assert_eq!(many, Err(RuleError::TooMany(RULES_MAX + 1)));
    }

    #[test]
    fn policies_spell_them() {
        let check = |toml: &str, strategy: Strategy| {
            let read: BTreeMap<String, Strategy> = toml::from_str(toml).unwrap();
            assert_eq!(read["x"], strategy);
        };
        check("x = \"delta_sum\"", Strategy::DeltaSum);
        check("x = \"text3\"", Strategy::Text3);
        check("x = { list_map = \"id\" }", Strategy::ListMap("id".to_owned()));
        assert!(toml::from_str::<BTreeMap<String, Strategy>>("x = \"newest\"").is_err());
    }
}
