//! Sample data for the tests: what a real run would hand over, and the same with hostile text.
#![allow(dead_code, reason = "each test file is a crate of its own and takes what it needs")]

use tidelock_reports::{
    Bucket, Campaign, Event, Failure, FaultCount, FaultSpan, InvariantCount, Lane, Recovery,
    StateChange, Violation, WriteFate,
};

/// Text that does harm wherever it is not escaped, each with a tag so that its place is known.
pub fn hostile(tag: &str) -> String {
    format!(
        "{tag}\"'></title></style></script></pre><script>alert('{tag}')</script><img src=x onerror=alert(1)>&<!--\u{2028}\\"
    )
}

/// A campaign as a few hours of one machine would give it, with one defect of each kind.
pub fn campaign() -> Campaign {
    let faults = [
        ("clock.jump", 8_412, 3_121, 1_910),
        ("d1.batch-reply-lost", 12_004, 9_870, 2_640),
        ("d1.stall", 3_220, 2_911, 4_310),
        ("disk.fsync-error", 2_871, 2_011, 3_004),
        ("disk.torn-tail", 4_115, 1_204, 3_377),
        ("kv.put-429", 30_224, 28_110, 1_204),
        ("kv.stale-read", 21_903, 14_002, 1_822),
        ("load.hot-key", 6_102, 6_102, 2_201),
        ("network.one-way-partition", 9_921, 9_114, 4_870),
        ("network.partition", 10_233, 10_101, 4_912),
        ("process.crash", 25_771, 25_770, 4_405),
        ("r2.flipped-body", 1_904, 0, 0),
        ("r2.reply-lost", 7_730, 6_904, 2_115),
    ];
    let sometimes = [
        ("breaker-opened-and-closed", 17_904),
        ("conflict-resolved-by-peer", 9_220),
        ("dead-letter-cleared", 0),
        ("lease-taken-over", 1_204),
        ("recovery-met-crash", 3_003),
        ("replay-met-torn-tail", 1_204),
        ("tombstone-reaped", 2),
        ("write-unknown-then-applied", 15_100),
    ];
    let invariants = [
        (
            "causality",
            "No replica orders concurrent versions without an audit entry, or shows an effect before its cause.",
        ),
        ("convergence", "At quiescence all stores and peers hold equal data."),
        (
            "no-phantom",
            "A refused write never appears; an unknown one appears at most once and stays decided.",
        ),
        (
            "no-resurrection",
            "A deleted version never becomes current again, tombstone reaping included.",
        ),
        ("recovery-5s", "The surviving core is whole again within five seconds of its last fault."),
        ("unique-dots", "No dot is issued twice, across restarts, disk loss and snapshots."),
        (
            "zero-loss",
            "Each acknowledged write is current, or causally superseded by a present version, or a concurrent loser whose id, bytes and winner are in the audit log.",
        ),
    ];
    let runs = [
        120, 1_904, 5_220, 4_811, 3_004, 1_902, 1_204, 702, 440, 310, 180, 96, 54, 30, 14, 6, 2, 0,
        0, 1,
    ];
    Campaign {
        profile: "standard".into(),
        first_seed: 0,
        seeds: 20_000,
        commit: "4f1c9a2e7b".into(),
        command: "cargo sim run --profile standard --seeds 0..20000".into(),
        violations: vec![
            Violation {
                seed: 7,
                invariant: "zero-loss".into(),
                message: "write s1-0042 to notes/alpha was acknowledged at 18.204 s and is in no store, no journal and no audit entry".into(),
                repro: "cargo sim replay standard:7".into(),
            },
            Violation {
                seed: 7,
                invariant: "convergence".into(),
                message: "kv and d1 differ on notes/alpha at the end".into(),
                repro: "cargo sim replay standard:7".into(),
            },
            Violation {
                seed: 13_377,
                invariant: "zero-loss".into(),
                message: "write s3-0007 to carts/91 was superseded by a version that no store holds".into(),
                repro: "cargo sim replay standard:13377".into(),
            },
        ],
        seeds_per_second: 189.4,
        seeds_per_cpu_second: 97.2,
        virtual_seconds: 1_310_000.0,
        speedup: 6_204.0,
        attempted_writes: 2_881_204,
        acked_writes: 2_740_110,
        refused_writes: 98_001,
        unknown_writes: 43_093,
        lost_writes: 2,
        excused_writes: 31,
        conflicts: 184_220,
        delivered_messages: 71_204_881,
        recovery_ms: Recovery {
            p50: 910,
            p99: 3_310,
            max: 4_912,
            beyond_drain_bound: 0,
            histogram: (1..)
                .zip(runs)
                .map(|(step, runs)| Bucket {
                    upto_ms: step * 250,
                    runs,
                })
                .collect(),
        },
        faults: faults
            .map(|(kind, injected, felt, recovery_ms_max)| {
                let fault = FaultCount {
                    injected,
                    felt,
                    recovery_ms_max,
                };
                (kind.to_owned(), fault)
            })
            .into(),
        sometimes: sometimes.map(|(name, seeds)| (name.to_owned(), seeds)).into(),
        invariants: invariants
            .map(|(id, words)| {
                let violated = match id {
                    "zero-loss" => 2,
                    "convergence" => 1,
                    _ => 0,
                };
                let invariant = InvariantCount {
                    checked: 20_000 * (40 + id.len() as u64),
                    violated,
                    words: words.to_owned(),
                };
                (id.to_owned(), invariant)
            })
            .into(),
        trace_hash: "b3:8d2c0e5f91aa47".into(),
    }
}

/// The same campaign with nothing wrong in it.
pub fn clean_campaign() -> Campaign {
    let mut campaign = campaign();
    campaign.violations.clear();
    campaign.lost_writes = 0;
    for invariant in campaign.invariants.values_mut() {
        invariant.violated = 0;
    }
    for fault in campaign.faults.values_mut() {
        fault.felt = fault.felt.max(1);
    }
    for seeds in campaign.sometimes.values_mut() {
        *seeds = (*seeds).max(1);
    }
    campaign
}

/// A campaign with hostile text in every string, map keys included.
pub fn hostile_campaign() -> Campaign {
    let mut campaign = campaign();
    campaign.profile = hostile("profile");
    campaign.commit = hostile("commit");
    campaign.command = hostile("command");
    campaign.trace_hash = hostile("hash");
    campaign.violations = vec![Violation {
        seed: 1,
        invariant: hostile("violation-invariant"),
        message: hostile("violation-message"),
        repro: hostile("violation-repro"),
    }];
    let fault = FaultCount { injected: 3, felt: 0, recovery_ms_max: 1 };
    campaign.faults.insert(hostile("fault"), fault);
    campaign.sometimes.insert(hostile("situation"), 0);
    let invariant = InvariantCount { checked: 1, violated: 0, words: hostile("invariant-words") };
    campaign.invariants.insert(hostile("invariant"), invariant);
    campaign
}

/// A seeded stream of numbers; the samples must be the same on every run.
struct Stream(u64);

impl Stream {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn lane(id: &str, title: &str, kind: &str) -> Lane {
    Lane { id: id.into(), title: title.into(), kind: kind.into() }
}

fn fault(
    kind: &str,
    lanes: &[&str],
    from_ms: f64,
    to_ms: f64,
    detail: &str,
    felt: u64,
) -> FaultSpan {
    FaultSpan {
        kind: kind.into(),
        lanes: lanes.iter().map(|lane| (*lane).to_owned()).collect(),
        from_ms,
        to_ms,
        detail: detail.into(),
        felt,
    }
}

/// A run of a minute in which three sessions write through three coordinators, with about
/// `events` events, most of them messages; one acknowledged write is lost.
pub fn failure(events: usize) -> Failure {
    let lanes = vec![
        lane("s1", "Session 1", "session"),
        lane("s2", "Session 2", "session"),
        lane("s3", "Session 3", "session"),
        lane("n1", "Coordinator 1", "coordinator"),
        lane("n2", "Coordinator 2", "coordinator"),
        lane("n3", "Coordinator 3", "coordinator"),
        lane("kv", "KV", "store"),
        lane("d1", "D1", "store"),
        lane("r2", "R2", "store"),
    ];
    let mut failure = Failure {
        scenario: "standard:7".into(),
        commit: "4f1c9a2e7b".into(),
        invariant: "zero-loss".into(),
        words: "Each acknowledged write is current, or causally superseded by a present version, or a concurrent loser whose id, bytes and winner are in the audit log.".into(),
        message: "write s1-0042 to notes/alpha was acknowledged at 18.204 s and is in no store, no journal and no audit entry".into(),
        repro: "cargo sim replay standard:7".into(),
        at_ms: 41_204.25,
        end_ms: 62_000.0,
        healed_ms: Some(39_870.0),
        recovered_ms: None,
        trace_hash: "b3:8d2c0e5f91aa47".into(),
        lanes,
        faults: vec![
            fault("kv.stale-read", &["kv"], 6_000.0, 31_000.0, "edge cache up to 25 s old", 14),
            fault("network.one-way-partition", &["n1", "d1"], 16_500.0, 22_000.0, "n1 to d1 drops everything", 41),
            fault("process.crash", &["n1"], 18_205.0, 19_700.0, "after call 311, before its answer", 1),
            fault("disk.torn-tail", &["n1"], 18_205.0, 19_700.0, "last 61 bytes of the journal", 1),
            fault("d1.stall", &["d1"], 28_000.0, 34_500.0, "every statement waits 6.5 s", 22),
            fault("clock.jump", &["n3"], 35_000.0, 39_870.0, "90 s ahead", 0),
        ],
        events: vec![
            event(18_204.0, "s1", "write-acked", "put notes/alpha s1-0042", None, None),
            event(18_205.0, "n1", "crash", "crash after call 311 (journal append)", None, None),
            event(19_700.0, "n1", "restart", "restart, journal replayed up to entry 88", None, None),
            event(41_204.25, "d1", "violation", "zero-loss: s1-0042 is nowhere", None, None),
        ],
        states: Vec::new(),
        writes: Vec::new(),
        scenario_json: "{\n  \"profile\": \"standard\",\n  \"seed\": 7,\n  \"operations\": [\n    { \"at_ms\": 18190, \"session\": \"s1\", \"put\": \"notes/alpha\", \"bytes\": \"<b>&amp;</b>\" }\n  ],\n  \"faults\": [\n    { \"kind\": \"process.crash\", \"node\": \"n1\", \"call\": 311 },\n    { \"kind\": \"disk.torn-tail\", \"node\": \"n1\", \"bytes\": 61 }\n  ]\n}".into(),
    };
    traffic(&mut failure, events);
    history(&mut failure);
    failure
}

fn event(
    at_ms: f64,
    lane: &str,
    kind: &str,
    text: &str,
    to: Option<&str>,
    until_ms: Option<f64>,
) -> Event {
    Event {
        at_ms,
        lane: lane.into(),
        kind: kind.into(),
        text: text.into(),
        to: to.map(Into::into),
        until_ms,
    }
}

fn traffic(failure: &mut Failure, events: usize) {
    let mut stream = Stream(7);
    let records = ["notes/beta", "carts/91", "users/ann", "counters/hits"];
    while failure.events.len() < events {
        let at = 200.0 + stream.below(61_000_000) as f64 / 1_000.0;
        let session = format!("s{}", 1 + stream.below(3));
        let node = format!("n{}", 1 + stream.below(3));
        let store = ["kv", "d1", "r2"][stream.below(3) as usize];
        let record = records[stream.below(4) as usize];
        let flight = 4.0 + stream.below(90) as f64;
        let made = match stream.below(20) {
            0..2 => {
                let (kind, fate) = match stream.below(12) {
                    0 => ("refused", "absent"),
                    1 => ("unknown", "absent"),
                    2 => ("acked", "loser"),
                    3..7 => ("acked", "current"),
                    _ => ("acked", "superseded"),
                };
                let id = format!("{session}-{:04}", failure.writes.len());
                failure.writes.push(WriteFate {
                    at_ms: at,
                    session: session.clone(),
                    record: record.into(),
                    id: id.clone(),
                    outcome: kind.into(),
                    fate: fate.into(),
                    detail: match fate {
                        "superseded" => format!("by a later write to {record}"),
                        "loser" => "audit entry 214 holds its bytes and its winner".into(),
                        _ => String::new(),
                    },
                });
                event(
                    at,
                    &session,
                    &format!("write-{kind}"),
                    &format!("put {record} {id}"),
                    None,
                    Some(at + flight),
                )
            }
            2..4 => event(at, &session, "read", &format!("read {record}"), None, None),
            4..12 => event(
                at,
                &node,
                "call",
                &format!("{store} put {record}"),
                Some(store),
                Some(at + flight),
            ),
            12..16 => event(at, store, "landed", &format!("{record} stored"), None, None),
            _ => {
                let peer = format!("n{}", 1 + stream.below(3));
                event(
                    at,
                    &node,
                    "call",
                    &format!("send {record} to a peer"),
                    Some(&peer),
                    Some(at + flight),
                )
            }
        };
        failure.events.push(made);
    }
    failure.events.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
    failure.writes.push(WriteFate {
        at_ms: 18_190.0,
        session: "s1".into(),
        record: "notes/alpha".into(),
        id: "s1-0042".into(),
        outcome: "acked".into(),
        fate: "lost".into(),
        detail: "last seen in the journal of Coordinator 1, entry 89, in the torn tail".into(),
    });
    failure.writes.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
}

fn history(failure: &mut Failure) {
    let mut change = |at_ms: f64, store: &str, record: &str, value: &str, version: &str| {
        failure.states.push(StateChange {
            at_ms,
            store: store.into(),
            record: record.into(),
            value: value.into(),
            version: version.into(),
            note: String::new(),
        });
    };
    for (step, value) in ["first", "second", "third"].into_iter().enumerate() {
        let at = 1_000.0 + 12_000.0 * step as f64;
        for (store, late) in [("d1", 0.0), ("kv", 300.0), ("r2", 450.0)] {
            let version = format!("n1:{}", step + 1);
            change(at + late, store, "notes/alpha", value, &version);
        }
    }
    for (index, record) in
        ["carts/91", "counters/hits", "notes/beta", "users/ann"].into_iter().enumerate()
    {
        for step in 0..8 {
            let at = 2_000.0 + 7_000.0 * f64::from(step) + 300.0 * index as f64;
            for (store, late) in [("d1", 0.0), ("kv", 180.0), ("r2", 240.0)] {
                // In the last round R2 is never brought up to date.
                if step < 7 || store != "r2" {
                    let value = format!("{{\"n\":{step},\"of\":\"{record}\"}}");
                    change(at + late, store, record, &value, &format!("n2:{step}"));
                }
            }
        }
    }
}

/// A failure with hostile text in every string.
pub fn hostile_failure() -> Failure {
    Failure {
        scenario: hostile("scenario"),
        commit: hostile("commit"),
        invariant: hostile("invariant"),
        words: hostile("words"),
        message: hostile("message"),
        repro: hostile("repro"),
        at_ms: 50.0,
        end_ms: 100.0,
        healed_ms: None,
        recovered_ms: None,
        trace_hash: hostile("hash"),
        lanes: vec![lane(&hostile("lane-id"), &hostile("lane-title"), &hostile("lane-kind"))],
        faults: vec![fault(
            &hostile("fault-kind"),
            &[&hostile("fault-lane"), &hostile("lane-id")],
            10.0,
            60.0,
            &hostile("fault-detail"),
            1,
        )],
        events: vec![event(
            20.0,
            &hostile("event-lane"),
            &hostile("event-kind"),
            &hostile("event-text"),
            Some(&hostile("event-to")),
            Some(30.0),
        )],
        states: vec![StateChange {
            at_ms: 5.0,
            store: hostile("state-store"),
            record: hostile("state-record"),
            value: hostile("state-value"),
            version: hostile("state-version"),
            note: hostile("state-note"),
        }],
        writes: vec![WriteFate {
            at_ms: 15.0,
            session: hostile("write-session"),
            record: hostile("write-record"),
            id: hostile("write-id"),
            outcome: hostile("write-outcome"),
            fate: hostile("write-fate"),
            detail: hostile("write-detail"),
        }],
        scenario_json: hostile("scenario-json"),
    }
}
