//! Reading the configuration again while the server runs.
//!
//! Invariant: a configuration is put in force whole, or nothing changes and every reason is given.

use super::audit::Audit;
use super::folder;
use super::node::{Away, Node, ReloadRefusal};
use crate::audit::Retention;
use crate::env::Env;
use crate::policy::change::{ChangeError, Changes};
use crate::policy::parse::{self, Config, ConfiguredPeer, PolicyError};
use crate::policy::webhook::Webhook;
use crate::version::{NodeId, SiteId};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::{Arc, PoisonError};

/// The way from the configuration file to the running coordinator.
#[derive(Debug)]
pub struct Reload {
    file: PathBuf,
    listen: SocketAddr,
    node: NodeId,
    site: SiteId,
    peers: Vec<ConfiguredPeer>,
    webhooks: Vec<Webhook>,
    /// One at a time: the last file that was read is the one in force.
    turn: Mutex<()>,
}

/// Why nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The file cannot be read.
    File(String),
    /// It is no configuration; every mistake.
    Mistakes(Vec<PolicyError>),
    /// It cannot be put in force while the server runs; every reason.
    Change(Vec<ChangeError>),
    /// There is no coordinator to put it in force at.
    Away(Away),
}

impl Refused {
    /// Each reason in words.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Refused::File(problem) => vec![problem.clone()],
            Refused::Mistakes(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
            Refused::Change(errors) => errors.iter().map(ToString::to_string).collect(),
            Refused::Away(Away::Recovering { why }) => {
                vec![format!("the journal failed and is being replayed ({why}); reload again")]
            }
            Refused::Away(Away::Draining) => vec!["the server is stopping".to_owned()],
        }
    }
}

impl Reload {
    /// For the configuration that the server was started with.
    pub fn new(file: PathBuf, started: &Config) -> Self {
        Reload {
            file,
            listen: started.listen,
            node: started.node,
            site: started.site,
            peers: started.peers.clone(),
            webhooks: started.webhooks.clone(),
            turn: Mutex::new(()),
        }
    }

    /// Reads the file again and puts it in force.
    pub fn now<E: Env>(&self, node: &Arc<Node<E>>, audit: &Audit) -> Result<Changes, Refused> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.read()?;
        match self.fixed(&config) {
            errors if errors.is_empty() => {}
            mut errors => {
                errors.extend(node.reader().ok().into_iter().flat_map(|coordinator| {
                    coordinator.compare_policy(&config.policy).err().unwrap_or_default()
                }));
                return Err(Refused::Change(errors));
            }
        }
        let changes = node.reload(config.policy).map_err(|refusal| match refusal {
            ReloadRefusal::Away(away) => Refused::Away(away),
            ReloadRefusal::Change(errors) => Refused::Change(errors),
        })?;
        let changes = with_retention(changes, audit, config.audit);
        audit.retain(config.audit);
        Ok(changes)
    }

    /// What putting this text in force would change; `None`: the text of the file.
    pub fn preview<E: Env>(
        &self,
        node: &Arc<Node<E>>,
        audit: &Audit,
        text: Option<&str>,
    ) -> Result<Changes, Refused> {
        let config = match text {
            Some(text) => parse::parse("the text", text).map_err(Refused::Mistakes)?,
            None => self.read()?,
        };
        let mut errors = self.fixed(&config);
        let coordinator = node.reader().map_err(Refused::Away)?;
        match coordinator.compare_policy(&config.policy) {
            Ok(changes) if errors.is_empty() => Ok(with_retention(changes, audit, config.audit)),
            Ok(_) => Err(Refused::Change(errors)),
            Err(more) => {
                errors.extend(more);
                Err(Refused::Change(errors))
            }
        }
    }

    fn read(&self) -> Result<Config, Refused> {
        let text = folder::read_text(&self.file)
            .map_err(|error| Refused::File(format!("the configuration cannot be read: {error}")))?;
        parse::parse(&self.file.display().to_string(), &text).map_err(Refused::Mistakes)
    }

    /// What only a start can change.
    fn fixed(&self, config: &Config) -> Vec<ChangeError> {
        let mut errors = Vec::new();
        let mut fixed = |field: &str, now: String, asked: String| {
            if now != asked {
                errors.push(ChangeError {
                    field: field.to_owned(),
                    problem: format!("it is {now} while the server runs, not {asked}"),
                    way_out: "leave it as it is, or restart the server".to_owned(),
                });
            }
        };
        fixed("listen", self.listen.to_string(), config.listen.to_string());
        fixed("node", self.node.0.to_string(), config.node.0.to_string());
        fixed("site", self.site.0.to_string(), config.site.0.to_string());
        if self.peers != config.peers {
            errors.push(ChangeError {
                field: "peer".to_owned(),
                problem: "the file names other peers than at the start".to_owned(),
                way_out: "use `tidelock peer add` and `tidelock peer retire`, or restart"
                    .to_owned(),
            });
        }
        if self.webhooks != config.webhooks {
            errors.push(ChangeError {
                field: "webhook".to_owned(),
                problem: "the file declares other webhooks than at the start".to_owned(),
                way_out: "restart the server; each goes on from where it was".to_owned(),
            });
        }
        errors
    }
}

fn with_retention(mut changes: Changes, audit: &Audit, asked: Retention) -> Changes {
    if audit.retention() != asked {
        changes.said.push(format!("the audit log keeps {asked}; it kept {}", audit.retention()));
    }
    changes
}
