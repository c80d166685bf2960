//! Shrinking: the smallest scenario that still breaks the same invariant.
//!
//! ```text
//! scenario ──> leave something out ──> run ──> the same invariant? ──> keep it left out
//!      ^                                │ no: put it back
//!      └────────────────────────────────┴── until nothing more can be left out
//! ```
//!
//! Operations and faults are left out in halves, then quarters, down to one by one (Zeller,
//! Hildebrandt: "Simplifying and Isolating Failure-Inducing Input", 2002); then coordinators,
//! sessions, datasets, clock errors and idle time. Operations are moved together too: what comes at
//! once meets without a fault that keeps the later one from hearing of the earlier.
//!
//! Invariant: what is returned was run, and broke the invariant that the whole scenario broke
//! first. A run's random choices are keyed by what they are for, so what stays in a scenario meets
//! the same latencies and dice as before.

use crate::checker::{Invariant, Violation};
use crate::double::Double;
use crate::run;
use crate::scenario::Scenario;
use tidelock_faults::{End, Place};

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest that was found.
    pub scenario: Scenario,
    /// How it fails.
    pub violation: Violation,
    /// How many runs it took.
    pub runs: u64,
    /// Nothing more can be left out; false: the runs were used up.
    pub complete: bool,
}

/// Shrinks a scenario in at most `runs_max` runs. `progress` is told of every scenario that still
/// fails, and of the runs so far. `None`: the scenario breaks nothing.
pub fn shrink(
    scenario: &Scenario,
    double: Option<Double>,
    runs_max: u64,
    progress: &dyn Fn(&Scenario, u64),
) -> Option<Shrunk> {
    let violation = run::run(scenario, double, false).violations.into_iter().next()?;
    let invariant = violation.invariant;
    let best = Shrunk { scenario: scenario.clone(), violation, runs: 1, complete: false };
    let mut search = Search { best, invariant, double, runs_max, progress };
    loop {
        let before = search.best.scenario.clone();
        search.leave_out(|scenario| &mut scenario.operations);
        search.leave_out(|scenario| &mut scenario.faults);
        search.simplify();
        search.close_gaps();
        if search.best.scenario == before || search.is_over() {
            break;
        }
    }
    search.best.complete = !search.is_over();
    Some(search.best)
}

struct Search<'a> {
    best: Shrunk,
    invariant: Invariant,
    double: Option<Double>,
    runs_max: u64,
    progress: &'a dyn Fn(&Scenario, u64),
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.best.runs >= self.runs_max
    }

    /// Runs a smaller scenario, and keeps it if it fails alike.
    fn fails(&mut self, scenario: Scenario) -> bool {
        if self.is_over() || scenario == self.best.scenario {
            return false;
        }
        self.best.runs += 1;
        let violations = run::run(&scenario, self.double, false).violations;
        let alike = violations.into_iter().find(|found| found.invariant == self.invariant);
        let Some(violation) = alike else { return false };
        self.best.scenario = scenario;
        self.best.violation = violation;
        (self.progress)(&self.best.scenario, self.best.runs);
        true
    }

    /// Leaves out pieces of a list, ever smaller ones.
    fn leave_out<T>(&mut self, list: impl Fn(&mut Scenario) -> &mut Vec<T>) {
        let mut piece = list(&mut self.best.scenario).len().div_ceil(2);
        while piece > 0 {
            let mut from = 0;
            while from < list(&mut self.best.scenario).len() {
                let mut smaller = self.best.scenario.clone();
                let whole = list(&mut smaller);
                let upto = whole.len().min(from + piece);
                whole.drain(from..upto);
                // What stands at `from` now is what came after.
                if !self.fails(smaller) {
                    from += piece;
                }
            }
            piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
        }
    }

    /// Has each operation come with the one before it.
    fn close_gaps(&mut self) {
        for at in 1..self.best.scenario.operations.len() {
            let mut together = self.best.scenario.clone();
            together.operations[at].at_ms = together.operations[at - 1].at_ms;
            self.fails(together);
        }
    }

    /// Tries everything else that can be simpler, one at a time.
    fn simplify(&mut self) {
        while self.best.scenario.nodes > 1 && self.fails(fewer_nodes(&self.best.scenario)) {}
        while self.best.scenario.sessions > 1 && self.fails(fewer_sessions(&self.best.scenario)) {}
        for at in (0..self.best.scenario.datasets.len()).rev() {
            let mut fewer = self.best.scenario.clone();
            let gone = fewer.datasets.remove(at);
            // A run needs the dataset that its own last writes go to.
            if gone.name != "notes" && fewer.operations.iter().all(|o| o.dataset != gone.name) {
                self.fails(fewer);
            }
        }
        for at in 0..self.best.scenario.clock_skew_ms.len() {
            let mut exact = self.best.scenario.clone();
            exact.clock_skew_ms[at] = 0;
            self.fails(exact);
        }
        for at in 0..self.best.scenario.faults.len() {
            let mut always = self.best.scenario.clone();
            always.faults[at].permille = 1000;
            self.fails(always);
        }
        let scenario = &self.best.scenario;
        let last_ms = scenario.operations.iter().map(|operation| operation.at_ms).max();
        let busy_ms = last_ms.unwrap_or(0).max(scenario.faults_end_ms());
        let mut shorter = scenario.clone();
        shorter.length_ms = shorter.length_ms.min(busy_ms + 1_000);
        self.fails(shorter);
    }
}

/// Without the last coordinator: what was asked of it is asked of the one before.
fn fewer_nodes(scenario: &Scenario) -> Scenario {
    let mut fewer = scenario.clone();
    fewer.nodes -= 1;
    fewer.sites = fewer.sites.min(fewer.nodes);
    fewer.clock_skew_ms.truncate(usize::from(fewer.nodes));
    for operation in &mut fewer.operations {
        operation.node = operation.node.min(fewer.nodes - 1);
    }
    let gone = End::Node(fewer.nodes);
    fewer.faults.retain(|fault| !fault.place.ends().contains(&gone));
    let sites = fewer.sites;
    fewer
        .faults
        .retain(|fault| !matches!(fault.place, Place::StoreAt { site, .. } if site >= sites));
    fewer
}

/// Without the last session: what it did is done by the one before.
fn fewer_sessions(scenario: &Scenario) -> Scenario {
    let mut fewer = scenario.clone();
    fewer.sessions -= 1;
    for operation in &mut fewer.operations {
        operation.session = operation.session.min(fewer.sessions - 1);
    }
    let gone = End::Session(fewer.sessions);
    fewer.faults.retain(|fault| !fault.place.ends().contains(&gone));
    fewer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Profile;

    /// What strikes at a coordinator, or at the stores of a site that has none any more, goes with it.
    #[test]
    fn a_world_can_be_made_of_what_is_left() {
        for seed in 0..20 {
            let mut scenario = Scenario::generate(Profile::Hostile, seed);
            while scenario.nodes > 1 {
                scenario = fewer_nodes(&scenario);
                assert_eq!(scenario.check(), Ok(()));
            }
            while scenario.sessions > 1 {
                scenario = fewer_sessions(&scenario);
                assert_eq!(scenario.check(), Ok(()));
            }
        }
    }
}
