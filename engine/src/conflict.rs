//! Conflicts that were settled, as the authority remembers them.
//!
//! ```text
//! a merge is installed ──> each value that lost, beside the winner, in one transaction (rule V6)
//!                          └── in the order of the change feed: who lost, to whom, and when
//! ```
//!
//! Invariant: a conflict is named by the write that lost. A value that loses again, against another
//! winner or once more against the same, is the conflict that is known already. Its bytes are asked
//! for by themselves, since lists of conflicts must stay small.

use crate::audit::Words;
use crate::erasure::Erasure;
use crate::record::RecordId;
use crate::row::{Seq, StoreTime};
use crate::version::{Dot, Malformed, Sibling, Version};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What decided which value is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The later stamp, then the greater dot.
    #[default]
    Lww,
    /// All stay until somebody decides; the later one is shown.
    KeepSiblings,
    /// What was written to a store past Tidelock, or the other way round.
    PreferStore,
    /// A delete.
    DeleteWins,
    /// A value.
    EditWins,
    /// Fields were merged over what the values had started from.
    MergeThreeWay,
    /// Fields were merged, and what the values had started from was not known.
    MergeTwoWay,
    /// They were to be merged and could not be; the later one is shown.
    MergeFellBack,
    /// The user's own rule of this name.
    Rule(Arc<str>),
    /// That rule failed, and what the policy names for this decided.
    RuleFellBack(Arc<str>),
}

impl By {
    /// Those that are a word.
    const WORDS: [By; 8] = [
        By::Lww,
        By::KeepSiblings,
        By::PreferStore,
        By::DeleteWins,
        By::EditWins,
        By::MergeThreeWay,
        By::MergeTwoWay,
        By::MergeFellBack,
    ];

    /// The word, and the rule's name behind it.
    fn words(&self) -> (&'static str, Option<&str>) {
        match self {
            By::Lww => ("lww", None),
            By::KeepSiblings => ("keep_siblings", None),
            By::PreferStore => ("prefer_store", None),
            By::DeleteWins => ("delete_wins", None),
            By::EditWins => ("edit_wins", None),
            By::MergeThreeWay => ("merge_three_way", None),
            By::MergeTwoWay => ("merge_two_way", None),
            By::MergeFellBack => ("merge_fell_back", None),
            By::Rule(name) => (RULE, Some(name)),
            By::RuleFellBack(name) => (RULE_FELL_BACK, Some(name)),
        }
    }
}

const RULE: &str = "rule";
const RULE_FELL_BACK: &str = "rule_fell_back";

/// As it stands in rows, in the audit log and in answers: a word, and `rule:NAME`.
impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            (word, None) => f.write_str(word),
            (word, Some(name)) => write!(f, "{word}:{name}"),
        }
    }
}

impl FromStr for By {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let named = match text.split_once(':') {
            Some((RULE, name)) => Some(By::Rule(name.into())),
            Some((RULE_FELL_BACK, name)) => Some(By::RuleFellBack(name.into())),
            Some(_) => None,
            None => By::WORDS.into_iter().find(|by| by.words() == (text, None)),
        };
        named.ok_or_else(|| Malformed { text: text.to_owned(), expected: "a resolution's name" })
    }
}

/// What decided, and what there is to say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What decided.
    pub by: By,
    /// Why a rule gave no answer, or which fields of a merge no rule settles.
    pub why: Option<Words>,
}

impl From<By> for Decision {
    fn from(by: By) -> Self {
        Decision { by, why: None }
    }
}

/// Text of a history, at most, that is noted with a conflict.
const CONTEXT_BYTES_MAX: usize = 16 * 1024;

/// What the authority's version of a record included before a conflict was settled, and after, as
/// contexts are given to readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contexts {
    /// Before; empty: there was no record.
    pub before: Box<str>,
    /// After.
    pub after: Box<str>,
}

impl Contexts {
    /// Of an install. `None`: they are longer than anybody would read.
    pub fn noted(before: Option<&Version>, after: &Version) -> Option<Self> {
        let before = before.map(|version| version.history.to_text()).unwrap_or_default();
        let after = after.history.to_text();
        let fits = before.len().max(after.len()) <= CONTEXT_BYTES_MAX;
        fits.then(|| Contexts { before: before.into(), after: after.into() })
    }
}

/// One value that lost, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Whose value.
    pub record: RecordId,
    /// The place in the change feed of the install that kept it.
    pub seq: Seq,
    /// When that was, by the store side's clock; 0: before this was noted.
    pub at: StoreTime,
    /// The write that lost; it names the conflict.
    pub lost: Sibling,
    /// The write that won.
    pub winner: Dot,
    /// What that was; `None`: this was not noted.
    pub won: Option<Sibling>,
    /// What decided.
    pub by: By,
    /// What there is to say of that.
    pub why: Option<Words>,
    /// What was known before and after; `None`: this was not noted.
    pub contexts: Option<Contexts>,
    /// Its bytes were erased.
    pub erased: Option<Erasure>,
}

/// Where a conflict stands among the others of its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Of its install.
    pub seq: Seq,
    /// Several may lose in one install.
    pub lost: Dot,
}

impl Conflict {
    /// Where it stands.
    pub fn place(&self) -> Place {
        Place { seq: self.seq, lost: self.lost.dot }
    }
}

/// Which conflicts are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The oldest first, behind a place; `None`: from the first.
    After(Option<Place>),
    /// The newest first, before a place; `None`: from the last.
    Before(Option<Place>),
    /// The one in which this write lost.
    Lost(Dot),
}

/// A question for conflicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictQuery {
    /// Of this dataset alone.
    pub dataset: Option<Arc<str>>,
    /// Which of them.
    pub which: Which,
    /// So many at most; fewer only at the end.
    pub limit: usize,
}
