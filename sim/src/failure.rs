//! A failing scenario as a page: the run once more, with everything kept.

use crate::checker::{Fate, Told};
use crate::run::{Outcome, RECOVERY_MS_MAX, WriteFate};
use crate::scenario::Scenario;
use crate::trace::Event;
use std::collections::BTreeMap;
use tidelock_engine::record::StoreId;
use tidelock_faults::{End, Fault, Place};
use tidelock_reports as reports;

/// The page's data.
pub fn describe(scenario: &Scenario, outcome: &Outcome) -> reports::Failure {
    let first = outcome.violations.first();
    let end_ms = outcome.virtual_ms as f64;
    let healed_ms = outcome.healed_ms.map(|ms| ms as f64);
    reports::Failure {
        scenario: scenario.name(),
        commit: crate::campaign::commit(),
        invariant: first.map(|v| v.invariant.name().to_owned()).unwrap_or_default(),
        words: first.map(|v| v.invariant.words().to_owned()).unwrap_or_default(),
        message: first.map(|v| v.message.clone()).unwrap_or_default(),
        repro: format!("cargo sim replay {}", scenario.name()),
        at_ms: first.map_or(end_ms, |violation| violation.at_ms as f64),
        end_ms,
        healed_ms,
        recovered_ms: match (healed_ms, outcome.recovery_ms) {
            (Some(healed_ms), Some(took_ms)) if took_ms <= RECOVERY_MS_MAX => {
                Some(healed_ms + took_ms as f64)
            }
            _ => None,
        },
        trace_hash: outcome.trace_hash.clone(),
        lanes: lanes(scenario),
        faults: scenario.faults.iter().map(|fault| span(fault, outcome)).collect(),
        events: outcome.events.iter().map(event).chain(violations(outcome)).collect(),
        states: outcome.events.iter().filter_map(state).collect(),
        writes: outcome.fates.iter().map(fate).collect(),
        scenario_json: serde_json::to_string_pretty(scenario)
            .expect("a scenario is plain data and always serializes"),
    }
}

fn lanes(scenario: &Scenario) -> Vec<reports::Lane> {
    let lane = |end: End, title: String, kind: &str| reports::Lane {
        id: end.to_string(),
        title,
        kind: kind.to_owned(),
    };
    let sessions = (0..scenario.sessions)
        .map(|session| lane(End::Session(session), format!("session {session}"), "session"));
    let load = scenario.faults.iter().any(|fault| fault.kind.is_load());
    let load = load.then(|| {
        lane(End::Session(scenario.sessions), "clients of load faults".to_owned(), "session")
    });
    let nodes = (0..scenario.nodes)
        .map(|node| lane(End::Node(node), format!("coordinator {node}"), "coordinator"));
    let stores = StoreId::ALL
        .into_iter()
        .map(|store| lane(End::Store(store), store.name().to_uppercase(), "store"));
    sessions.chain(load).chain(nodes).chain(stores).collect()
}

fn span(fault: &Fault, outcome: &Outcome) -> reports::FaultSpan {
    let (lanes, place) = match &fault.place {
        Place::Link { from, to } => {
            (vec![from.to_string(), to.to_string()], format!("{from} to {to}"))
        }
        Place::Everywhere => (Vec::new(), "everywhere".to_owned()),
        Place::Store(store) => (vec![store.to_string()], store.to_string()),
        Place::StoreAt { site, store } => {
            (vec![store.to_string()], format!("{store} of site {site}"))
        }
        Place::Copy { store, key } => (vec![store.to_string()], format!("{key} in {store}")),
        Place::Disk(node) => (vec![End::Node(*node).to_string()], format!("disk of n{node}")),
        Place::Node(node) => (vec![End::Node(*node).to_string()], format!("process of n{node}")),
        Place::Clock { node, back } => (
            vec![End::Node(*node).to_string()],
            format!("clock of n{node}, {}", if *back { "behind" } else { "ahead" }),
        ),
        Place::Call { node, call, ordinal, moment } => (
            vec![End::Node(*node).to_string()],
            format!("{moment:?} call {ordinal} of {call:?}, down for {} ms", fault.span_ms),
        ),
    };
    reports::FaultSpan {
        kind: fault.kind.name().to_owned(),
        lanes,
        from_ms: fault.from_ms as f64,
        to_ms: fault.until_ms as f64,
        detail: format!("{place}, {} of a thousand", fault.permille),
        felt: outcome.faults.get(&fault.kind).map_or(0, |felt| felt.felt),
    }
}

fn event(event: &Event) -> reports::Event {
    reports::Event {
        at_ms: event.at_us as f64 / 1_000.0,
        lane: event.lane.to_string(),
        kind: event.kind.to_owned(),
        text: event.text.clone(),
        to: event.to.map(|to| to.to_string()),
        until_ms: None,
    }
}

fn violations(outcome: &Outcome) -> impl Iterator<Item = reports::Event> + '_ {
    outcome.violations.iter().map(|violation| reports::Event {
        at_ms: violation.at_ms as f64,
        lane: End::Store(StoreId::D1).to_string(),
        kind: "violation".to_owned(),
        text: format!("{}: {}", violation.invariant.name(), violation.message),
        to: None,
        until_ms: None,
    })
}

/// What a store holds from an event on.
fn state(event: &Event) -> Option<reports::StateChange> {
    let End::Store(store) = event.lane else { return None };
    if event.kind != "row" && event.kind != "landed" {
        return None;
    }
    let mut words = event.text.splitn(2, ' ');
    let record = words.next()?.to_owned();
    let rest = words.next().unwrap_or_default();
    let (value, version, note) = match rest.strip_prefix("is ") {
        Some(rest) => {
            let (version, note) = rest.split_once(" owed ").unwrap_or((rest, ""));
            (String::new(), version.to_owned(), format!("owed {note}"))
        }
        None if rest == "deleted" => ("deleted".to_owned(), String::new(), String::new()),
        None => ("a copy".to_owned(), rest.to_owned(), String::new()),
    };
    Some(reports::StateChange {
        at_ms: event.at_us as f64 / 1_000.0,
        store: store.to_string(),
        record,
        value,
        version,
        note,
    })
}

fn fate(write: &WriteFate) -> reports::WriteFate {
    let (outcome, detail) = match write.told {
        Told::Acknowledged(dot) => ("acked", dot.to_string()),
        Told::Refused => ("refused", String::new()),
        Told::Unknown | Told::Waiting => ("unknown", String::new()),
    };
    let (fate, by) = match write.fate {
        Some(Fate::Current) => ("current", String::new()),
        Some(Fate::Superseded { by }) => ("superseded", format!(" by {by}")),
        Some(Fate::Loser) => ("loser", String::new()),
        Some(Fate::Lost) => ("lost", String::new()),
        None => ("", String::new()),
    };
    reports::WriteFate {
        at_ms: write.at_ms as f64,
        session: End::Session(write.session).to_string(),
        record: write.record.to_string(),
        id: format!("w{}", write.id),
        outcome: outcome.to_owned(),
        fate: fate.to_owned(),
        detail: format!("{detail}{by}"),
    }
}

/// The writes of a page, most of them superseded, in few words.
pub fn summary(outcome: &Outcome) -> BTreeMap<&'static str, usize> {
    let mut summary = BTreeMap::new();
    for write in &outcome.fates {
        let name = match (write.told, write.fate) {
            (Told::Refused, _) => "refused",
            (Told::Unknown | Told::Waiting, _) => "unknown",
            (_, Some(Fate::Current)) => "current",
            (_, Some(Fate::Superseded { .. })) => "superseded",
            (_, Some(Fate::Loser)) => "kept as loser",
            (_, Some(Fate::Lost)) => "LOST",
            (_, None) => "not looked at",
        };
        *summary.entry(name).or_default() += 1;
    }
    summary
}
