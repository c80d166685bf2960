//! The other coordinators, over HTTP.
//!
//! ```text
//! tidelock.toml [[peer]] ─┐
//! tidelock peer add  ─────┴─▶ members ──▶ POST URL/v1/peer   secret, wire version, packed message
//! ```
//!
//! Invariant: a message that was not answered may have been heard. Members that were added while
//! running stand in `peers.json`, so that a restart knows them too; those of the configuration
//! change with it.

use super::folder::{self, FileError};
use super::wire::{self, Envelope};
use crate::env::{Doubt, DoubtKind, Network, Outcome, Peer, PeerMessage, PeerReply};
use crate::env::{Refusal, RefusalKind};
use crate::policy::parse::{ConfiguredPeer, is_peer_url};
use crate::version::{NodeId, SiteId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use ureq::Agent;

/// A message without an answer is given up after this, as calls to stores are.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Members that were added while running.
const MEMBERS_FILE: &str = "peers.json";
/// Members at once; each costs a task and a connection.
const MEMBERS_MAX: usize = 64;

/// Another coordinator, and where it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// The site whose stores it has.
    #[serde(default)]
    pub site: SiteId,
    /// Such as `http://10.0.0.8:7878`.
    pub url: String,
}

impl From<ConfiguredPeer> for Member {
    fn from(configured: ConfiguredPeer) -> Self {
        let ConfiguredPeer { peer: Peer { node, site }, url } = configured;
        Member { node, site, url }
    }
}

/// Where a member is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// The configuration.
    Configured,
    /// It was added while running.
    Added,
}

/// Why a member cannot be added or retired.
#[derive(Debug)]
pub enum MemberError {
    /// It cannot be one.
    Bad(String),
    /// No such member, or one that stands in the configuration.
    NotHere(String),
    /// The list cannot be kept.
    File(FileError),
}

impl fmt::Display for MemberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberError::Bad(problem) | MemberError::NotHere(problem) => f.write_str(problem),
            MemberError::File(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MemberError {}

/// This coordinator's peers.
pub struct HttpPeers {
    own: Peer,
    file: PathBuf,
    /// By number.
    members: RwLock<BTreeMap<NodeId, (Member, Known)>>,
    secret: String,
    agent: Agent,
}

impl fmt::Debug for HttpPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret stays out of logs.
        f.debug_struct("HttpPeers").field("own", &self.own).finish_non_exhaustive()
    }
}

impl HttpPeers {
    /// The configured members, and those that were added in an earlier run. `secret` is what all
    /// of them share.
    pub fn open(
        folder: &Path,
        own: Peer,
        configured: Vec<ConfiguredPeer>,
        secret: String,
    ) -> Result<Self, FileError> {
        let file = folder.join(MEMBERS_FILE);
        let mut members = BTreeMap::new();
        if let Some(text) = folder::read_if_there(&file)? {
            let added: Vec<Member> = serde_json::from_str(&text).map_err(|error| {
                FileError::new(&file, format!("this is no list of peers ({error}); remove it"))
            })?;
            for member in added.into_iter().filter(|member| member.node != own.node) {
                members.insert(member.node, (member, Known::Added));
            }
        }
        for member in configured.into_iter().map(Member::from) {
            members.insert(member.node, (member, Known::Configured));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(ANSWER_MAX))
            .build();
        let agent = Agent::new_with_config(config);
        Ok(HttpPeers { own, file, members: RwLock::new(members), secret, agent })
    }

    /// This coordinator.
    pub fn own(&self) -> Peer {
        self.own
    }

    /// True for the secret that peers share.
    pub fn is_secret(&self, presented: &str) -> bool {
        // Hashes are compared in constant time.
        blake3::hash(presented.as_bytes()) == blake3::hash(self.secret.as_bytes())
    }

    /// The members, in the order of their numbers.
    pub fn members(&self) -> Vec<(Member, Known)> {
        self.read().values().cloned().collect()
    }

    /// Adds a member, or gives one that was added before another address.
    pub fn add(&self, member: Member) -> Result<(), MemberError> {
        check(self.own, &member).map_err(MemberError::Bad)?;
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, Known::Configured)) = members.get(&member.node) {
            let problem = format!(
                "coordinator {} stands in the configuration; change it there and reload",
                member.node
            );
            return Err(MemberError::NotHere(problem));
        }
        if members.len() >= MEMBERS_MAX {
            return Err(MemberError::Bad(format!("there are {MEMBERS_MAX} peers already")));
        }
        let mut changed = members.clone();
        changed.insert(member.node, (member, Known::Added));
        self.keep(&changed)?;
        *members = changed;
        Ok(())
    }

    /// Retires a member that was added while running.
    pub fn retire(&self, node: NodeId) -> Result<(), MemberError> {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        match members.get(&node) {
            None => Err(MemberError::NotHere(format!("there is no peer {node}"))),
            Some((_, Known::Configured)) => {
                let problem = format!(
                    "coordinator {node} stands in the configuration; take it out there and reload"
                );
                Err(MemberError::NotHere(problem))
            }
            Some((_, Known::Added)) => {
                let mut changed = members.clone();
                changed.remove(&node);
                self.keep(&changed)?;
                *members = changed;
                Ok(())
            }
        }
    }

    fn keep(&self, members: &BTreeMap<NodeId, (Member, Known)>) -> Result<(), MemberError> {
        let added: Vec<&Member> = members
            .values()
            .filter(|(_, known)| *known == Known::Added)
            .map(|(member, _)| member)
            .collect();
        let text = serde_json::to_string_pretty(&added).expect("numbers and text");
        folder::replace(&self.file, &format!("{text}\n")).map_err(MemberError::File)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<NodeId, (Member, Known)>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, url: &str, body: &[u8]) -> Outcome<PeerReply> {
        let sent = self
            .agent
            .post(format!("{}/v1/peer", url.trim_end_matches('/')))
            .header("authorization", format!("Bearer {}", self.secret))
            .header("content-type", "application/octet-stream")
            .header(wire::VERSION_HEADER, wire::VERSION)
            .send(body);
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(error) => return no_answer(url, &error),
        };
        let status = answer.status().as_u16();
        let bytes_max = wire::ANSWER_BYTES_MAX as u64;
        let bytes = match answer.body_mut().with_config().limit(bytes_max).read_to_vec() {
            Ok(bytes) => bytes,
            Err(error) => return no_answer(url, &error),
        };
        if status != 200 {
            let problem: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or("without a reason").to_owned();
            let detail = format!("{url} answered {status}: {detail}");
            return match status {
                400..=499 => Outcome::Refused(Refusal::new(RefusalKind::Constraint, detail)),
                _ => Outcome::Unknown(Doubt::new(DoubtKind::ServerError, detail)),
            };
        }
        match wire::unpack(&bytes, wire::ANSWER_BYTES_MAX) {
            Ok(reply) => Outcome::Applied(reply),
            Err(error) => {
                let detail = format!("{url}: its answer was not used: {error}");
                Outcome::Unknown(Doubt::new(DoubtKind::ServerError, detail))
            }
        }
    }
}

fn no_answer(url: &str, error: &ureq::Error) -> Outcome<PeerReply> {
    let detail = format!("{url}: {error}");
    match error {
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => {
            Outcome::Refused(Refusal::new(RefusalKind::Unreachable, detail))
        }
        ureq::Error::Timeout(_) => Outcome::Unknown(Doubt::new(DoubtKind::Timeout, detail)),
        _ => Outcome::Unknown(Doubt::new(DoubtKind::ConnectionLost, detail)),
    }
}

/// Whether a coordinator can be a peer of `own`; the reason if it cannot.
pub fn check(own: Peer, member: &Member) -> Result<(), String> {
    if member.node == own.node {
        return Err(format!("{} is this coordinator's own number", member.node.0));
    }
    if member.node == NodeId::FOREIGN {
        return Err(format!("{} stands for writes past every coordinator", member.node.0));
    }
    if !is_peer_url(&member.url) {
        return Err(format!(
            "{:?} is no address of a coordinator; one is such as \"http://10.0.0.8:7878\"",
            member.url
        ));
    }
    Ok(())
}

/// The members as the engine sees them; shared with the API, which changes them.
#[derive(Clone, Debug)]
pub struct PeerNetwork(pub std::sync::Arc<HttpPeers>);

impl Network for PeerNetwork {
    async fn request(&self, to: NodeId, message: PeerMessage) -> Outcome<PeerReply> {
        let url = self.0.read().get(&to).map(|(member, _)| member.url.clone());
        let Some(url) = url else {
            let detail = format!("there is no peer {to}");
            return Outcome::Refused(Refusal::new(RefusalKind::Unreachable, detail));
        };
        let envelope = Envelope { from: self.0.own, to, message };
        let body = match wire::pack(&envelope) {
            Ok(body) => body,
            Err(error) => {
                let detail = format!("the message to {to} was not sent: {error}");
                return Outcome::Refused(Refusal::new(RefusalKind::Constraint, detail));
            }
        };
        let peers = self.0.clone();
        // The client blocks its thread, and gives up by itself.
        let sent = tokio::task::spawn_blocking(move || peers.send(&url, &body)).await;
        let outcome = sent.unwrap_or_else(|error| {
            Outcome::Unknown(Doubt::new(DoubtKind::ConnectionLost, error.to_string()))
        });
        match &outcome {
            Outcome::Applied(_) => {}
            Outcome::Refused(refusal) => tracing::debug!(peer = %to, %refusal, "not heard"),
            Outcome::Unknown(doubt) => tracing::debug!(peer = %to, %doubt, "no answer"),
        }
        outcome
    }

    fn site(&self) -> SiteId {
        self.0.own.site
    }

    fn peers(&self) -> Vec<Peer> {
        let members = self.0.read();
        members.values().map(|(m, _)| Peer { node: m.node, site: m.site }).collect()
    }
}
