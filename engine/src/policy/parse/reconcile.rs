//! When somebody looks over what the stores hold.

use super::super::RECONCILE_EVERY;
use super::Reader;
use super::raw::RawDataset;
use super::units::duration;
use crate::cron::Cron;
use std::time::Duration;

/// Each look lists everything, which the services bill.
const RECONCILE_EVERY_MIN: Duration = Duration::from_secs(1);
const RECONCILE_EVERY_MAX: Duration = Duration::from_secs(30 * 86_400);

impl Reader<'_> {
    pub(super) fn reconcile_every(&mut self, raw: &RawDataset) -> Option<Duration> {
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

    pub(super) fn reconcile_recent(&mut self, raw: &RawDataset) -> Option<Duration> {
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

    pub(super) fn reconcile_full(&mut self, raw: &RawDataset) -> Option<Cron> {
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
}
