//! `/v1/metrics`: the counters in the
//! [Prometheus text format](https://prometheus.io/docs/instrumenting/exposition_formats/).

use super::App;
use crate::coordinator::{Billed, Counters, DatasetBacklog, Over, Pass, Status, StoreStatus};
use crate::env::Env;
use crate::production::webhook::{Hook, Standing, Webhooks};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::fmt::Write as _;
use std::sync::Arc;

const BREAKER_STATES: [&str; 5] = ["closed", "open", "half-open", "forced-open", "forced-closed"];
const WEBHOOK_STATES: [&str; 4] = ["following", "retrying", "disabled", "stalled"];

pub(super) async fn metrics<E: Env>(State(app): State<Arc<App<E>>>) -> Response {
    let status = app.node.reader().ok().map(|coordinator| coordinator.status());
    let mut text = Text::default();
    let up = u64::from(status.is_some());
    text.gauge("up", "1 while a coordinator takes requests, 0 while the journal is replayed.", up);
    text.counter(
        "coordinator_restarts_total",
        "Coordinators started after a failure of the journal.",
        app.node.restarts(),
    );
    let draining = u64::from(app.node.is_draining());
    text.gauge("draining", "1 while the server stops and takes no new writes.", draining);
    text.webhooks(&app.webhooks, app.audit.told().borrow().head_seq);
    if let Some(status) = &status {
        text.status(status);
    }
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], text.0).into_response()
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP tidelock_{name} {help}\n# TYPE tidelock_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "tidelock_{name}{labels} {value}");
    }

    fn known(&mut self, name: &str, labels: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.line(name, labels, value);
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.line(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(name, "", value);
    }

    fn status(&mut self, status: &Status) {
        let complete = u64::from(status.ledger_complete);
        self.gauge("ledger_complete", "1 once every record of the authority is known.", complete);
        self.gauge("records", "Records known, tombstones included.", status.records as u64);
        let help = "Tombstones among these, which nothing has allowed to be reaped yet.";
        self.gauge("tombstones", help, status.tombstones as u64);
        self.gauge(
            "intents",
            "Writes that the authority does not hold yet.",
            status.intents as u64,
        );
        let bytes = status.intent_bytes as u64;
        self.gauge("intent_bytes", "Bytes of the values of these writes.", bytes);
        self.head("store_backlog", "gauge", "Records that a store is owed work on.");
        for StoreStatus { store, backlog, .. } in &status.stores {
            self.line("store_backlog", &format!("{{store=\"{store}\"}}"), *backlog as u64);
        }
        let help = "Records of a dataset that a store is owed.";
        self.head("pending", "gauge", help);
        for DatasetBacklog { dataset, behind, .. } in &status.backlogs {
            for (store, records) in behind {
                let labels = format!("{{dataset=\"{dataset}\",store=\"{store}\"}}");
                self.line("pending", &labels, *records as u64);
            }
        }
        self.head("store_breaker", "gauge", "1 for the state that a store's breaker is in.");
        for StoreStatus { store, breaker, .. } in &status.stores {
            for state in BREAKER_STATES {
                let labels = format!("{{store=\"{store}\",state=\"{state}\"}}");
                self.line("store_breaker", &labels, u64::from(*breaker == state));
            }
        }
        let help = "So many batches (D1) or puts (KV, R2) may be under way at once.";
        self.head("store_concurrency", "gauge", help);
        for StoreStatus { store, width, .. } in &status.stores {
            self.line("store_concurrency", &format!("{{store=\"{store}\"}}"), *width as u64);
        }
        self.head("retries_total", "counter", "Work that was tried again at a store.");
        for StoreStatus { store, retries, .. } in &status.stores {
            self.line("retries_total", &format!("{{store=\"{store}\"}}"), *retries);
        }
        let help = "Retries that a store may be asked for, beside what time and first tries bring.";
        self.head("retry_budget", "gauge", help);
        for StoreStatus { store, retries_left, .. } in &status.stores {
            self.line("retry_budget", &format!("{{store=\"{store}\"}}"), *retries_left);
        }
        self.head("recoveries_total", "counter", "Times that a store had what it was owed again.");
        for StoreStatus { store, recovery, .. } in &status.stores {
            self.line("recoveries_total", &format!("{{store=\"{store}\"}}"), recovery.count);
        }
        let help = "From a store's first answer after an outage until it had that, added up.";
        self.head("recovery_milliseconds_total", "counter", help);
        for StoreStatus { store, recovery, .. } in &status.stores {
            let labels = format!("{{store=\"{store}\"}}");
            self.line("recovery_milliseconds_total", &labels, recovery.sum_ms);
        }
        self.head("recovery_milliseconds_max", "gauge", "The longest of these since the start.");
        for StoreStatus { store, recovery, .. } in &status.stores {
            self.line(
                "recovery_milliseconds_max",
                &format!("{{store=\"{store}\"}}"),
                recovery.max_ms,
            );
        }
        self.health(&status.stores);
        self.passes(&status.passes);
        let help = "Writes and copies that a store refuses for good.";
        self.gauge("dead_letters", help, status.dead_letters as u64);
        self.counters(&status.counters);
    }

    /// How each webhook does.
    fn webhooks(&mut self, webhooks: &Webhooks, head_seq: u64) {
        let standings: Vec<(&Hook, Standing)> =
            webhooks.iter().map(|hook| (&**hook, hook.standing())).collect();
        if standings.is_empty() {
            return;
        }
        let help = "Notifications that a webhook took, tries that failed, and dead letters that came of it.";
        self.head("webhook_deliveries_total", "counter", help);
        for (hook, standing) in &standings {
            let Standing { delivered, failed, dead, .. } = standing;
            for (outcome, count) in [("delivered", delivered), ("failed", failed), ("dead", dead)] {
                let labels = format!("{{webhook=\"{}\",outcome=\"{outcome}\"}}", hook.webhook.name);
                self.line("webhook_deliveries_total", &labels, *count);
            }
        }
        type Figure = fn(&Hook, &Standing, u64) -> u64;
        let figures: [(&str, &str, &str, Figure); 5] = [
            ("webhook_dead_letters", "gauge", "Dead letters of a webhook.", |hook, _, _| {
                hook.letters().len() as u64
            }),
            (
                "webhook_dead_letters_dropped_total",
                "counter",
                "Dead letters that were dropped, since there were too many.",
                |_, standing, _| standing.dropped,
            ),
            (
                "webhook_behind",
                "gauge",
                "Entries of the audit log that a webhook was not told of yet.",
                |_, standing, head_seq| head_seq.saturating_sub(standing.told_seq),
            ),
            (
                "webhook_missed_total",
                "counter",
                "Entries that had left the audit log before a webhook was told of them.",
                |_, standing, _| standing.missed,
            ),
            (
                "webhook_consecutive_failures",
                "gauge",
                "Tries that failed since the last one that did not.",
                |_, standing, _| u64::from(standing.failures),
            ),
        ];
        for (name, kind, help, figure) in figures {
            self.head(name, kind, help);
            for (hook, standing) in &standings {
                let labels = format!("{{webhook=\"{}\"}}", hook.webhook.name);
                self.line(name, &labels, figure(hook, standing, head_seq));
            }
        }
        self.head("webhook_state", "gauge", "1 for what a webhook does.");
        for (hook, standing) in &standings {
            for state in WEBHOOK_STATES {
                let labels = format!("{{webhook=\"{}\",state=\"{state}\"}}", hook.webhook.name);
                self.line("webhook_state", &labels, u64::from(standing.stage.name() == state));
            }
        }
    }

    /// How each store does. What is not known is left out.
    fn health(&mut self, stores: &[StoreStatus]) {
        self.head("operations_total", "counter", "Calls to a store, by how they ended.");
        for StoreStatus { store, health, .. } in stores {
            for (outcome, count) in [("answered", health.answered), ("failed", health.failed)] {
                let labels = format!("{{store=\"{store}\",outcome=\"{outcome}\"}}");
                self.line("operations_total", &labels, count);
            }
        }
        let help = "Within how many milliseconds that share of the last minute's answers came.";
        self.head("operation_milliseconds", "gauge", help);
        for StoreStatus { store, health, .. } in stores {
            let quantiles =
                [("0.5", health.p50_ms), ("0.9", health.p90_ms), ("0.99", health.p99_ms)];
            for (quantile, ms) in quantiles {
                let labels = format!("{{store=\"{store}\",quantile=\"{quantile}\"}}");
                self.known("operation_milliseconds", &labels, ms);
            }
        }
        type Figure = fn(&StoreStatus) -> Option<u64>;
        let figures: [(&str, &str, Figure); 4] = [
            ("success_permille", "Answered calls, of a thousand in the last minute.", |status| {
                status.health.success_permille.map(u64::from)
            }),
            ("last_good_age_milliseconds", "Since the store's last answer.", |status| {
                status.health.last_good_ms_ago
            }),
            (
                "oldest_pending_age_milliseconds",
                "Since when the oldest record is owed.",
                |status| status.oldest_ms,
            ),
            (
                "predicted_drain_milliseconds",
                "Until what is owed will have been worked off.",
                |status| status.drain_ms,
            ),
        ];
        for (name, help, figure) in figures {
            self.head(name, "gauge", help);
            for status in stores {
                self.known(name, &format!("{{store=\"{}\"}}", status.store), figure(status));
            }
        }
    }

    /// Of the last look over each projection.
    fn passes(&mut self, passes: &[Pass]) {
        let place = |pass: &Pass| {
            let over = match pass.over {
                Over::Recent => "recent",
                Over::Everything => "everything",
            };
            format!("dataset=\"{}\",store=\"{}\",over=\"{over}\"", pass.dataset, pass.store)
        };
        let help = "Billed operations that the last look over a store's copies predicts: those of the \
                    listing itself, and those of mending what differs.";
        self.head("pass_predicted_operations", "gauge", help);
        for pass in passes {
            let Billed { lists, gets, puts, rows } = pass.predicted;
            let operations = [
                ("list", lists + pass.pages),
                ("get", gets + pass.reads),
                ("put", puts),
                ("d1_row", rows),
            ];
            for (operation, count) in operations {
                let labels = format!("{{{},operation=\"{operation}\"}}", place(pass));
                self.line("pass_predicted_operations", &labels, count as u64);
            }
        }
        self.head("pass_differing", "gauge", "Copies that differed in the last look over them.");
        for pass in passes {
            self.line("pass_differing", &format!("{{{}}}", place(pass)), pass.differing as u64);
        }
        let help = "1 while what the last look would do waits for an operator's approval.";
        self.head("pass_held", "gauge", help);
        for pass in passes {
            let held = u64::from(pass.held.is_some());
            self.line("pass_held", &format!("{{{}}}", place(pass)), held);
        }
    }

    fn counters(&mut self, counters: &Counters) {
        // Named one by one, so that a new counter fails to compile until it is shown.
        let Counters {
            writes_acknowledged,
            writes_pending,
            writes_refused,
            writes_cancelled,
            writes_unknown,
            reads,
            commits,
            committed_intents,
            journal_full,
            replayed_intents,
            installs,
            installs_moved,
            installs_poisoned,
            conflicts,
            foreign_writes,
            puts,
            puts_unknown,
            puts_poisoned,
            clears,
            taken_over,
            rate_limited,
            copies_damaged,
            values_scrubbed,
            passes,
            passes_held,
            copies_compared,
            copies_differing,
            copies_put_again,
            tombstones_reaped,
            blobs_collected,
            blobs_doubted,
            buried_again,
            leaves_compared,
            leaves_differing,
            ledger_news,
            recent_passes,
            trees_compared,
            site_leaves_read,
            missed_by_feeds,
            ledgers_forgotten,
            read_repairs,
            foreign_refused,
            expired,
            losers_in_letters,
            reloads,
            forgone,
            breaker_opened,
            probes,
            clock_drift_ms_max,
        } = counters;
        for (name, help, value) in [
            ("writes_acknowledged_total", "Writes acknowledged.", writes_acknowledged),
            ("writes_pending_total", "Of these, answered with 202.", writes_pending),
            ("writes_refused_total", "Writes that did not happen.", writes_refused),
            (
                "writes_cancelled_total",
                "Conditional writes that found another version.",
                writes_cancelled,
            ),
            ("writes_unknown_total", "Writes that may have happened.", writes_unknown),
            ("reads_total", "Reads.", reads),
            ("journal_commits_total", "Journal commits, each one fsync.", commits),
            ("journal_intents_total", "Writes that these carried.", committed_intents),
            ("journal_full_total", "Commits refused for want of room on the disk.", journal_full),
            (
                "journal_replayed_total",
                "Writes found in the journal at the start.",
                replayed_intents,
            ),
            ("installs_total", "Versions installed at the authority.", installs),
            ("installs_moved_total", "Installs that found the row moved.", installs_moved),
            (
                "installs_poisoned_total",
                "Versions that the authority can never keep.",
                installs_poisoned,
            ),
            ("conflicts_total", "Values that lost a conflict, kept beside the winner.", conflicts),
            ("foreign_writes_total", "Foreign writes taken in.", foreign_writes),
            ("puts_total", "Puts and deletes sent to KV and R2.", puts),
            ("puts_unknown_total", "Of these, without an answer.", puts_unknown),
            ("puts_poisoned_total", "Copies that a store can never keep.", puts_poisoned),
            ("marks_cleared_total", "Projections confirmed at the authority.", clears),
            (
                "marks_taken_over_total",
                "Projections taken over from others or a former life.",
                taken_over,
            ),
            ("rate_limited_total", "Answers of 429 from stores.", rate_limited),
            (
                "copies_damaged_total",
                "Copies whose bytes did not match their hash.",
                copies_damaged,
            ),
            (
                "scrubbed_total",
                "Values read and hashed to see whether they were changed.",
                values_scrubbed,
            ),
            ("reconcile_passes_total", "Looks over all that a store holds of a dataset.", passes),
            ("reconcile_held_total", "Of these, held because the plan looked wrong.", passes_held),
            ("reconcile_compared_total", "Copies held against the authority.", copies_compared),
            ("reconcile_differing_total", "Copies that differed, twice.", copies_differing),
            ("repairs_total", "Copies put again because they differed.", copies_put_again),
            (
                "tombstones_reaped_total",
                "Tombstones that nothing needed any more.",
                tombstones_reaped,
            ),
            (
                "blobs_collected_total",
                "Large values in R2 that nothing referred to any more.",
                blobs_collected,
            ),
            (
                "blobs_doubted_total",
                "Installs refused because a large value of theirs may have been about to go.",
                blobs_doubted,
            ),
            (
                "buried_again_total",
                "Deleted versions that turned up after that, and were deleted again.",
                buried_again,
            ),
            ("leaves_compared_total", "Leaf sums of D1 held against the ledger.", leaves_compared),
            ("divergent_leaves_total", "Of these, such as differed.", leaves_differing),
            ("recent_passes_total", "Looks over some of what is recent in a store.", recent_passes),
            ("trees_compared_total", "Trees compared with other sites'.", trees_compared),
            ("site_leaves_read_total", "Leaves of other sites that differed.", site_leaves_read),
            (
                "missed_by_feeds_total",
                "Records that another site's feed had not shown.",
                missed_by_feeds,
            ),
            ("ledger_news_total", "Rows of D1 that its change feed had not shown.", ledger_news),
            (
                "ledgers_forgotten_total",
                "Times that D1 was found to have gone back.",
                ledgers_forgotten,
            ),
            ("read_repairs_total", "Of these, found by a read.", read_repairs),
            (
                "foreign_refused_total",
                "Foreign writes that their dataset cannot hold, left where they are.",
                foreign_refused,
            ),
            ("expired_total", "Values ended because their time had passed.", expired),
            (
                "losers_in_dead_letters_total",
                "Losers whose bytes D1 does not take either: dead letters keep them.",
                losers_in_letters,
            ),
            ("policy_reloads_total", "Policies put in force while running.", reloads),
            (
                "marks_forgone_total",
                "Marks taken away from projections that are not kept any more.",
                forgone,
            ),
            ("breaker_opened_total", "Breakers opened.", breaker_opened),
            ("probes_total", "Probes of stores that did not answer.", probes),
        ] {
            self.counter(name, help, *value);
        }
        let help = "The furthest that a stamp was ahead of this clock, in milliseconds.";
        self.gauge("clock_drift_ms_max", help, *clock_drift_ms_max);
    }
}
