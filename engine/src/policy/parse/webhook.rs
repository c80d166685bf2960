//! Who is told over HTTP.

use super::super::webhook::{SecretPlace, StormsTold, Webhook};
use super::Reader;
use super::dataset::{NAMES, is_name};
use super::raw::{RawConfig, RawWebhook};
use crate::audit::Kind;
use std::collections::BTreeSet;
use std::path::PathBuf;
use toml::Spanned;

/// Each is a task that reads the log, and a connection.
const WEBHOOKS_MAX: usize = 32;
const URL_BYTES_MAX: usize = 2_048;
const ATTEMPTS_MAX: u32 = 50;
/// With pauses that double up to a minute: some three minutes of them on average, five at most.
const ATTEMPTS_DEFAULT: u32 = 12;

impl Reader<'_> {
    pub(super) fn webhooks(&mut self, raw: &RawConfig) -> Vec<Webhook> {
        if let Some(beyond) = raw.webhook.get(WEBHOOKS_MAX) {
            let problem = format!("there are {} webhooks", raw.webhook.len());
            let accepted = format!("at most {WEBHOOKS_MAX}");
            self.refuse(beyond.span(), "webhook", problem, &accepted);
        }
        let known: BTreeSet<&str> =
            raw.dataset.iter().map(|raw| raw.get_ref().name.get_ref().as_str()).collect();
        let mut names = BTreeSet::new();
        let mut webhooks = Vec::new();
        for raw in raw.webhook.iter().map(Spanned::get_ref) {
            let name = raw.name.get_ref();
            if !is_name(name) {
                let problem = format!("{name:?} is no name for a webhook");
                self.refuse(raw.name.span(), "webhook.name", problem, NAMES);
            }
            if !names.insert(name) {
                let problem = format!("{name:?} is the name of an earlier webhook");
                self.refuse(raw.name.span(), "webhook.name", problem, "a name of its own");
            }
            webhooks.push(self.webhook(raw, &known));
        }
        webhooks
    }

    fn webhook(&mut self, raw: &RawWebhook, known: &BTreeSet<&str>) -> Webhook {
        if let Err(problem) = check_url(raw.url.get_ref()) {
            let accepted = "such as \"https://hooks.example.com/tidelock\"";
            self.refuse(raw.url.span(), "webhook.url", problem, accepted);
        }
        let kinds = raw.kinds.as_ref().map(|kinds| self.kinds(kinds));
        let datasets = raw.datasets.as_ref().map(|datasets| self.told_of(datasets, known));
        let words = [("summarised", StormsTold::Summarised), ("every", StormsTold::Every)];
        let storms = raw.storms.as_ref();
        let storms = storms.and_then(|word| self.word(word, "webhook.storms", &words, &[]));
        let attempts = raw.attempts.as_ref().map_or(ATTEMPTS_DEFAULT, |attempts| {
            let given = u32::try_from(*attempts.get_ref()).unwrap_or(0);
            if !(1..=ATTEMPTS_MAX).contains(&given) {
                let problem = format!("{} is no number of tries", attempts.get_ref());
                let accepted = format!("a number from 1 to {ATTEMPTS_MAX}");
                self.refuse(attempts.span(), "webhook.attempts", problem, &accepted);
            }
            given
        });
        Webhook {
            name: raw.name.get_ref().clone(),
            url: raw.url.get_ref().clone(),
            kinds,
            datasets,
            secret: self.secret(raw),
            storms: storms.unwrap_or(StormsTold::Summarised),
            attempts,
        }
    }

    fn kinds(&mut self, raw: &Spanned<Vec<Spanned<String>>>) -> BTreeSet<Kind> {
        let names: Vec<String> =
            Kind::ALL.iter().map(|kind| format!("{:?}", kind.name())).collect();
        let accepted = names.join(", ");
        if raw.get_ref().is_empty() {
            let problem = "a webhook without a kind is told of nothing".to_owned();
            self.refuse(raw.span(), "webhook.kinds", problem, &accepted);
        }
        let mut kinds = BTreeSet::new();
        for name in raw.get_ref() {
            match name.get_ref().parse() {
                Ok(kind) => {
                    kinds.insert(kind);
                }
                Err(_) => {
                    let problem = format!("{:?} is no kind of entry", name.get_ref());
                    self.refuse(name.span(), "webhook.kinds", problem, &accepted);
                }
            }
        }
        kinds
    }

    fn told_of(
        &mut self,
        raw: &Spanned<Vec<Spanned<String>>>,
        known: &BTreeSet<&str>,
    ) -> BTreeSet<String> {
        let names: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
        let accepted = names.join(", ");
        if raw.get_ref().is_empty() {
            let problem = "a webhook without a dataset is told of nothing".to_owned();
            self.refuse(raw.span(), "webhook.datasets", problem, &accepted);
        }
        for name in raw.get_ref().iter().filter(|name| !known.contains(name.get_ref().as_str())) {
            let problem = format!("{:?} is no dataset of this file", name.get_ref());
            self.refuse(name.span(), "webhook.datasets", problem, &accepted);
        }
        raw.get_ref().iter().map(|name| name.get_ref().clone()).collect()
    }

    fn secret(&mut self, raw: &RawWebhook) -> SecretPlace {
        match (&raw.secret_file, &raw.secret_env) {
            (None, None) => SecretPlace::DataFolder,
            (Some(file), None) => {
                if file.get_ref().is_empty() {
                    let accepted = "the path of a file; a relative one begins at the data folder";
                    let problem = "this names no file".to_owned();
                    self.refuse(file.span(), "webhook.secret_file", problem, accepted);
                }
                SecretPlace::File(PathBuf::from(file.get_ref()))
            }
            (None, Some(variable)) => {
                let name = variable.get_ref();
                let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if name.is_empty() || !name.chars().all(allowed) {
                    let problem = format!("{name:?} is no name of a variable");
                    let accepted = "such as \"HOOK_SECRET\"; the secret itself does not stand here";
                    self.refuse(variable.span(), "webhook.secret_env", problem, accepted);
                }
                SecretPlace::Variable(name.clone())
            }
            (Some(_), Some(variable)) => {
                let problem = "the secret has two places".to_owned();
                let accepted = "either secret_file or secret_env";
                self.refuse(variable.span(), "webhook.secret_env", problem, accepted);
                SecretPlace::DataFolder
            }
        }
    }
}

/// What keeps a text from being an address that a webhook can be told at.
fn check_url(url: &str) -> Result<(), String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!("{url:?} does not say http:// or https://"));
    };
    if scheme != "http" && scheme != "https" {
        return Err(format!("{scheme:?} is not spoken here, http and https are"));
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        // Not quoted: what stands before the @ is somebody's password.
        return Err("a user or password stands in it, and would stand in logs too; notifications \
                    are signed, so the receiver needs neither"
            .to_owned());
    }
    let (host, port) = match authority.rsplit_once(':') {
        // An IPv6 address has colons of its own.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("{url:?} names no host, or no port behind it"));
    }
    if url.contains('#') || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{url:?} has a fragment, a space or a letter that addresses do not have"
        ));
    }
    if url.len() > URL_BYTES_MAX {
        return Err(format!("it has {} bytes, and {URL_BYTES_MAX} are the most", url.len()));
    }
    Ok(())
}
