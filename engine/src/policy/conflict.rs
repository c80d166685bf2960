//! What becomes of concurrent writes, as the owner of the data declares it.

use crate::merge::FieldRules;
use crate::record::StoreId;
use crate::rule::{Rule, RuleError};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Prefixes with a ruling of their own, in one dataset.
pub const PREFIXES_MAX: usize = 256;

/// What decides between concurrent values. Each is a function of their set alone (rule V4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ruling {
    /// The later stamp, then the greater dot. The others are kept as losers and leave the version.
    #[default]
    Lww,
    /// All of them stay, and a read gives all, until a write whose context has seen them. A value is
    /// shown in copies rather than a delete, and the later rather than the earlier.
    KeepSiblings,
    /// D1: what was written to it past Tidelock. KV or R2: what was not.
    PreferStore(StoreId),
    /// A delete.
    DeleteWins,
    /// A value.
    EditWins,
    /// Values are merged, by field or by line; a delete loses.
    Merge,
    /// What the user's own rule makes of them; where it fails, a ruling that cannot.
    Rule {
        /// The rule.
        rule: Arc<UserRule>,
        /// Neither a merge nor a rule.
        fallback: Box<Ruling>,
    },
}

impl Ruling {
    /// True where the value that is shown is made of what the others were written over, so that D1 keeps
    /// the record's writes one by one.
    pub fn starts_from_base(&self) -> bool {
        matches!(self, Ruling::Merge | Ruling::Rule { .. })
    }

    /// True where a read may give several values.
    pub fn may_show_siblings(&self) -> bool {
        match self {
            Ruling::KeepSiblings => true,
            Ruling::Rule { fallback, .. } => fallback.may_show_siblings(),
            Ruling::Lww
            | Ruling::PreferStore(_)
            | Ruling::DeleteWins
            | Ruling::EditWins
            | Ruling::Merge => false,
        }
    }
}

/// A user's own rule, as the configuration names it. The same name and source are the same rule.
#[derive(Clone)]
pub struct UserRule {
    name: Arc<str>,
    source: Arc<str>,
    rule: Arc<Rule>,
}

impl UserRule {
    /// Reads its script.
    pub fn load(name: &str, source: &str) -> Result<Self, RuleError> {
        let rule = Arc::new(Rule::load(source)?);
        Ok(UserRule { name: Arc::from(name), source: Arc::from(source), rule })
    }

    /// Its name, which the audit log says.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The script, ready to run.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }
}

impl PartialEq for UserRule {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.source) == (&other.name, &other.source)
    }
}

impl Eq for UserRule {}

impl fmt::Debug for UserRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UserRule").field(&self.name).finish()
    }
}

/// The rulings of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// For keys that no prefix names.
    pub default: Ruling,
    /// The longest that a key begins with decides.
    pub prefixes: BTreeMap<String, Ruling>,
    /// How fields are merged.
    pub fields: FieldRules,
}

impl Conflicts {
    /// What decides for a key.
    pub fn ruling(&self, key: &str) -> &Ruling {
        let mut named = self.prefixes.iter().filter(|(prefix, _)| key.starts_with(prefix.as_str()));
        // Prefixes of one key are ordered by their length.
        named.next_back().map_or(&self.default, |(_, ruling)| ruling)
    }

    /// Every ruling that some key can have.
    pub fn rulings(&self) -> impl Iterator<Item = &Ruling> + '_ {
        std::iter::once(&self.default).chain(self.prefixes.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let prefixes =
            [("a/", Ruling::Merge), ("a/b/", Ruling::DeleteWins), ("", Ruling::EditWins)];
        let conflicts = Conflicts {
            default: Ruling::Lww,
            prefixes: prefixes.map(|(prefix, ruling)| (prefix.to_owned(), ruling)).into(),
            fields: FieldRules::default(),
        };
        for (key, expected) in [
            ("a/x", Ruling::Merge),
            ("a/b/x", Ruling::DeleteWins),
            ("a", Ruling::EditWins),
            ("b/a/", Ruling::EditWins),
        ] {
            assert_eq!(*conflicts.ruling(key), expected, "{key}");
        }
        assert_eq!(*Conflicts::default().ruling("a/b"), Ruling::Lww);
    }
}
