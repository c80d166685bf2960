//! What becomes of concurrent writes, as the owner of the data declares it.

use crate::merge::FieldRules;
use crate::record::StoreId;
use std::collections::BTreeMap;

/// Prefixes with a ruling of their own, in one dataset.
pub const PREFIXES_MAX: usize = 256;

/// What decides between concurrent values. Each is a function of their set alone (rule V4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    pub fn ruling(&self, key: &str) -> Ruling {
        let mut named = self.prefixes.iter().filter(|(prefix, _)| key.starts_with(prefix.as_str()));
        // Prefixes of one key are ordered by their length.
        named.next_back().map_or(self.default, |(_, ruling)| *ruling)
    }

    /// Every ruling that some key can have.
    pub fn rulings(&self) -> impl Iterator<Item = Ruling> + '_ {
        std::iter::once(self.default).chain(self.prefixes.values().copied())
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
            assert_eq!(conflicts.ruling(key), expected, "{key}");
        }
        assert_eq!(Conflicts::default().ruling("a/b"), Ruling::Lww);
    }
}
