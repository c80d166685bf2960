//! Where a dataset stands in each store, and what is kept there.

use super::super::{Keep, Kind, Projection, Table};
use super::raw::{RawDataset, RawKeep, RawProjection};
use super::{PREFIX_BYTES_MAX, Reader};
use crate::fields::Fields;
use std::collections::BTreeSet;
use toml::Spanned;

/// Fields of one projection.
const FIELDS_MAX: usize = 64;

/// Tidelock's own tables, SQLite's and Cloudflare's.
const RESERVED_TABLES: [&str; 3] = ["tidelock_", "sqlite_", "_cf_"];

/// What a projection is of.
pub(super) struct Kept<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Option<Kind>,
    pub(super) table: Option<&'a Table>,
}

impl Reader<'_> {
    /// The table of a structured dataset.
    pub(super) fn table(&mut self, raw: &RawDataset, kind: Option<Kind>) -> Option<Table> {
        const EXAMPLE: &str = "d1 = { table = \"products\", key = \"sku\" }";
        let spanned = raw.d1.as_ref()?;
        let authority = spanned.get_ref();
        if kind != Some(Kind::Structured) {
            for (field, said) in [("table", &authority.table), ("key", &authority.key)] {
                if let (Some(said), true) = (said, kind.is_some()) {
                    let problem = "only a structured dataset has a table of its own".to_owned();
                    let field = format!("dataset.d1.{field}");
                    self.refuse(said.span(), &field, problem, "d1 = {}, or kind = \"structured\"");
                }
            }
            return None;
        }
        let (Some(table), Some(key)) = (&authority.table, &authority.key) else {
            let problem = "a structured dataset needs its table and the column of its key";
            self.refuse(spanned.span(), "dataset.d1", problem.to_owned(), EXAMPLE);
            return None;
        };
        for (name, field) in [(table, "dataset.d1.table"), (key, "dataset.d1.key")] {
            if name.get_ref().is_empty() || name.get_ref().contains('\0') {
                let problem = format!("{:?} is no name in D1", name.get_ref());
                self.refuse(name.span(), field, problem, EXAMPLE);
            }
        }
        let lower = table.get_ref().to_ascii_lowercase();
        if let Some(owner) = RESERVED_TABLES.iter().find(|owner| lower.starts_with(**owner)) {
            let problem = format!("the names of tables that begin with {owner:?} are reserved");
            self.refuse(table.span(), "dataset.d1.table", problem, "a table of your own");
        }
        Some(Table { name: table.get_ref().clone(), key: key.get_ref().clone(), schema: None })
    }

    pub(super) fn projection(
        &mut self,
        raw: &Spanned<RawProjection>,
        of: &Kept<'_>,
        field: &str,
    ) -> Projection {
        let raw = raw.get_ref();
        let keep = raw.keep.as_ref().and_then(|keep| self.keep(keep, of, &format!("{field}.keep")));
        let prefix = match &raw.prefix {
            None => format!("{}/", of.name),
            Some(prefix) => {
                let (text, field) = (prefix.get_ref(), format!("{field}.prefix"));
                if text.len() > PREFIX_BYTES_MAX {
                    let problem = format!("the prefix has {} bytes", text.len());
                    let accepted = format!("at most {PREFIX_BYTES_MAX} bytes");
                    self.refuse(prefix.span(), &field, problem, &accepted);
                }
                if text.chars().any(char::is_control) {
                    let problem = "the prefix holds a control character".to_owned();
                    self.refuse(prefix.span(), &field, problem, "printable characters");
                }
                text.clone()
            }
        };
        Projection { prefix, keep: keep.unwrap_or(Keep::Full) }
    }

    /// Whether D1 keeps references to the values.
    pub(super) fn d1_refers(
        &mut self,
        raw: &RawDataset,
        kind: Option<Kind>,
        r2: Option<&Projection>,
    ) -> bool {
        let keep = raw.d1.as_ref().and_then(|d1| d1.get_ref().keep.as_ref());
        let Some(word) = keep else { return false };
        let field = "dataset.d1.keep";
        let refers = self.word(word, field, &[("full", false), ("reference", true)], &[]);
        if refers == Some(true) {
            let problem = if kind == Some(Kind::Structured) {
                "a row stands whole in its table"
            } else if r2.is_none_or(|r2| r2.keep != Keep::Full) {
                "nobody would have the values: R2 is to keep them whole"
            } else {
                return true;
            };
            self.refuse(word.span(), field, problem.to_owned(), "keep = \"full\", or r2 = {}");
        }
        false
    }

    fn keep(&mut self, keep: &Spanned<RawKeep>, of: &Kept<'_>, field: &str) -> Option<Keep> {
        let names = match keep.get_ref() {
            RawKeep::Word(word) => {
                return match word.as_str() {
                    "full" => Some(Keep::Full),
                    "reference" => Some(Keep::Reference),
                    _ => {
                        let problem = format!("{word:?} is not known here");
                        let accepted = "\"full\", \"reference\", or a list of fields";
                        self.refuse(keep.span(), field, problem, accepted);
                        None
                    }
                };
            }
            RawKeep::Fields(names) => names,
        };
        let mut refuse = |problem: &str, accepted: &str| {
            self.refuse(keep.span(), field, problem.to_owned(), accepted);
        };
        if let Some(Kind::Text | Kind::Binary) = of.kind {
            refuse("values of this kind have no fields", "\"full\" or \"reference\"");
        }
        let distinct: BTreeSet<&String> = names.iter().collect();
        if names.is_empty() || names.len() > FIELDS_MAX {
            let accepted = format!("1 to {FIELDS_MAX} fields, \"full\", or \"reference\"");
            refuse(&format!("the list has {} fields", names.len()), &accepted);
        } else if distinct.len() < names.len() {
            refuse("a field is listed twice", "each field once");
        }
        if let Some(table) = of.table
            && !names.contains(&table.key)
        {
            let problem = format!("the copy would lose the key: {:?} is not listed", table.key);
            refuse(&problem, &format!("a list with {:?} in it", table.key));
        }
        Some(Keep::Fields(Fields::new(names.clone())))
    }
}
