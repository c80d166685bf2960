//! Policies from TOML.
//!
//! ```text
//! text -> toml (types, unknown fields, spans) -> checks, all of them -> Config or every mistake
//! ```
//!
//! Invariant: a [`Config`] that is returned can be kept; whatever is not built is refused here
//! and never ignored. Every mistake names file, line, column and field, and says what would be
//! accepted.

use super::{
    Dataset, Durability, INTENT_BYTES_MAX, INTENTS_MAX, Keep, Kind, Oversize, Policy, Projection,
    RECONCILE_EVERY, ReadLevel, Strategy, Table,
};
use crate::backlog::{Mode, Queue};
use crate::cron::Cron;
use crate::env::Peer;
use crate::fields::Fields;
use crate::record::StoreId;
use crate::version::{NodeId, SiteId};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;

/// The longest prefix, so that half of KV's key is left to the record's own.
pub const PREFIX_BYTES_MAX: usize = 256;
/// What Tidelock keeps for itself in every store begins so.
pub const RESERVED_PREFIX: &str = "_tidelock/";
const NAME_BYTES_MAX: usize = 64;
/// Fields of one projection.
const FIELDS_MAX: usize = 64;
/// Tidelock's own tables, SQLite's and Cloudflare's.
const RESERVED_TABLES: [&str; 3] = ["tidelock_", "sqlite_", "_cf_"];
/// Each look lists everything, which the services bill.
const RECONCILE_EVERY_MIN: Duration = Duration::from_secs(1);
const RECONCILE_EVERY_MAX: Duration = Duration::from_secs(30 * 86_400);

/// What a coordinator as a whole may hold: a dataset's bounds beyond it would mean nothing.
const QUEUE_RECORDS_MAX: usize = INTENTS_MAX;
const QUEUE_BYTES_MAX: usize = INTENT_BYTES_MAX;

/// The `tidelock.toml` that is written at the first start.
pub const DEFAULT: &str = include_str!("default.toml");

/// Everything that a configuration file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the API and the dashboard are served.
    pub listen: SocketAddr,
    /// This coordinator; unique among all that talk to each other.
    pub node: NodeId,
    /// The site whose stores it has.
    pub site: SiteId,
    /// The other coordinators.
    pub peers: Vec<ConfiguredPeer>,
    /// The datasets.
    pub policy: Policy,
}

/// Another coordinator, as a configuration file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredPeer {
    /// Who, and whose stores it has.
    pub peer: Peer,
    /// Where it answers.
    pub url: String,
}

/// True for an address at which a coordinator can answer.
pub fn is_peer_url(url: &str) -> bool {
    let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && url.bytes().all(|byte| byte.is_ascii_graphic())
}

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The field, as a path such as `dataset.kv.prefix`.
    pub field: String,
    /// Of which dataset.
    pub dataset: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What would be accepted.
    pub accepted: String,
    /// The line itself.
    pub excerpt: String,
    /// How many of its characters this is about.
    pub width: usize,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gap = " ".repeat(number.len());
        let indent = " ".repeat(self.column - 1);
        let carets = "^".repeat(self.width);
        writeln!(f, "error: {}", self.problem)?;
        writeln!(f, "{gap}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{gap} |")?;
        // A tab would set the carets off.
        writeln!(f, "{number} | {}", self.excerpt.replace('\t', " "))?;
        writeln!(f, "{gap} | {indent}{carets}")?;
        write!(f, "{gap} = field: {}", self.field)?;
        if let Some(dataset) = &self.dataset {
            write!(f, ", of dataset {dataset:?}")?;
        }
        writeln!(f)?;
        write!(f, "{gap} = accepted: {}", self.accepted)
    }
}

impl std::error::Error for PolicyError {}

/// Reads a configuration, or gives every mistake in it, in the order of the file.
pub fn parse(file_name: &str, text: &str) -> Result<Config, Vec<PolicyError>> {
    let mut reader = Reader { file: file_name, text, of: None, errors: Vec::new() };
    let raw: RawConfig = match toml::from_str(text) {
        Ok(raw) => raw,
        Err(error) => return Err(vec![reader.syntax(&error)]),
    };
    let config = reader.config(&raw);
    reader.errors.sort_by_key(|error| (error.line, error.column));
    if reader.errors.is_empty() { Ok(config) } else { Err(reader.errors) }
}

/// What [`lifetime`] reads.
pub const LIFETIMES: &str = "a number with s, m, h or d, from 1s to 3650d, or \"never\"";
const LIFETIME_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// A time after which a value expires, as in `30d`.
pub fn lifetime(text: &str) -> Option<Duration> {
    let within = |lifetime: &Duration| !lifetime.is_zero() && *lifetime <= LIFETIME_MAX;
    duration(text).filter(within)
}

/// A number of bytes, as in `64MB`.
fn size(text: &str) -> Option<usize> {
    let units = [("KB", 10), ("MB", 20)];
    units.into_iter().find_map(|(unit, shift)| {
        let count = text.strip_suffix(unit)?;
        // `parse` alone would take a sign.
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count: usize = digits.then(|| count.parse().ok()).flatten()?;
        count.checked_mul(1 << shift)
    })
}

fn duration(text: &str) -> Option<Duration> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let seconds = units.into_iter().find_map(|(unit, seconds)| {
        let count = text.strip_suffix(unit)?;
        // `parse` alone would take a sign.
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count: u32 = digits.then(|| count.parse().ok()).flatten()?;
        Some(u64::from(count) * seconds)
    });
    seconds.map(Duration::from_secs)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    listen: Option<Spanned<String>>,
    node: Option<Spanned<u16>>,
    site: Option<u16>,
    #[serde(default)]
    peer: Vec<Spanned<RawPeer>>,
    #[serde(default)]
    dataset: Vec<Spanned<RawDataset>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeer {
    node: Spanned<u16>,
    site: Option<u16>,
    url: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDataset {
    name: Spanned<String>,
    kind: Spanned<String>,
    d1: Option<Spanned<RawAuthority>>,
    kv: Option<Spanned<RawProjection>>,
    r2: Option<Spanned<RawProjection>>,
    strategy: Option<Spanned<RawStrategy>>,
    oversize: Option<Spanned<String>>,
    read: Option<Spanned<String>>,
    durability: Option<Spanned<String>>,
    conflict: Option<RawConflict>,
    reconcile: Option<RawReconcile>,
    backlog: Option<Spanned<String>>,
    queue: Option<RawQueue>,
    ttl: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuthority {
    table: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    keep: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProjection {
    prefix: Option<Spanned<String>>,
    keep: Option<Spanned<RawKeep>>,
}

enum RawKeep {
    Word(String),
    Fields(Vec<String>),
}

impl<'de> Deserialize<'de> for RawKeep {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = RawKeep;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"full\", \"reference\" or a list of fields")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawKeep, E> {
                Ok(RawKeep::Word(text.to_owned()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<RawKeep, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(RawKeep::Fields(names))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStrategy {
    d1: Option<Spanned<String>>,
    kv: Option<Spanned<String>>,
    r2: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReconcile {
    every: Option<Spanned<String>>,
    recent: Option<Spanned<String>>,
    full: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { records = 10000, bytes = \"64MB\" }")]
struct RawQueue {
    records: Option<Spanned<i64>>,
    bytes: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConflict {
    default: Option<Spanned<String>>,
}

/// What a projection is of.
struct Kept<'a> {
    name: &'a str,
    kind: Option<Kind>,
    table: Option<&'a Table>,
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    /// The dataset that is being looked at.
    of: Option<String>,
    errors: Vec<PolicyError>,
}

impl Reader<'_> {
    fn at(&self, span: Range<usize>, field: &str, problem: String, accepted: &str) -> PolicyError {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let excerpt = self.text[line_start..].lines().next().unwrap_or_default();
        let column = before[line_start..].chars().count() + 1;
        let rest = excerpt.chars().count().saturating_sub(column - 1).max(1);
        let spanned = self.text.get(start..span.end).unwrap_or_default().chars().count();
        PolicyError {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            field: field.to_owned(),
            dataset: self.of.clone(),
            problem,
            accepted: accepted.to_owned(),
            excerpt: excerpt.to_owned(),
            width: spanned.clamp(1, rest),
        }
    }

    fn refuse(&mut self, span: Range<usize>, field: &str, problem: String, accepted: &str) {
        let error = self.at(span, field, problem, accepted);
        self.errors.push(error);
    }

    /// What `toml` and `serde` found: the field and what is accepted stand in their message.
    fn syntax(&self, error: &toml::de::Error) -> PolicyError {
        let message = error.message();
        let (problem, accepted) = match message.split_once(", expected ") {
            Some((problem, accepted)) => (problem, accepted),
            None if message.starts_with("missing field") => (message, "the field with a value"),
            None if message.starts_with("unknown field") => (message, "no field here"),
            None => (message, "valid TOML, see the default tidelock.toml"),
        };
        let mut error = self.at(error.span().unwrap_or(0..0), "", problem.to_owned(), accepted);
        let quoted = message.contains(" field `").then(|| message.split('`').nth(1)).flatten();
        let written = error.excerpt.split(['=', '#']).next().unwrap_or_default().trim();
        error.field = quoted.unwrap_or(written).to_owned();
        error.dataset = self.section(error.line);
        error
    }

    /// The name of the dataset in whose section a line is. Read from the text, since there is nothing
    /// else where the file could not be read.
    fn section(&self, line: usize) -> Option<String> {
        let lines: Vec<&str> = self.text.lines().map(str::trim).collect();
        let begins = lines.iter().take(line).rposition(|line| line.starts_with("[[dataset]]"))?;
        let section = lines[begins + 1..].iter().take_while(|line| !line.starts_with("[["));
        let names = section.filter_map(|line| line.strip_prefix("name")?.trim().strip_prefix('='));
        let name = names.map(|name| name.trim().split('"').nth(1)).next()?;
        name.map(str::to_owned)
    }

    /// One of a few words. `later` are those that are known but not built yet.
    fn word<T: Copy>(
        &mut self,
        value: &Spanned<String>,
        field: &str,
        words: &[(&str, T)],
        later: &[&str],
    ) -> Option<T> {
        let text = value.get_ref().as_str();
        if let Some((_, found)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*found);
        }
        let problem = if later.contains(&text) {
            format!("{text:?} is not built yet")
        } else {
            format!("{text:?} is not known here")
        };
        let accepted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.refuse(value.span(), field, problem, &accepted.join(", "));
        None
    }

    fn config(&mut self, raw: &RawConfig) -> Config {
        let mut listen = SocketAddr::from(([127, 0, 0, 1], 7878));
        if let Some(text) = &raw.listen {
            match text.get_ref().parse() {
                Ok(address) => listen = address,
                Err(_) => {
                    let problem = format!("{:?} is no address with a port", text.get_ref());
                    self.refuse(text.span(), "listen", problem, "such as \"127.0.0.1:7878\"");
                }
            }
        }
        let node = NodeId(raw.node.as_ref().map_or(1, |node| *node.get_ref()));
        if let (Some(raw), NodeId::FOREIGN) = (&raw.node, node) {
            let problem = format!("{} stands for writes past every coordinator", node.0);
            self.refuse(raw.span(), "node", problem, "a number from 0 to 65534");
        }
        if raw.dataset.is_empty() {
            let problem = "no dataset is declared, so nothing could be kept".to_owned();
            self.refuse(0..0, "dataset", problem, "at least one [[dataset]]");
        }
        let datasets: Vec<Dataset> = raw.dataset.iter().map(|raw| self.dataset(raw)).collect();
        self.check_names(raw);
        self.check_prefixes(raw, &datasets);
        self.check_tables(raw, &datasets);
        self.of = None;
        let site = SiteId(raw.site.unwrap_or(0));
        let peers = self.peers(raw, Peer { node, site });
        if !peers.iter().any(|known| known.peer.site == site) {
            self.check_kept(raw, &datasets);
        }
        Config { listen, node, site, peers, policy: Policy::new(datasets) }
    }

    /// Nobody shares these stores, so nobody can keep a write that the authority lacks.
    fn check_kept(&mut self, raw: &RawConfig, datasets: &[Dataset]) {
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

    fn peers(&mut self, raw: &RawConfig, own: Peer) -> Vec<ConfiguredPeer> {
        let mut peers: Vec<ConfiguredPeer> = Vec::new();
        for raw in raw.peer.iter().map(Spanned::get_ref) {
            let node = NodeId(*raw.node.get_ref());
            let peer = Peer { node, site: raw.site.map_or(own.site, SiteId) };
            let again = peers.iter().any(|known| known.peer.node == node);
            if node == own.node || node == NodeId::FOREIGN || again {
                let problem = format!("{} is no number for this peer", node.0);
                let accepted = "a number from 0 to 65534 that no other coordinator has";
                self.refuse(raw.node.span(), "peer.node", problem, accepted);
            }
            let url = raw.url.get_ref().clone();
            if !is_peer_url(&url) {
                let problem = format!("{url:?} is no address of a coordinator");
                self.refuse(
                    raw.url.span(),
                    "peer.url",
                    problem,
                    "such as \"http://10.0.0.8:7878\"",
                );
            }
            peers.push(ConfiguredPeer { peer, url });
        }
        peers
    }

    fn dataset(&mut self, spanned: &Spanned<RawDataset>) -> Dataset {
        let raw = spanned.get_ref();
        let name = raw.name.get_ref();
        self.of = Some(name.clone());
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
            let problem = format!("{name:?} is no name for a dataset");
            let accepted = "1 to 64 of a-z, 0-9, \"_\" and \"-\"";
            self.refuse(raw.name.span(), "dataset.name", problem, accepted);
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
                "{name:?} is not kept in D1. A dataset is kept in D1, its authority; R2 or peers \
                 as authority are not built yet"
            );
            self.refuse(raw.name.span(), "dataset.d1", problem, "d1 = {}");
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
        if let Some(default) = raw.conflict.as_ref().and_then(|raw| raw.default.as_ref()) {
            const LATER: [&str; 6] =
                ["merge", "keep_siblings", "prefer_store", "delete_wins", "edit_wins", "rule"];
            self.word(default, "dataset.conflict.default", &[("lww", ())], &LATER);
        }
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
            durability,
            backlog: self.backlog(raw),
            queue: self.queue(raw),
            ttl: self.ttl(raw),
            reconcile_every: self.reconcile_every(raw),
            reconcile_recent: self.reconcile_recent(raw),
            reconcile_full: self.reconcile_full(raw),
        }
    }

    fn reconcile_every(&mut self, raw: &RawDataset) -> Option<Duration> {
        let every = raw.reconcile.as_ref().and_then(|raw| raw.every.as_ref());
        let Some(every) = every else { return Some(RECONCILE_EVERY) };
        let text = every.get_ref().as_str();
        if text == "never" {
            return None;
        }
        let seconds = duration(text).map(|duration| duration.as_secs());
        let (least, most) = (RECONCILE_EVERY_MIN.as_secs(), RECONCILE_EVERY_MAX.as_secs());
        match seconds.filter(|seconds| (least..=most).contains(seconds)) {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => {
                let problem = format!("{text:?} is no time between two looks over the stores");
                let accepted = format!(
                    "a number with s, m, h or d, from {least}s to {}d, or \"never\"",
                    most / 86_400
                );
                self.refuse(every.span(), "dataset.reconcile.every", problem, &accepted);
                None
            }
        }
    }

    fn reconcile_recent(&mut self, raw: &RawDataset) -> Option<Duration> {
        let reconcile = raw.reconcile.as_ref()?;
        let recent = reconcile.recent.as_ref()?;
        let text = recent.get_ref().as_str();
        if text == "never" {
            return None;
        }
        // Mistakes in these are told of by themselves.
        let every = reconcile.every.as_ref().map(|every| every.get_ref().as_str());
        let every = every.map_or(Some(RECONCILE_EVERY), duration);
        let (field, least) = ("dataset.reconcile.recent", RECONCILE_EVERY_MIN.as_secs());
        let accepted = format!("a number with s, m, h or d, from {least}s, or \"never\"");
        let found = duration(text)
            .filter(|found| (RECONCILE_EVERY_MIN..=RECONCILE_EVERY_MAX).contains(found));
        match (found, every) {
            (None, _) => {
                let problem = format!("{text:?} is no time between two looks over what is recent");
                self.refuse(recent.span(), field, problem, &accepted);
            }
            (Some(found), Some(every)) if found >= every => {
                let problem =
                    format!("everything is looked over as often, so that {text:?} adds nothing");
                let accepted = "less than `every`; or a longer `every`, such as \"1h\"";
                self.refuse(recent.span(), field, problem, accepted);
            }
            (Some(_), None) if reconcile.full.is_none() => {
                let problem = "what is recent is what has changed since the last look over \
                               everything, and nobody looks over everything";
                let accepted = "with `every`, or with `full`, such as \"0 3 * * *\"";
                self.refuse(recent.span(), field, problem.to_owned(), accepted);
            }
            (Some(_), _) => {}
        }
        found
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

    fn reconcile_full(&mut self, raw: &RawDataset) -> Option<Cron> {
        let full = raw.reconcile.as_ref().and_then(|raw| raw.full.as_ref())?;
        match full.get_ref().parse() {
            Ok(cron) => Some(cron),
            Err(error) => {
                let problem = format!("{:?}: {error}", full.get_ref());
                let accepted = "five fields in UTC, as in \"0 3 * * *\" for three every night";
                self.refuse(full.span(), "dataset.reconcile.full", problem, accepted);
                None
            }
        }
    }

    /// The table of a structured dataset.
    fn table(&mut self, raw: &RawDataset, kind: Option<Kind>) -> Option<Table> {
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

    fn projection(
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

    /// Whether D1 keeps references to the values.
    fn d1_refers(&mut self, raw: &RawDataset, kind: Option<Kind>, r2: Option<&Projection>) -> bool {
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

    fn check_names(&mut self, raw: &RawConfig) {
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
    fn check_tables(&mut self, raw: &RawConfig, datasets: &[Dataset]) {
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
    fn check_prefixes(&mut self, raw: &RawConfig, datasets: &[Dataset]) {
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
}

#[cfg(test)]
mod tests;
