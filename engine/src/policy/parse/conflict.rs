//! What becomes of concurrent writes.

use super::super::{Conflicts, Kind, PREFIXES_MAX, Ruling};
use super::Reader;
use super::raw::{RawConflict, RawDataset, RawRuling};
use crate::merge::FieldRules;
use crate::record::StoreId;
use std::collections::BTreeMap;
use toml::Spanned;

const RULINGS: &str = "\"lww\", \"keep_siblings\", { prefer_store = \"d1\" }, \"delete_wins\", \
                       \"edit_wins\", \"merge\", { rule = \"NAME\", fallback = \"lww\" }";
const FALLBACKS: &str = "\"lww\", \"keep_siblings\", { prefer_store = \"d1\" }, \"delete_wins\" or \
                         \"edit_wins\"";

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
        let found = match self.named(raw, ruling.get_ref()) {
            Ok(found) => found,
            Err((problem, accepted)) => {
                self.refuse(ruling.span(), field, problem, accepted);
                return None;
            }
        };
        let mut refuse = |problem: &str, accepted: &str| {
            self.refuse(ruling.span(), field, problem.to_owned(), accepted);
            None
        };
        match &found {
            Ruling::Rule { .. } if !matches!(kind, None | Some(Kind::Json | Kind::Structured)) => {
                refuse("rules are given JSON", "\"keep_siblings\", or kind = \"json\"")
            }
            Ruling::Merge if kind == Some(Kind::Binary) => refuse(
                "binary values have neither fields nor lines that could be merged",
                "\"keep_siblings\", or another kind",
            ),
            Ruling::Merge | Ruling::Rule { .. }
                if raw.d1.as_ref().is_some_and(|d1| d1.get_ref().keep.is_some()) =>
            {
                refuse(
                    "it starts from what D1 holds, and D1 is to keep references only",
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

    /// The ruling that is written, or what is wrong with it and what would be accepted.
    fn named(
        &mut self,
        raw: &RawDataset,
        ruling: &RawRuling,
    ) -> Result<Ruling, (String, &'static str)> {
        let which_store = "{ prefer_store = \"d1\" }";
        match ruling {
            RawRuling::PreferStore(store) => {
                let store = store.parse::<StoreId>().map_err(|problem| (problem, which_store))?;
                Ok(Ruling::PreferStore(store))
            }
            RawRuling::Word(word) => match word.as_str() {
                "lww" => Ok(Ruling::Lww),
                "keep_siblings" => Ok(Ruling::KeepSiblings),
                "delete_wins" => Ok(Ruling::DeleteWins),
                "edit_wins" => Ok(Ruling::EditWins),
                "merge" => Ok(Ruling::Merge),
                "prefer_store" => {
                    Err(("which store is preferred is not said".to_owned(), which_store))
                }
                "rule" => Err((
                    "which rule decides is not said".to_owned(),
                    "{ rule = \"NAME\", fallback = \"lww\" }, and a [[rule]] of this name",
                )),
                other => Err((format!("{other:?} is not known here"), RULINGS)),
            },
            RawRuling::Rule { rule: name, fallback } => {
                let fallback = match self.named(raw, fallback)? {
                    Ruling::Merge | Ruling::Rule { .. } => {
                        let problem = "the fallback could fail as the rule does".to_owned();
                        return Err((problem, FALLBACKS));
                    }
                    fallback => Box::new(fallback),
                };
                if self.refused_rules.contains(name) {
                    return Ok(*fallback);
                }
                let Some(rule) = self.rules.get_mut(name) else {
                    let problem = format!("no rule {name:?} is declared");
                    return Err((problem, "the name of a [[rule]]"));
                };
                let dataset = raw.name.get_ref().as_str();
                if !rule.used_by.iter().any(|by| &**by == dataset) {
                    rule.used_by.push(dataset.into());
                }
                Ok(Ruling::Rule { rule: rule.rule.clone(), fallback })
            }
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
        if !conflicts.rulings().any(|ruling| *ruling == Ruling::Merge) {
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
