//! Who is told over HTTP of what the audit log tells, as a configuration declares it.

use crate::audit::{Entry, Kind};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A receiver of notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name, under which its place in the log is kept.
    pub name: String,
    /// Where it is told, by POST.
    pub url: String,
    /// Of these kinds of entries. `None`: of all, those of later builds among them.
    pub kinds: Option<BTreeSet<Kind>>,
    /// Of what is about records of these datasets. `None`: of everything.
    pub datasets: Option<BTreeSet<String>>,
    /// Where the secret is that its notifications are signed with.
    pub secret: SecretPlace,
    /// How conflicts are told that come in a storm.
    pub storms: StormsTold,
    /// Tries that a notification gets before it is a dead letter.
    pub attempts: u32,
}

/// Where a webhook's secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    /// In the data folder, drawn at the first start, as the peers' is.
    DataFolder,
    /// In a file; a relative path begins at the data folder.
    File(PathBuf),
    /// In a variable of the server's environment.
    Variable(String),
}

/// How conflicts of one record that come in a storm are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StormsTold {
    /// In summaries.
    Summarised,
    /// One by one.
    Every,
}

impl Webhook {
    /// True for an entry that it is told of.
    pub fn takes(&self, entry: &Entry) -> bool {
        let kinds = self.kinds.as_ref();
        let is_kind =
            |kinds: &BTreeSet<Kind>| entry.kind().is_some_and(|kind| kinds.contains(&kind));
        let is_of = |datasets: &BTreeSet<String>| {
            entry.record().is_some_and(|record| datasets.contains(&*record.dataset))
        };
        kinds.is_none_or(is_kind) && self.datasets.as_ref().is_none_or(is_of)
    }
}
