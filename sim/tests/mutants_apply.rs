//! Each patch of `sim/mutants/` still fits the engine, and names a test that exists. What
//! the tests make of them is shown by `cargo sim certify`, which builds each.
#![cfg(madsim)]

use std::path::Path;
use tidelock_sim::certify::{Mutant, TESTS, applies};

#[test]
fn every_mutant_applies_and_names_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if std::process::Command::new("git").arg("--version").output().is_err() {
        println!("SKIPPED: there is no git here, so no patch was tried");
        return;
    }
    let read = |file: &&str| std::fs::read_to_string(root.join(format!("sim/tests/{file}.rs")));
    let tests: Vec<String> = TESTS.iter().map(|f| read(f).expect("it is a test file")).collect();
    let mutants = Mutant::all(&root, &[]).expect("the patches can be read");
    assert!(!mutants.is_empty());
    for mutant in &mutants {
        // Resolved here, since git runs in the workspace.
        let patch = mutant.patch.canonicalize().expect("it was listed");
        applies(&root, &Mutant { patch, ..mutant.clone() }).unwrap_or_else(|p| panic!("{p}"));
        let named = format!("fn {}()", mutant.test);
        let holding = tests.iter().filter(|text| text.contains(&named)).count();
        assert_eq!(holding, 1, "{}: one test {}", mutant.name, mutant.test);
    }
}

#[test]
fn every_rule_has_a_mutant() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mutants = Mutant::all(&root, &[]).expect("the patches can be read");
    for rule in ["V1", "V2", "V3", "V5", "V6", "A0", "A1", "A2", "A4", "A5", "A5a", "A5b", "A5c"] {
        assert!(mutants.iter().any(|mutant| mutant.rule == rule), "nothing takes {rule} out");
    }
}
