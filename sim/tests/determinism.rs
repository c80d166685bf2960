//! A seed is one run: alone, after others, on another thread and in another process.
#![cfg(madsim)]

use std::process::Command;
use tidelock_sim::run;
use tidelock_sim::scenario::{Profile, Scenario};

const SEEDS: [u64; 3] = [0, 7, 42];

fn hash(profile: Profile, seed: u64) -> String {
    run::run(&Scenario::generate(profile, seed), None, false).trace_hash
}

fn on_a_fresh_thread(seed: u64) -> String {
    let thread = std::thread::spawn(move || hash(Profile::Standard, seed));
    thread.join().expect("the run does not panic")
}

#[test]
fn a_seed_after_a_hundred_others_is_the_seed_alone() {
    for seed in SEEDS {
        let alone = on_a_fresh_thread(seed);
        let after = std::thread::spawn(move || {
            for other in 1_000..1_100 {
                hash(Profile::Quick, other);
            }
            hash(Profile::Standard, seed)
        });
        assert_eq!(after.join().expect("the runs do not panic"), alone, "standard:{seed}");
        assert_eq!(hash(Profile::Standard, seed), alone, "standard:{seed}, on a third thread");
    }
}

#[test]
fn a_seed_in_another_process_is_the_same_seed() {
    for seed in SEEDS {
        let output = Command::new(env!("CARGO_BIN_EXE_tidelock-sim"))
            .args(["replay", &format!("standard:{seed}"), "--json", "-"])
            .output()
            .expect("the simulator starts");
        let figures: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("it prints figures");
        assert_eq!(figures["trace_hash"], hash(Profile::Standard, seed), "standard:{seed}");
    }
}

#[test]
fn different_seeds_are_different_runs() {
    let hashes: std::collections::BTreeSet<String> =
        (0..20).map(|seed| hash(Profile::Quick, seed)).collect();
    assert_eq!(hashes.len(), 20);
}
