//! One dataset: what its values are, what an acknowledgement waits for, and what it may hold.

use super::super::{
    Dataset, Durability, INTENT_BYTES_MAX, INTENTS_MAX, Keep, Kind, Oversize, Projection,
    ReadLevel, Strategy,
};
use super::Reader;
use super::places::Kept;
use super::raw::RawDataset;
use super::units::{LIFETIMES, lifetime, size};
use crate::backlog::{Mode, Queue};
use crate::record::StoreId;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;

const NAME_BYTES_MAX: usize = 64;
/// What [`is_name`] takes.
pub(super) const NAMES: &str = "1 to 64 of a-z, 0-9, \"_\" and \"-\"";

/// True for a name of a dataset, or of what is declared beside them.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(allowed)
}

/// What a coordinator as a whole may hold: a dataset's bounds beyond it would mean nothing.
const QUEUE_RECORDS_MAX: usize = INTENTS_MAX;
const QUEUE_BYTES_MAX: usize = INTENT_BYTES_MAX;

impl Reader<'_> {
    pub(super) fn dataset(&mut self, spanned: &Spanned<RawDataset>) -> Dataset {
        let raw = spanned.get_ref();
        let name = raw.name.get_ref();
        self.of = Some(name.clone());
        if !is_name(name) {
            let problem = format!("{name:?} is no name for a dataset");
            self.refuse(raw.name.span(), "dataset.name", problem, NAMES);
        }
        let kinds = [
            ("json", Kind::Json),
            ("text", Kind::Text),
            ("binary", Kind::Binary),
            ("structured", Kind::Structured),
        ];
        let kind = self.word(&raw.kind, "dataset.kind", &kinds, &[]);
        let table = self.table(raw, kind);
        if raw.d1.is_none() {
            let problem = format!(
                "{name:?} is not kept in D1, which puts the versions of every dataset in order. \
                 Values can stand in R2 alone: D1 then keeps what refers to them"
            );
            let accepted = "d1 = {}, or d1 = { keep = \"reference\" } beside r2";
            self.refuse(raw.name.span(), "dataset.d1", problem, accepted);
        }
        let of = Kept { name, kind, table: table.as_ref() };
        let kv = raw.kv.as_ref().map(|raw| self.projection(raw, &of, "dataset.kv"));
        let r2 = raw.r2.as_ref().map(|raw| self.projection(raw, &of, "dataset.r2"));
        let strategy = self.strategy(raw);
        let d1_refers = self.d1_refers(raw, kind, r2.as_ref());
        let oversize = self.oversize(raw, kind, r2.as_ref());
        let reads = [
            ("any", ReadLevel::Any),
            ("session", ReadLevel::Session),
            ("latest", ReadLevel::Latest),
        ];
        let read = raw.read.as_ref().and_then(|word| self.word(word, "dataset.read", &reads, &[]));
        let durability = self.durability(raw, spanned.span(), &strategy);
        let conflict = self.conflict(raw, kind);
        Dataset {
            name: Arc::from(name.as_str()),
            kind: kind.unwrap_or(Kind::Binary),
            table,
            d1_refers,
            kv,
            r2,
            strategy,
            oversize,
            read: read.unwrap_or(ReadLevel::Any),
            conflict,
            durability,
            backlog: self.backlog(raw),
            queue: self.queue(raw),
            ttl: self.ttl(raw),
            reconcile_every: self.reconcile_every(raw),
            reconcile_recent: self.reconcile_recent(raw),
            reconcile_full: self.reconcile_full(raw),
        }
    }

    fn strategy(&mut self, raw: &RawDataset) -> BTreeMap<StoreId, Strategy> {
        let words =
            [("write-through", Strategy::WriteThrough), ("write-behind", Strategy::WriteBehind)];
        let written = raw.strategy.as_ref().map(Spanned::get_ref);
        let rows = [
            (StoreId::D1, raw.d1.is_some(), written.and_then(|s| s.d1.as_ref())),
            (StoreId::Kv, raw.kv.is_some(), written.and_then(|s| s.kv.as_ref())),
            (StoreId::R2, raw.r2.is_some(), written.and_then(|s| s.r2.as_ref())),
        ];
        let mut strategy = BTreeMap::new();
        for (store, listed, word) in rows {
            let field = format!("dataset.strategy.{store}");
            if let (Some(word), false) = (word, listed) {
                let problem = format!("the dataset is not kept in {store}");
                let accepted = format!("{store} = {{}} in the dataset, or no strategy for it");
                self.refuse(word.span(), &field, problem, &accepted);
                continue;
            }
            let usual = match store {
                StoreId::D1 => Strategy::WriteThrough,
                StoreId::Kv | StoreId::R2 => Strategy::WriteBehind,
            };
            let chosen = word.and_then(|word| self.word(word, &field, &words, &[]));
            if listed {
                strategy.insert(store, chosen.unwrap_or(usual));
            }
        }
        strategy
    }

    fn oversize(
        &mut self,
        raw: &RawDataset,
        kind: Option<Kind>,
        r2: Option<&Projection>,
    ) -> Oversize {
        let structured = kind == Some(Kind::Structured);
        let whole = r2.is_some_and(|r2| r2.keep == Keep::Full);
        let words = [("reference", Oversize::Reference), ("refuse", Oversize::Refuse)];
        let Some(word) = &raw.oversize else {
            return if whole && !structured { Oversize::Reference } else { Oversize::Refuse };
        };
        let field = "dataset.oversize";
        let chosen = self.word(word, field, &words, &[]).unwrap_or(Oversize::Refuse);
        let needs = "a value over D1's limit is kept whole in R2 alone";
        match (chosen, r2) {
            (Oversize::Refuse, _) => {}
            (Oversize::Reference, _) if structured => {
                let problem = "a row stands whole in its table, or not at all".to_owned();
                self.refuse(word.span(), field, problem, "oversize = \"refuse\"");
            }
            (Oversize::Reference, None) => {
                let problem = format!("{needs}, and the dataset is not kept in R2");
                self.refuse(word.span(), field, problem, "r2 = {}, or oversize = \"refuse\"");
            }
            (Oversize::Reference, Some(_)) if whole => {}
            (Oversize::Reference, Some(_)) => {
                let span = raw.r2.as_ref().and_then(|r2| r2.get_ref().keep.as_ref());
                let span = span.map_or(word.span(), Spanned::span);
                let problem = format!("{needs}, and R2 is not to keep it whole");
                let accepted = "keep = \"full\" in r2, or oversize = \"refuse\"";
                self.refuse(span, "dataset.r2.keep", problem, accepted);
            }
        }
        chosen
    }

    fn durability(
        &mut self,
        raw: &RawDataset,
        dataset: Range<usize>,
        strategy: &BTreeMap<StoreId, Strategy>,
    ) -> Durability {
        let words = [
            ("authority", Durability::Authority),
            ("peer", Durability::Peer),
            ("local", Durability::Local),
        ];
        let word = raw.durability.as_ref();
        let known = self.errors.len();
        let chosen = word.and_then(|word| self.word(word, "dataset.durability", &words, &[]));
        let through = strategy.values().any(|strategy| match strategy {
            Strategy::WriteThrough => true,
            Strategy::WriteBehind => false,
        });
        let said = matches!(chosen, Some(Durability::Local | Durability::Peer));
        let said = said || self.errors.len() > known;
        if !through && !strategy.is_empty() && !said {
            let span = raw.strategy.as_ref().map_or(dataset, Spanned::span);
            let problem = "every store is write-behind, so an acknowledged write is in this \
                           machine's journal alone: it survives crashes, not the loss of this disk"
                .to_owned();
            let accepted = "durability = \"local\" to agree to that, \"peer\" to have a peer keep it \
                            too, or d1 = \"write-through\"";
            self.refuse(span, "dataset.durability", problem, accepted);
        }
        chosen.unwrap_or(Durability::Authority)
    }

    fn ttl(&mut self, raw: &RawDataset) -> Option<Duration> {
        let ttl = raw.ttl.as_ref()?;
        let text = ttl.get_ref().as_str();
        if text == "never" {
            return None;
        }
        let found = lifetime(text);
        if found.is_none() {
            let problem = format!("{text:?} is no time after which a value expires");
            self.refuse(ttl.span(), "dataset.ttl", problem, LIFETIMES);
        }
        found
    }

    fn backlog(&mut self, raw: &RawDataset) -> Mode {
        let words = [("absorb", Mode::Absorb), ("promise", Mode::Promise)];
        let word = raw.backlog.as_ref();
        word.and_then(|word| self.word(word, "dataset.backlog", &words, &[]))
            .unwrap_or(Mode::Absorb)
    }

    fn queue(&mut self, raw: &RawDataset) -> Queue {
        let Some(raw) = &raw.queue else { return Queue::default() };
        let (records_max, bytes_max) = (QUEUE_RECORDS_MAX, QUEUE_BYTES_MAX);
        let records = raw.records.as_ref().and_then(|records| {
            let said = *records.get_ref();
            let found = usize::try_from(said).ok().filter(|n| (1..=records_max).contains(n));
            if found.is_none() {
                let problem = format!("{said} is no bound for what may wait");
                let accepted = format!("a number from 1 to {records_max}, or no `records`");
                self.refuse(records.span(), "dataset.queue.records", problem, &accepted);
            }
            found
        });
        let bytes = raw.bytes.as_ref().and_then(|bytes| {
            let text = bytes.get_ref().as_str();
            let found = size(text).filter(|size| (1_024..=bytes_max).contains(size));
            if found.is_none() {
                let problem = format!("{text:?} is no bound for the bytes that may wait");
                let accepted = format!(
                    "a number with KB (1,024 bytes) or MB, from \"1KB\" to \"{}MB\"",
                    bytes_max >> 20
                );
                self.refuse(bytes.span(), "dataset.queue.bytes", problem, &accepted);
            }
            found
        });
        Queue { records, bytes }
    }
}
