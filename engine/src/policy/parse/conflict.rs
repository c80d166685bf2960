//! What becomes of concurrent writes.

use super::super::{Conflicts, Kind, PREFIXES_MAX, Ruling};
use super::Reader;
use super::raw::{RawConflict, RawDataset, RawRuling};
use crate::merge::FieldRules;
use crate::record::StoreId;
use std::collections::BTreeMap;
use toml::Spanned;

const RULINGS: &str = "\"lww\", \"keep_siblings\", { prefer_store = \"d1\" }, \"delete_wins\", \
                       \"edit_wins\", \"merge\"";

impl Reader<'_> {
    pub(super) fn conflict(&mut self, raw: &RawDataset, kind: Option<Kind>) -> Conflicts {
        let Some(conflict) = &raw.conflict else { return Conflicts::default() };
        let default = conflict.default.as_ref();
        let default =
            default.and_then(|ruling| self.ruling(raw, kind, ruling, "dataset.conflict.default"));
        if conflict.prefixes.len() > PREFIXES_MAX {
            let span = conflict.prefixes.values().next().map_or(0..0, Spanned::span);
            let problem =
                format!("{} prefixes have a ruling of their own", conflict.prefixes.len());
            let accepted = format!("at most {PREFIXES_MAX}; give the most common one as default");
            self.refuse(span, "dataset.conflict.prefixes", problem, &accepted);
        }
        let mut prefixes = BTreeMap::new();
        for (prefix, ruling) in &conflict.prefixes {
            let field = format!("dataset.conflict.prefixes.{prefix:?}");
            if let Some(ruling) = self.ruling(raw, kind, ruling, &field) {
                prefixes.insert(prefix.clone(), ruling);
            }
        }
        let default = default.unwrap_or_default();
        let conflicts = Conflicts { default, prefixes, fields: FieldRules::default() };
        let fields = self.fields_of(conflict, kind, &conflicts);
        Conflicts { fields, ..conflicts }
    }

    fn ruling(
        &mut self,
        raw: &RawDataset,
        kind: Option<Kind>,
        ruling: &Spanned<RawRuling>,
        field: &str,
    ) -> Option<Ruling> {
        let found = match ruling.get_ref() {
            RawRuling::PreferStore(store) => match store.parse::<StoreId>() {
                Ok(store) => Ruling::PreferStore(store),
                Err(problem) => {
                    self.refuse(ruling.span(), field, problem, "{ prefer_store = \"d1\" }");
                    return None;
                }
            },
            RawRuling::Word(word) => match word.as_str() {
                "lww" => Ruling::Lww,
                "keep_siblings" => Ruling::KeepSiblings,
                "delete_wins" => Ruling::DeleteWins,
                "edit_wins" => Ruling::EditWins,
                "merge" => Ruling::Merge,
                "prefer_store" => {
                    let problem = "which store is preferred is not said".to_owned();
                    self.refuse(ruling.span(), field, problem, "{ prefer_store = \"d1\" }");
                    return None;
                }
                "rule" => {
                    let problem = "\"rule\" is not built yet".to_owned();
                    self.refuse(ruling.span(), field, problem, RULINGS);
                    return None;
                }
                other => {
                    let problem = format!("{other:?} is not known here");
                    self.refuse(ruling.span(), field, problem, RULINGS);
                    return None;
                }
            },
        };
        let mut refuse = |problem: &str, accepted: &str| {
            self.refuse(ruling.span(), field, problem.to_owned(), accepted);
            None
        };
        match found {
            Ruling::Merge if kind == Some(Kind::Binary) => refuse(
                "binary values have neither fields nor lines that could be merged",
                "\"keep_siblings\", or another kind",
            ),
            Ruling::Merge if raw.d1.as_ref().is_some_and(|d1| d1.get_ref().keep.is_some()) => {
                refuse(
                    "a merge starts from what D1 holds, and D1 is to keep references only",
                    "d1 = {}, or another ruling",
                )
            }
            Ruling::Lww => Some(found),
            // What is left of a set when the time of one of its values passes is not decided.
            _ if raw.ttl.as_ref().is_some_and(|ttl| ttl.get_ref() != "never") => refuse(
                "values that expire are decided by the later stamp alone",
                "\"lww\", or no ttl",
            ),
            _ => Some(found),
        }
    }

    fn fields_of(
        &mut self,
        conflict: &RawConflict,
        kind: Option<Kind>,
        conflicts: &Conflicts,
    ) -> FieldRules {
        let Some(fields) = &conflict.fields else { return FieldRules::default() };
        let field = "dataset.conflict.fields";
        if !conflicts.rulings().any(|ruling| ruling == Ruling::Merge) {
            let problem = "fields have strategies, and nothing is merged by field".to_owned();
            let accepted = "default = \"merge\", or a prefix that is merged";
            self.refuse(fields.span(), field, problem, accepted);
        } else if kind == Some(Kind::Text) {
            let problem = "text has lines and no fields".to_owned();
            self.refuse(fields.span(), field, problem, "no fields, or kind = \"json\"");
        }
        let rules =
            fields.get_ref().iter().map(|(pointer, strategy)| (pointer.as_str(), strategy.clone()));
        match FieldRules::new(rules) {
            Ok(rules) => rules,
            Err(error) => {
                let accepted = "pointers such as \"/stock\" or \"/lines/*/amount\"";
                self.refuse(fields.span(), field, error.to_string(), accepted);
                FieldRules::default()
            }
        }
    }
}
