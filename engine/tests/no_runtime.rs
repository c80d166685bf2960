//! The engine without its bindings waits on what others run: of tokio it has channels and
//! `select!`, nothing that runs, sleeps or reaches the world.

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn without_production_there_is_no_runtime() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "features,normal", "--prefix", "none"])
        .args(["--target", "all", "--package", "tidelock-engine", "--no-default-features"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let features: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.strip_prefix("tokio feature \"")?.split('"').next())
        .collect();
    // `macros` brings the crate of its procedural macros, and nothing else.
    assert_eq!(features, BTreeSet::from(["macros", "sync", "tokio-macros"]));
    for runs in ["mio", "socket2", "signal-hook-registry", "axum", "rusqlite", "ureq"] {
        let found = tree.lines().find(|line| line.split(' ').next() == Some(runs));
        assert_eq!(found, None, "the engine itself needs none of it");
    }
}
