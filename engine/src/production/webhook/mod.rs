//! Webhooks: what the audit log tells, told over HTTP to whoever the configuration names.
//!
//! ```text
//! audit log ──> follow (a task for each) ──> receiver: POST, signed
//!                  │ place, dead letters        │ 2xx, or again, or a dead letter
//!                  ▼                            ▼
//!               webhooks/NAME.*              hook: how it does, for operators
//! ```
//!
//! Invariant: each entry that a webhook wants is told at least once and in the log's order, or is a
//! dead letter, or is counted in a summary that is; the receiver knows it again by its id. No receiver
//! holds back another, and none the log: each reads the files at its own pace, from a place of its own.

mod attempt;
mod follow;
mod hook;
mod notification;
mod place;
mod receiver;
mod secret;

pub use attempt::Answer;
pub use hook::{Answered, Hook, LetterError, Retried, Stage, Standing};
pub use notification::{Notification, STORM, storm_json};
pub use place::Letter;

use super::audit::Audit;
use super::folder::{self, FileError};
use crate::env::Peer;
use crate::policy::webhook::Webhook;
use place::{Files, Letters, Place};
use receiver::Receiver;
use secret::Secret;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A webhook that cannot be opened.
#[derive(Debug)]
pub struct OpenError {
    /// Which.
    pub webhook: String,
    /// The file, or variable, and what is wrong with it.
    pub error: FileError,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "webhook {:?}: {}", self.webhook, self.error)
    }
}

impl std::error::Error for OpenError {}

/// The webhooks of a server.
#[derive(Debug)]
pub struct Webhooks {
    hooks: BTreeMap<String, Arc<Hook>>,
    /// Where each was when the server started, until it is told from there. `None`: it is new.
    places: Mutex<BTreeMap<String, Option<Place>>>,
}

impl Webhooks {
    /// Reads the secret, the place and the dead letters of each.
    pub fn open(data: &Path, own: Peer, configured: Vec<Webhook>) -> Result<Self, OpenError> {
        let (mut hooks, mut places) = (BTreeMap::new(), BTreeMap::new());
        for webhook in configured {
            let name = webhook.name.clone();
            let opened = open(data, own, webhook);
            let (hook, place) =
                opened.map_err(|error| OpenError { webhook: name.clone(), error })?;
            hooks.insert(name.clone(), Arc::new(hook));
            places.insert(name, place);
        }
        Ok(Webhooks { hooks, places: Mutex::new(places) })
    }

    /// Has each told what the log tells from now on, until the server ends.
    pub fn start(&self, audit: &Audit) {
        let places =
            std::mem::take(&mut *self.places.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, place) in places {
            let hook = self.hooks[&name].clone();
            let (reader, told) = (audit.reader().clone(), audit.told());
            let following = tokio::spawn(follow::follow(hook.clone(), place, reader, told));
            tokio::spawn(async move {
                if following.await.is_err_and(|ended| ended.is_panic()) {
                    tracing::error!(webhook = name, "a defect ended what tells a webhook");
                    let why = "a defect has ended what tells it; restart the server";
                    hook.enter(Stage::Stalled { why: why.to_owned() });
                }
            });
        }
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Hook>> {
        self.hooks.values()
    }

    /// The one with this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Hook>> {
        self.hooks.get(name)
    }
}

fn open(data: &Path, own: Peer, webhook: Webhook) -> Result<(Hook, Option<Place>), FileError> {
    folder::make(&data.join(place::FOLDER))?;
    let files = Files::of(data, &webhook.name);
    let secret = Secret::of(&webhook.secret, data, &files.secret, rand::random)?;
    let place: Option<Place> = place::read(&files.place)?;
    let letters: Letters = place::read(&files.dead)?.unwrap_or_default();
    let receiver = Receiver::new(webhook.url.clone(), secret);
    Ok((Hook::new(webhook, own, files, receiver, letters), place))
}
