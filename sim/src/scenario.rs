//! A scenario: everything that a run is made of, as plain data.
//!
//! Invariant: a scenario decides its run. A profile and a seed make one; it can be written to a
//! file, edited and replayed. Every random choice that is left to the run itself is drawn from a
//! stream keyed by what it is for, so that taking one operation or fault out shifts no other.

use crate::stores::KV_CACHED_MS;
use crate::streams::{Purpose, Streams};
use crate::workload::{self, Act, Operation};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;
use tidelock_engine::policy::{Dataset, Durability, Keep, Limits, Policy, Projection, Strategy};
use tidelock_engine::record::StoreId;
use tidelock_engine::version::{NodeId, SiteId};
use tidelock_faults::{Fault, Kind, Place, PlanShape, plan};

/// Between two looks over the projections, in generated worlds.
pub const RECONCILE_EVERY_MS: u64 = 10_000;

/// The kinds of worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// One coordinator, short.
    Quick,
    /// Three coordinators over shared stores, three sessions, every fault.
    Standard,
    /// Two sites with stores of their own, two coordinators each; clocks hours apart; more and
    /// stronger faults.
    Hostile,
}

impl Profile {
    /// All of them.
    pub const ALL: [Profile; 3] = [Profile::Quick, Profile::Standard, Profile::Hostile];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Quick => "quick",
            Profile::Standard => "standard",
            Profile::Hostile => "hostile",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Profile::ALL.into_iter().find(|profile| profile.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Profile::ALL.into_iter().map(Profile::name).collect();
            format!("there is no profile {text:?}; the profiles are {}", names.join(", "))
        })
    }
}

/// How a dataset is kept, as a scenario file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Acknowledgements wait for D1.
    pub d1_through: bool,
    /// Acknowledgements wait for KV.
    pub kv_through: bool,
    /// Acknowledgements wait for R2.
    pub r2_through: bool,
    /// KV keeps references only.
    pub kv_reference: bool,
    /// Acknowledgements wait for another coordinator's journal.
    #[serde(default)]
    pub peer_keeps: bool,
}

impl Kept {
    fn dataset(&self) -> Dataset {
        let strategy = |through: bool| {
            if through { Strategy::WriteThrough } else { Strategy::WriteBehind }
        };
        let projection = |keep: Keep| Some(Projection { prefix: format!("{}/", self.name), keep });
        let nothing = !(self.d1_through || self.kv_through || self.r2_through);
        Dataset {
            kv: projection(if self.kv_reference { Keep::Reference } else { Keep::Full }),
            r2: projection(Keep::Full),
            strategy: [
                (StoreId::D1, strategy(self.d1_through)),
                (StoreId::Kv, strategy(self.kv_through)),
                (StoreId::R2, strategy(self.r2_through)),
            ]
            .into(),
            durability: match (self.peer_keeps, nothing) {
                (true, _) => Durability::Peer,
                (false, true) => Durability::Local,
                (false, false) => Durability::Authority,
            },
            ..Dataset::everywhere(&self.name)
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// What kind of world.
    pub profile: Profile,
    /// Draws whatever this file does not say.
    pub seed: u64,
    /// Coordinators.
    pub nodes: u16,
    /// Sets of stores. Coordinators are spread over them in turns.
    #[serde(default = "one")]
    pub sites: u16,
    /// Client sessions.
    pub sessions: u16,
    /// The run lasts at least this long, virtual.
    pub length_ms: u64,
    /// What is kept.
    pub datasets: Vec<Kept>,
    /// The largest value that the authority takes whole; small, so that large values are cheap.
    pub authority_value_bytes_max: usize,
    /// How far each coordinator's wall clock is off, in milliseconds.
    pub clock_skew_ms: Vec<i64>,
    /// Between two looks over what the projections hold, by some coordinator; `None`: nobody looks.
    #[serde(default)]
    pub reconcile_every_ms: Option<u64>,
    /// What the sessions do, in time order.
    pub operations: Vec<Operation>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

fn one() -> u16 {
    1
}

impl Scenario {
    /// The site whose stores a coordinator has.
    pub fn site_of(&self, node: NodeId) -> SiteId {
        SiteId(node.0 % self.sites)
    }

    /// The scenario of a profile and a seed.
    pub fn generate(profile: Profile, seed: u64) -> Self {
        let streams = Streams::new(seed);
        let (nodes, sites, sessions, operations, length_ms, quiet_ms) = match profile {
            Profile::Quick => (1, 1, 2, 60, 20_000, 8_000),
            Profile::Standard => (3, 1, 3, 200, 60_000, 12_000),
            Profile::Hostile => (4, 2, 4, 160, 60_000, 12_000),
        };
        let mut world = streams.open(Purpose::Topology, 0);
        let mut datasets = vec![Kept {
            name: "notes".to_owned(),
            d1_through: true,
            kv_through: false,
            r2_through: false,
            kv_reference: false,
            peer_keeps: false,
        }];
        datasets.push(Kept {
            name: "files".to_owned(),
            d1_through: world.random_bool(0.7),
            kv_through: world.random_bool(0.2),
            r2_through: world.random_bool(0.2),
            kv_reference: world.random_bool(0.2),
            peer_keeps: false,
        });
        let shared = nodes > sites;
        let skew_ms = match profile {
            Profile::Quick | Profile::Standard => 200,
            Profile::Hostile => 3 * 3_600_000,
        };
        let clock_skew_ms = (0..nodes).map(|_| world.random_range(-skew_ms..=skew_ms)).collect();
        if let Some(files) = datasets.last_mut() {
            files.peer_keeps = shared && world.random_bool(0.25);
        }
        let shape = PlanShape {
            nodes,
            sites,
            sessions,
            from_ms: 1_000,
            until_ms: length_ms - quiet_ms,
            kinds_permille: if profile == Profile::Hostile { 500 } else { 350 },
            windows_max: if profile == Profile::Hostile { 3 } else { 2 },
        };
        let faults = plan(&shape, &mut streams.open(Purpose::Plan, 0));
        let authority_value_bytes_max = 512;
        let operations = workload::generate(
            &workload::Shape {
                nodes,
                sessions,
                operations,
                until_ms: length_ms - quiet_ms,
                datasets: datasets.iter().map(|kept| kept.name.clone()).collect(),
                oversize_bytes: authority_value_bytes_max + 1,
            },
            &mut streams.open(Purpose::Workload, 0),
        );
        Scenario {
            profile,
            seed,
            nodes,
            sites,
            sessions,
            length_ms,
            datasets,
            authority_value_bytes_max,
            clock_skew_ms,
            reconcile_every_ms: Some(RECONCILE_EVERY_MS),
            operations,
            faults,
        }
    }

    /// A world in which nothing happens yet, to be written by hand: one dataset, `notes`, that
    /// waits for D1 and reaches KV and R2 behind the acknowledgement.
    pub fn still(nodes: u16) -> Self {
        let notes = Kept {
            name: "notes".to_owned(),
            d1_through: true,
            kv_through: false,
            r2_through: false,
            kv_reference: false,
            peer_keeps: false,
        };
        Scenario {
            profile: Profile::Standard,
            seed: 0,
            nodes,
            sites: 1,
            sessions: 1,
            length_ms: 10_000,
            datasets: vec![notes],
            authority_value_bytes_max: 512,
            clock_skew_ms: vec![0; usize::from(nodes)],
            reconcile_every_ms: None,
            operations: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Adds an operation, in a session of its own, so that no other makes it wait. Its id is its
    /// number, from 0.
    pub fn then(mut self, at_ms: u64, node: u16, key: &str, act: Act) -> Self {
        let id = u32::try_from(self.operations.len()).expect("written by hand, so few");
        let session = u16::try_from(id).expect("written by hand, so few");
        let (dataset, key) = (self.datasets[0].name.clone(), key.to_owned());
        self.operations.push(Operation { id, at_ms, session, node, dataset, key, act });
        self.sessions = session + 1;
        self
    }

    /// Adds a fault that always strikes.
    pub fn fault(mut self, kind: Kind, place: Place, during_ms: Range<u64>, span_ms: u64) -> Self {
        let id = u32::try_from(self.faults.len()).expect("written by hand, so few");
        let (from_ms, until_ms) = (during_ms.start, during_ms.end);
        self.faults.push(Fault { id, kind, place, from_ms, until_ms, permille: 1000, span_ms });
        self
    }

    /// The engine's configuration.
    pub fn policy(&self) -> Policy {
        self.policy_for(&self.datasets)
    }

    /// The configuration that a reload puts in force: another form of the copies in KV, or other
    /// stores that an acknowledgement waits for beside D1.
    pub fn other_policy(&self, fault: &Fault) -> Policy {
        let mut choices = Streams::new(self.seed).open(Purpose::Fault, u64::from(fault.id));
        let mut datasets = self.datasets.clone();
        for kept in &mut datasets {
            kept.kv_reference ^= choices.random_bool(0.5);
            kept.kv_through ^= choices.random_bool(0.3);
            kept.r2_through ^= choices.random_bool(0.3);
        }
        self.policy_for(&datasets)
    }

    fn policy_for(&self, datasets: &[Kept]) -> Policy {
        let reconcile_every = self.reconcile_every_ms.map(Duration::from_millis);
        let dataset = |kept: &Kept| Dataset { reconcile_every, ..kept.dataset() };
        Policy {
            limits: Limits {
                authority_value_bytes_max: self.authority_value_bytes_max,
                ..Limits::default()
            },
            ..Policy::new(datasets.iter().map(dataset))
        }
    }

    /// When the last planned fault ends.
    pub fn faults_end_ms(&self) -> u64 {
        self.faults.iter().map(|fault| fault.until_ms).max().unwrap_or(0)
    }

    /// Damage behind the coordinators' backs is found and mended within this, once nothing else is
    /// wrong: the longest time between two looks of one coordinator, twice, with KV's caches in
    /// between where what they give cannot be told from an echo; and five seconds.
    pub fn mended_within_ms(&self) -> u64 {
        let look_ms = |every_ms: u64| every_ms * u64::from(self.nodes.div_ceil(self.sites));
        self.reconcile_every_ms.map_or(0, |every| 2 * look_ms(every) + KV_CACHED_MS + 5_000)
    }

    /// `profile:seed`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.profile, self.seed)
    }
}

/// A scenario by name, as `PROFILE:SEED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// What kind of world.
    pub profile: Profile,
    /// Which one.
    pub seed: u64,
}

impl FromStr for Name {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (profile, seed) = text.split_once(':').unwrap_or(("quick", text));
        let seed = seed
            .parse()
            .map_err(|_| format!("{seed:?} is no seed; give a whole number, as in standard:42"))?;
        Ok(Name { profile: profile.parse()?, seed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_survives_its_file() {
        let scenario = Scenario::generate(Profile::Standard, 7);
        let text = serde_json::to_string_pretty(&scenario).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
    }

    #[test]
    fn names() {
        assert_eq!("standard:42".parse(), Ok(Name { profile: Profile::Standard, seed: 42 }));
        assert_eq!("42".parse(), Ok(Name { profile: Profile::Quick, seed: 42 }));
        assert!("standard:x".parse::<Name>().unwrap_err().contains("whole number"));
        assert!("nope:1".parse::<Name>().unwrap_err().contains("standard"));
    }
}
