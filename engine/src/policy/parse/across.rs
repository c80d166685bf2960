//! What datasets, and coordinators, must not be to each other.

use super::super::{Dataset, Durability};
use super::raw::RawConfig;
use super::{RESERVED_PREFIX, Reader};
use crate::record::StoreId;
use std::collections::BTreeMap;
use toml::Spanned;

impl Reader<'_> {
    pub(super) fn check_names(&mut self, raw: &RawConfig) {
        let mut seen = BTreeMap::new();
        for dataset in &raw.dataset {
            let name = &dataset.get_ref().name;
            self.of = Some(name.get_ref().clone());
            if seen.insert(name.get_ref(), ()).is_some() {
                let problem = format!("{:?} is the name of an earlier dataset", name.get_ref());
                self.refuse(name.span(), "dataset.name", problem, "a name of its own");
            }
        }
    }

    /// Two datasets over one table would each take the other's writes for foreign ones.
    pub(super) fn check_tables(&mut self, raw: &RawConfig, datasets: &[Dataset]) {
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        for (raw, dataset) in raw.dataset.iter().zip(datasets) {
            let Some(table) = &dataset.table else { continue };
            self.of = Some(dataset.name.to_string());
            // SQLite does not tell names apart by case.
            let owner = taken.insert(table.name.to_ascii_lowercase(), &dataset.name);
            if let (Some(owner), Some(d1)) = (owner, &raw.get_ref().d1) {
                let span = d1.get_ref().table.as_ref().map_or(d1.span(), Spanned::span);
                let problem = format!("table {:?} is that of dataset {owner:?}", table.name);
                self.refuse(span, "dataset.d1.table", problem, "a table of its own");
            }
        }
    }

    /// Two datasets under one prefix would each take the other's keys for their own.
    pub(super) fn check_prefixes(&mut self, raw: &RawConfig, datasets: &[Dataset]) {
        for store in [StoreId::Kv, StoreId::R2] {
            let mut taken = vec![("Tidelock itself", RESERVED_PREFIX)];
            for (raw, dataset) in raw.dataset.iter().zip(datasets) {
                let Some(projection) = dataset.projection(store) else { continue };
                self.of = Some(dataset.name.to_string());
                let prefix = projection.prefix.as_str();
                let meets = |held: &str| held.starts_with(prefix) || prefix.starts_with(held);
                if let Some((owner, held)) = taken.iter().find(|(_, held)| meets(held)) {
                    let raw = raw.get_ref();
                    let section = if store == StoreId::Kv { &raw.kv } else { &raw.r2 };
                    let written = section.as_ref().and_then(|s| s.get_ref().prefix.as_ref());
                    let span = written.map_or(raw.name.span(), Spanned::span);
                    let problem = format!("{prefix:?} overlaps {held:?} of {owner} in {store}");
                    let accepted = "a prefix that neither begins another nor begins with one";
                    self.refuse(span, &format!("dataset.{store}.prefix"), problem, accepted);
                }
                taken.push((&dataset.name, prefix));
            }
        }
    }

    /// Nobody shares these stores, so nobody can keep a write that the authority lacks.
    pub(super) fn check_kept(&mut self, raw: &RawConfig, datasets: &[Dataset]) {
        let asked = raw.dataset.iter().zip(datasets);
        for (raw, of) in asked.filter(|(_, dataset)| dataset.durability == Durability::Peer) {
            let Some(word) = &raw.get_ref().durability else { continue };
            self.of = Some(of.name.to_string());
            let problem = "no peer shares this coordinator's stores, so none can keep a write \
                           that they lack"
                .to_owned();
            let accepted = "a [[peer]] of this site beside it, or \"authority\" or \"local\"";
            self.refuse(word.span(), "dataset.durability", problem, accepted);
        }
    }
}
