//! Policies from TOML.
//!
//! ```text
//! text -> toml (types, unknown fields, spans) -> checks, all of them -> Config or every mistake
//! ```
//!
//! Invariant: a [`Config`] that is returned can be kept; whatever is not built is refused here
//! and never ignored. Every mistake names file, line, column and field, and says what would be
//! accepted.

mod across;
mod conflict;
mod dataset;
mod error;
mod places;
mod raw;
mod reconcile;
mod rule;
#[cfg(test)]
mod tests;
mod units;
mod webhook;

pub use error::PolicyError;
pub use rule::{ConfiguredRule, EXAMPLES_MAX, ROUNDS, RULES_MAX};
pub use units::{LIFETIMES, lifetime};

use super::webhook::Webhook;
use super::{Dataset, Policy};
use crate::audit::Retention;
use crate::env::Peer;
use crate::version::{NodeId, SiteId};
use raw::{RawAudit, RawConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use toml::Spanned;

/// The longest prefix, so that half of KV's key is left to the record's own.
pub const PREFIX_BYTES_MAX: usize = 256;
/// What Tidelock keeps for itself in every store begins so.
pub const RESERVED_PREFIX: &str = "_tidelock/";

/// The log is looked at once a day.
const AUDIT_KEEP_MIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Most segments of the audit log that may be asked for.
const SEGMENTS_MAX: usize = 100_000;

/// The `tidelock.toml` that is written at the first start.
pub const DEFAULT: &str = include_str!("default.toml");

/// Everything that a configuration file says.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API and the dashboard are served.
    pub listen: SocketAddr,
    /// This coordinator; unique among all that talk to each other.
    pub node: NodeId,
    /// The site whose stores it has.
    pub site: SiteId,
    /// The other coordinators.
    pub peers: Vec<ConfiguredPeer>,
    /// Rules for conflicts, by name.
    pub rules: BTreeMap<String, ConfiguredRule>,
    /// Who is told over HTTP.
    pub webhooks: Vec<Webhook>,
    /// What stays in the audit log.
    pub audit: Retention,
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

/// Reads a configuration, or gives every mistake in it, in the order of the file.
pub fn parse(file_name: &str, text: &str) -> Result<Config, Vec<PolicyError>> {
    let mut reader = Reader {
        file: file_name,
        text,
        of: None,
        rules: BTreeMap::new(),
        refused_rules: BTreeSet::new(),
        errors: Vec::new(),
    };
    let raw: RawConfig = match toml::from_str(text) {
        Ok(raw) => raw,
        Err(error) => return Err(vec![reader.syntax(&error)]),
    };
    let config = reader.config(&raw);
    reader.errors.sort_by_key(|error| (error.line, error.column));
    if reader.errors.is_empty() { Ok(config) } else { Err(reader.errors) }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    /// The dataset that is being looked at.
    of: Option<String>,
    rules: BTreeMap<String, ConfiguredRule>,
    /// Rules that were refused: whatever goes by one of them says nothing more.
    refused_rules: BTreeSet<String>,
    errors: Vec<PolicyError>,
}

impl Reader<'_> {
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
        self.rules = self.rules(&raw.rule);
        let datasets: Vec<Dataset> = raw.dataset.iter().map(|raw| self.dataset(raw)).collect();
        self.check_names(raw);
        self.check_prefixes(raw, &datasets);
        self.check_tables(raw, &datasets);
        self.of = None;
        let webhooks = self.webhooks(raw);
        let site = SiteId(raw.site.unwrap_or(0));
        let peers = self.peers(raw, Peer { node, site });
        if !peers.iter().any(|known| known.peer.site == site) {
            self.check_kept(raw, &datasets);
        }
        let rules = std::mem::take(&mut self.rules);
        let audit = raw.audit.as_ref().map(|raw| self.audit(raw)).unwrap_or_default();
        let policy = Policy::new(datasets);
        Config { listen, node, site, peers, webhooks, rules, audit, policy }
    }

    fn audit(&mut self, raw: &RawAudit) -> Retention {
        let mut retention = Retention::default();
        if let Some(keep) = &raw.keep {
            let text = keep.get_ref().as_str();
            match units::lifetime(text).filter(|keep| *keep >= AUDIT_KEEP_MIN) {
                _ if text == "forever" => retention.keep = Duration::MAX,
                Some(keep) => retention.keep = keep,
                None => {
                    let problem = format!("{text:?} is no time for which entries stay in the log");
                    let accepted = "a number of days, from \"1d\" to \"3650d\", or \"forever\"";
                    self.refuse(keep.span(), "audit.keep", problem, accepted);
                }
            }
        }
        if let Some(most) = &raw.segments_max {
            match usize::try_from(*most.get_ref()).unwrap_or(usize::MAX) {
                number if (1..=SEGMENTS_MAX).contains(&number) => retention.segments_max = number,
                number => {
                    let problem = format!("{number} segments of 8 MiB are no bound for the log");
                    let accepted = "a number from 1 to 100000";
                    self.refuse(most.span(), "audit.segments_max", problem, accepted);
                }
            }
        }
        retention
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
}
