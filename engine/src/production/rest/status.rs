//! `/v1/status`: how the server is, for programs and for the page.

use super::App;
use super::problem::Problem;
use crate::backlog::Mode;
use crate::coordinator::Status;
use crate::env::Env;
use crate::policy::{Dataset, Keep, Kind as ValueKind, Strategy};
use crate::record::StoreId;
use crate::row::{CLOCK_ERROR_MS, LAND_MS_MAX, LEASE_MS};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// A failure of the journal stands first on the page for so long.
const FAILURE_SHOWN: Duration = Duration::from_secs(5 * 60);
/// After a start, so long may pass before all that an earlier run left undone is known: its leases
/// end, and a poll finds their marks.
const TAKE_OVER: Duration = Duration::from_millis(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS + 1_000);

/// How good or bad the state is, and what an operator should know of it first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// `good`, `warn` or `bad`.
    pub level: &'static str,
    /// A few words.
    pub title: String,
    /// A sentence.
    pub detail: String,
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub version: &'static str,
    pub folder: String,
    pub address: String,
    /// What kind of stores are kept in step.
    pub stores_are: &'static str,
    pub uptime_s: u64,
    pub draining: bool,
    pub restarts: u64,
    pub verdict: Verdict,
    /// Absent while the journal is replayed.
    pub coordinator: Option<Status>,
    pub datasets: Vec<DatasetReport>,
    pub limits: LimitsReport,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct LimitsReport {
    pub value_bytes_max: usize,
    pub d1_value_bytes_max: usize,
    pub kv_value_bytes_max: usize,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct DatasetReport {
    pub name: String,
    pub kind: &'static str,
    pub stores: Vec<Placement>,
    pub promise: String,
    /// `absorb` or `promise`.
    pub backlog: &'static str,
    pub queue: QueueReport,
}

/// `null`: as much as the coordinator as a whole may hold.
#[derive(Clone, Debug, Serialize)]
pub(super) struct QueueReport {
    pub records: Option<usize>,
    pub bytes: Option<usize>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Placement {
    pub store: StoreId,
    pub keep: &'static str,
    pub strategy: &'static str,
}

pub(super) async fn status<E: Env>(State(app): State<Arc<App<E>>>) -> Response {
    let report = report(&app);
    let text = serde_json::to_vec(&report).expect("a report is structs, lists and strings");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The state at this moment.
pub(super) fn report<E: Env>(app: &App<E>) -> Report {
    let (coordinator, away) = match app.node.reader() {
        Ok(coordinator) => (Some(coordinator.status()), None),
        Err(away) => (None, Some(Problem::from(away))),
    };
    let verdict = match (&coordinator, away) {
        (Some(status), _) => verdict(app, status),
        (None, away) => Verdict {
            level: "bad",
            title: "The journal failed".to_owned(),
            detail: away.map(|problem| problem.detail().to_owned()).unwrap_or_default(),
        },
    };
    let policy = app.node.policy();
    Report {
        version: env!("CARGO_PKG_VERSION"),
        folder: app.about.folder.clone(),
        address: app.about.address.clone(),
        stores_are: app.about.stores,
        uptime_s: app.now().as_secs(),
        draining: app.node.is_draining(),
        restarts: app.node.restarts(),
        verdict,
        coordinator,
        datasets: policy.datasets.values().map(dataset_report).collect(),
        limits: LimitsReport {
            value_bytes_max: policy.limits.value_bytes_max,
            d1_value_bytes_max: policy.limits.authority_value_bytes_max,
            kv_value_bytes_max: policy.limits.kv_value_bytes_max,
        },
    }
}

fn verdict<E: Env>(app: &App<E>, status: &Status) -> Verdict {
    let failure = app.node.last_failure().filter(|f| app.now() < f.at + FAILURE_SHOWN);
    let is_young = status.records > 0 && app.node.age() < TAKE_OVER;
    let at = |states: &[&str]| -> Vec<&'static str> {
        let stores = status.stores.iter().filter(|store| states.contains(&store.breaker));
        stores.map(|store| store.store.name()).collect()
    };
    let (away, held) = (at(&["open", "half-open"]), at(&["forced-open"]));
    let forced_closed = at(&["forced-closed"]);
    let owed: usize = status.stores.iter().map(|store| store.backlog).sum();
    let say = |level, title: &str, detail: String| Verdict { level, title: title.into(), detail };
    let behind = match owed {
        0 => "Nothing waits.".to_owned(),
        1 => "One record is being brought to its stores.".to_owned(),
        owed => format!("{owed} records are being brought to their stores."),
    };
    if app.node.is_draining() {
        let detail = format!("No new writes are taken. {behind}");
        return say("warn", "Stopping", detail);
    }
    if let Some(failure) = failure {
        let detail = format!(
            "It was replayed, and requests are taken again. What was said: {}. {behind}",
            failure.why
        );
        return say("bad", "The journal failed a moment ago", detail);
    }
    if !away.is_empty() {
        let title = format!("{} not answering", away.join(" and "));
        let detail = format!(
            "Writes are kept in the journal and delivered once it answers; it is probed several \
             times a second. {behind}"
        );
        return say("bad", &title, detail);
    }
    if !held.is_empty() {
        let title = format!("{} held by an operator", held.join(" and "));
        let detail = format!(
            "Nothing is sent there; writes are kept in the journal. `tidelock store auto` ends \
             that. {behind}"
        );
        return say("warn", &title, detail);
    }
    if !forced_closed.is_empty() {
        let title = format!("{}: breaker forced closed", forced_closed.join(" and "));
        let detail = format!(
            "Work is sent there whatever it answers. `tidelock store auto` ends that. {behind}"
        );
        return say("warn", &title, detail);
    }
    if status.dead_letters > 0 {
        let detail = format!(
            "Dead letters: {}. A store refuses these writes or copies for good; `tidelock dlq \
             list` names them and says why. {behind}",
            status.dead_letters
        );
        return say("warn", "A store refuses some writes", detail);
    }
    if !status.ledger_complete {
        let detail = "The authority's records are being read.".to_owned();
        return say("warn", "Starting", detail);
    }
    if owed == 0 && is_young {
        let detail = "What an earlier run may have left undone is taken over as its leases end.";
        return say("warn", "Starting", detail.to_owned());
    }
    if owed > 0 {
        return say("good", "Catching up", format!("All three stores answer. {behind}"));
    }
    let detail = "KV, D1 and R2 answer and hold every acknowledged write.".to_owned();
    say("good", "All stores agree", detail)
}

pub(super) fn dataset_report(dataset: &Dataset) -> DatasetReport {
    let strategy = |store: StoreId| match dataset.strategy.get(&store) {
        Some(Strategy::WriteThrough) => "write-through",
        Some(Strategy::WriteBehind) | None => "write-behind",
    };
    let kept = StoreId::ALL.into_iter().filter_map(|store| {
        let keep = match (store, dataset.projection(store)) {
            (StoreId::D1, _) => "full",
            (StoreId::Kv | StoreId::R2, None) => return None,
            (StoreId::Kv | StoreId::R2, Some(projection)) => match &projection.keep {
                Keep::Full => "full",
                Keep::Reference => "reference",
                Keep::Fields(_) => "fields",
            },
        };
        Some(Placement { store, keep, strategy: strategy(store) })
    });
    DatasetReport {
        name: dataset.name.to_string(),
        kind: match dataset.kind {
            ValueKind::Json => "json",
            ValueKind::Text => "text",
            ValueKind::Binary => "binary",
            ValueKind::Structured => "structured",
        },
        stores: kept.collect(),
        promise: dataset.promise(),
        backlog: match dataset.backlog {
            Mode::Absorb => "absorb",
            Mode::Promise => "promise",
        },
        queue: QueueReport { records: dataset.queue.records, bytes: dataset.queue.bytes },
    }
}
