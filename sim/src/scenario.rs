//! A scenario: everything that a run is made of, as plain data.
//!
//! Invariant: a scenario decides its run. A profile and a seed make one; it can be written to a
//! file, edited and replayed. Every random choice that is left to the run itself is drawn from a
//! stream keyed by what it is for, so that taking one operation or fault out shifts no other.

use crate::checker::Law;
use crate::stores::KV_CACHED_MS;
use crate::streams::{Purpose, Streams};
use crate::workload::{self, Act, Operation};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::backlog::{Mode, Queue};
use tidelock_engine::cron::Cron;
use tidelock_engine::merge::{self, FieldRules};
use tidelock_engine::policy::{
    self as engine, Conflicts, Dataset, Durability, Keep, Limits, Policy, Projection, Ruling,
    Strategy, UserRule,
};
use tidelock_engine::record::StoreId;
use tidelock_engine::version::{NodeId, SiteId};
use tidelock_faults::{Call, End, Fault, Kind, Moment, Place, PlanShape, plan};

/// Between two looks over the projections, in generated worlds.
pub const RECONCILE_EVERY_MS: u64 = 10_000;

/// Changes in a short page of a feed.
const SHORT_PAGE: usize = 8;

/// Each increment is a bit of its own, so all of them together are each of them once.
const EVERY_INCREMENT: &str = "
    fn resolve(sides, base) {
        let n = 0;
        for side in sides { if !side.deleted { n |= side.value.n; } }
        #{ n: n }
    }";

/// A fault until then never ends: no run is so long.
pub const NEVER_MS: u64 = 3_600_000;

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
    /// As `standard`, and one coordinator, or KV, or R2, never heals: the others must.
    Liveness,
    /// Thousands of records and few faults.
    Scale,
    /// As `hostile`, and the sites are cut apart while everybody writes to the same few records, with
    /// contexts that are old.
    Conflicts,
}

impl Profile {
    /// All of them.
    pub const ALL: [Profile; 6] = [
        Profile::Quick,
        Profile::Standard,
        Profile::Hostile,
        Profile::Liveness,
        Profile::Scale,
        Profile::Conflicts,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Quick => "quick",
            Profile::Standard => "standard",
            Profile::Hostile => "hostile",
            Profile::Liveness => "liveness",
            Profile::Scale => "scale",
            Profile::Conflicts => "conflicts",
        }
    }
}

/// How large a profile's worlds are.
struct Size {
    nodes: u16,
    sites: u16,
    sessions: u16,
    operations: u32,
    length_ms: u64,
    /// At the end, without new faults and operations.
    quiet_ms: u64,
}

impl Profile {
    fn size(self) -> Size {
        match self {
            Profile::Quick => Size {
                nodes: 1,
                sites: 1,
                sessions: 2,
                operations: 60,
                length_ms: 20_000,
                quiet_ms: 8_000,
            },
            Profile::Standard | Profile::Liveness => Size {
                nodes: 3,
                sites: 1,
                sessions: 3,
                operations: 200,
                length_ms: 60_000,
                quiet_ms: 12_000,
            },
            Profile::Hostile => Size {
                nodes: 4,
                sites: 2,
                sessions: 4,
                operations: 160,
                length_ms: 60_000,
                quiet_ms: 12_000,
            },
            Profile::Conflicts => Size {
                nodes: 4,
                sites: 2,
                sessions: 6,
                operations: 280,
                length_ms: 50_000,
                quiet_ms: 14_000,
            },
            Profile::Scale => Size {
                nodes: 3,
                sites: 1,
                sessions: 40,
                operations: 7_000,
                length_ms: 75_000,
                quiet_ms: 15_000,
            },
        }
    }

    /// True for kinds that such a world has no time for: the scrub reads 64 values a turn, and would
    /// come to the changed one of thousands hours later.
    pub fn leaves_out(self, kind: Kind) -> bool {
        match self {
            Profile::Scale => matches!(kind, Kind::KvChangedValue | Kind::R2ChangedObject),
            Profile::Quick
            | Profile::Standard
            | Profile::Hostile
            | Profile::Liveness
            | Profile::Conflicts => false,
        }
    }

    /// What a profile's fault plans are made for.
    pub fn plan_shape(self) -> PlanShape {
        let Size { nodes, sites, sessions, length_ms, quiet_ms, .. } = self.size();
        let (kinds_permille, rare_permille, windows_max) = match self {
            Profile::Quick | Profile::Standard => (350, 120, 2),
            Profile::Hostile => (500, 200, 3),
            Profile::Liveness | Profile::Conflicts => (250, 80, 2),
            Profile::Scale => (60, 40, 2),
        };
        PlanShape {
            nodes,
            sites,
            sessions,
            from_ms: 1_000,
            until_ms: length_ms - quiet_ms,
            kinds_permille,
            rare_permille,
            windows_max,
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
    /// D1 keeps references only.
    #[serde(default)]
    pub d1_reference: bool,
    /// Acknowledgements wait for another coordinator's journal.
    #[serde(default)]
    pub peer_keeps: bool,
    /// For how long a value stands, in milliseconds; `None`: until it is deleted.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// Writes that may wait for D1, and records for each projection; `None`: no bound of its own.
    #[serde(default)]
    pub queue_records: Option<usize>,
    /// What could not be in every store within five seconds is refused.
    #[serde(default)]
    pub promises: bool,
    /// How concurrent values are decided; `None`: the last writer's stands.
    #[serde(default)]
    pub law: Option<Law>,
}

impl Kept {
    /// Whatever waits for D1 and reaches KV and R2 behind the acknowledgement.
    fn plain(name: &str) -> Self {
        Kept {
            name: name.to_owned(),
            d1_through: true,
            kv_through: false,
            r2_through: false,
            kv_reference: false,
            d1_reference: false,
            peer_keeps: false,
            ttl_ms: None,
            queue_records: None,
            promises: false,
            law: None,
        }
    }

    fn conflict(&self) -> Conflicts {
        let default = match self.law {
            None => Ruling::Lww,
            Some(Law::KeepSiblings) => Ruling::KeepSiblings,
            Some(Law::DeleteWins) => Ruling::DeleteWins,
            Some(Law::EditWins) => Ruling::EditWins,
            Some(Law::PreferForeign) => Ruling::PreferStore(StoreId::D1),
            Some(Law::Counter) => Ruling::Merge,
            Some(Law::RuledCounter) => {
                let rule = UserRule::load("every-increment", EVERY_INCREMENT);
                let rule = Arc::new(rule.expect("the script is a rule"));
                Ruling::Rule { rule, fallback: Box::new(Ruling::Lww) }
            }
        };
        let fields = match self.law {
            Some(Law::Counter) => FieldRules::new([("/n", merge::Strategy::DeltaSum)]),
            Some(_) | None => FieldRules::new([]),
        };
        let fields = fields.expect("a pointer");
        Conflicts { default, prefixes: Default::default(), fields }
    }

    fn dataset(&self) -> Dataset {
        let strategy = |through: bool| {
            if through { Strategy::WriteThrough } else { Strategy::WriteBehind }
        };
        let projection = |keep: Keep| Some(Projection { prefix: format!("{}/", self.name), keep });
        let nothing = !(self.d1_through || self.kv_through || self.r2_through);
        Dataset {
            d1_refers: self.d1_reference,
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
            ttl: self.ttl_ms.map(Duration::from_millis),
            backlog: if self.promises { Mode::Promise } else { Mode::Absorb },
            queue: Queue { records: self.queue_records, bytes: None },
            kind: match self.law {
                Some(Law::Counter | Law::RuledCounter) => engine::Kind::Json,
                Some(_) | None => engine::Kind::Binary,
            },
            conflict: self.conflict(),
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
    /// And between looks over what has changed since; `None`: nobody looks in between.
    #[serde(default)]
    pub reconcile_recent_ms: Option<u64>,
    /// And at these times of the day, as a cron.
    #[serde(default)]
    pub reconcile_full: Option<String>,
    /// Intents that a coordinator may hold; `None`: as many as in production.
    #[serde(default)]
    pub intents_max: Option<usize>,
    /// Changes in one page of another site's feed; `None`: as many as in production.
    #[serde(default)]
    pub feed_page: Option<usize>,
    /// Each coordinator keeps an audit log.
    #[serde(default)]
    pub audited: bool,
    /// What the sessions do, in time order.
    pub operations: Vec<Operation>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Coordinators and stores that never heal.
    #[serde(default)]
    pub outside: Vec<End>,
}

fn one() -> u16 {
    1
}

impl Scenario {
    /// The site whose stores a coordinator has.
    pub fn site_of(&self, node: NodeId) -> SiteId {
        SiteId(node.0 % self.sites)
    }

    /// Why no world can be made of it; only a file can have it so.
    pub fn check(&self) -> Result<(), String> {
        if self.nodes == 0 || self.sites == 0 || self.sites > self.nodes {
            let Scenario { nodes, sites, .. } = self;
            return Err(format!(
                "{nodes} coordinators have no {sites} sites: at least one of each, and none without"
            ));
        }
        if let Some(text) = &self.reconcile_full {
            text.parse::<Cron>().map_err(|error| format!("its cron {text:?}: {error}"))?;
        }
        for operation in &self.operations {
            let Operation { id, session, node, dataset, .. } = operation;
            if self.datasets.iter().all(|kept| kept.name != *dataset) {
                return Err(format!(
                    "operation {id} is of the dataset {dataset:?}, which it lacks"
                ));
            }
            for end in [End::Session(*session), End::Node(*node)] {
                self.has(end).map_err(|problem| format!("operation {id}: {problem}"))?;
            }
        }
        for fault in &self.faults {
            let named = fault.place.ends().into_iter().try_for_each(|end| self.has(end));
            let site = match fault.place {
                Place::StoreAt { site, .. } if site >= self.sites => {
                    Err(format!("there is no site {site}; there are {}, from 0 on", self.sites))
                }
                _ => Ok(()),
            };
            named.and(site).map_err(|problem| format!("fault {}: {problem}", fault.id))?;
        }
        Ok(())
    }

    fn has(&self, end: End) -> Result<(), String> {
        let (what, number, count) = match end {
            End::Node(node) => ("coordinator", node, self.nodes),
            End::Session(session) => ("session", session, self.sessions),
            End::Store(_) => return Ok(()),
        };
        if number < count {
            return Ok(());
        }
        Err(format!("there is no {what} {number}; there are {count}, from 0 on"))
    }

    /// The scenario of a profile and a seed.
    pub fn generate(profile: Profile, seed: u64) -> Self {
        Scenario::generate_without(profile, seed, &[])
    }

    /// The same without what its profile has got since: a world that once failed stays what it was.
    pub fn generate_without(profile: Profile, seed: u64, without: &[Purpose]) -> Self {
        let has = |purpose| !without.contains(&purpose);
        let streams = Streams::new(seed);
        let Size { nodes, sites, sessions, operations, length_ms, quiet_ms } = profile.size();
        let mut world = streams.open(Purpose::Topology, 0);
        let mut datasets = vec![Kept::plain("notes")];
        datasets.push(Kept {
            d1_through: world.random_bool(0.7),
            kv_through: world.random_bool(0.2),
            r2_through: world.random_bool(0.2),
            kv_reference: world.random_bool(0.2),
            ..Kept::plain("files")
        });
        let shared = nodes > sites;
        let skew_ms = match profile {
            Profile::Quick | Profile::Standard | Profile::Liveness | Profile::Scale => 200,
            Profile::Hostile | Profile::Conflicts => 3 * 3_600_000,
        };
        if profile == Profile::Conflicts {
            let laws = [Law::DeleteWins, Law::EditWins, Law::PreferForeign];
            let law = laws[world.random_range(0..laws.len())];
            let counter = if world.random_ratio(1, 3) { Law::RuledCounter } else { Law::Counter };
            datasets = vec![
                Kept::plain("notes"),
                Kept { law: Some(Law::KeepSiblings), ..Kept::plain("siblings") },
                Kept { law: Some(law), ..Kept::plain("ranked") },
                Kept { law: Some(counter), ..Kept::plain("counts") },
                Kept::plain("files"),
            ];
        }
        let clock_skew_ms = (0..nodes).map(|_| world.random_range(-skew_ms..=skew_ms)).collect();
        if let Some(files) = datasets.last_mut() {
            files.peer_keeps = shared && world.random_bool(0.25);
        }
        let shape = profile.plan_shape();
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
                records: match profile {
                    Profile::Scale => 5_000,
                    Profile::Conflicts => 6,
                    _ => 40,
                },
                hot_permille: match profile {
                    Profile::Scale => 20,
                    Profile::Conflicts => 800,
                    _ => 350,
                },
            },
            &mut streams.open(Purpose::Workload, 0),
        );
        let mut scenario = Scenario {
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
            reconcile_recent_ms: None,
            reconcile_full: None,
            intents_max: None,
            feed_page: None,
            audited: false,
            operations,
            faults,
            outside: Vec::new(),
        };
        let mut looks = streams.open(Purpose::Looks, 0);
        if looks.random_range(0..8) == 0 {
            scenario.reconcile_recent_ms = Some(looks.random_range(1_500..6_000));
        }
        if profile == Profile::Hostile {
            // With short pages a feed is soon too long to be read from its beginning.
            let short = streams.open(Purpose::Exchange, 0).random_bool(0.5);
            scenario.feed_page = short.then_some(SHORT_PAGE);
        }
        if profile == Profile::Conflicts {
            scenario.provoke_conflicts(&mut streams.open(Purpose::Topology, 3));
            let increments = &mut streams.open(Purpose::Increments, 0);
            if increments.random_bool(0.5) && has(Purpose::Increments) {
                workload::increment(&mut scenario.operations, increments);
            }
            if has(Purpose::Erasures) {
                scenario.let_erase(&mut streams.open(Purpose::Erasures, 0));
            }
        }
        scenario.let_expire(&mut streams.open(Purpose::Expiry, 0));
        scenario.be_demanding(&mut streams.open(Purpose::Topology, 2));
        scenario.faults.retain(|fault| !profile.leaves_out(fault.kind));
        if has(Purpose::Audit) {
            scenario.keep_logs(&mut streams.open(Purpose::Audit, 0));
        }
        if profile == Profile::Liveness {
            scenario.never_heals(&mut streams.open(Purpose::Topology, 1));
        }
        scenario
    }

    /// Sessions write with what they read last, which is old, and the sites are cut apart a few times.
    fn provoke_conflicts(&mut self, rng: &mut impl Rng) {
        let law = |name: &str| {
            let kept = self.datasets.iter().find(|kept| kept.name == name);
            kept.and_then(|kept| kept.law)
        };
        for operation in &mut self.operations {
            let Some(_) = law(&operation.dataset) else { continue };
            operation.act = match (&operation.act, rng.random_range(0..100)) {
                (Act::Put { bytes }, 0..70) | (Act::PutIfUnchanged { bytes }, _) => {
                    Act::PutWithContext { bytes: *bytes }
                }
                (Act::PutWithContext { .. }, 0..30) => Act::ReadLatest,
                (act, _) => act.clone(),
            };
        }
        let counters: Vec<String> = self
            .datasets
            .iter()
            .filter(|kept| kept.law.is_some_and(Law::counts))
            .map(|kept| kept.name.clone())
            .collect();
        workload::count(&mut self.operations, &counters, rng);
        let until_ms = self.profile.plan_shape().until_ms;
        let mut from_ms = rng.random_range(500..4_000);
        while from_ms + 1_000 < until_ms {
            let to_ms = (from_ms + rng.random_range(1_500..9_000)).min(until_ms);
            for one in 0..self.nodes {
                for other in (0..self.nodes).filter(|other| other % self.sites != one % self.sites)
                {
                    let id = self.faults.iter().map(|fault| fault.id + 1).max().unwrap_or(0);
                    let place = Place::Link { from: End::Node(one), to: End::Node(other) };
                    let (kind, permille) = (Kind::NetPartition, 1_000);
                    let until_ms = to_ms;
                    self.faults.push(Fault {
                        id,
                        kind,
                        place,
                        from_ms,
                        until_ms,
                        permille,
                        span_ms: 0,
                    });
                }
            }
            from_ms = to_ms + rng.random_range(1_000..6_000);
        }
    }

    /// In one run of three operators have bytes erased. What a counter would be merged from stays: without
    /// it a merge is not exact any more, and says so.
    fn let_erase(&mut self, rng: &mut impl Rng) {
        if !rng.random_bool(1.0 / 3.0) {
            return;
        }
        let others = self.datasets.iter().filter(|kept| !kept.law.is_some_and(Law::counts));
        let others: Vec<String> = others.map(|kept| kept.name.clone()).collect();
        workload::erase(&mut self.operations, &others, 60, rng);
    }

    /// In one run of four where most conflicts are, and in one hostile run of eight, each coordinator keeps
    /// a log: that of all of them would be a sixth of the work. A few appends are the last thing that
    /// their process does.
    fn keep_logs(&mut self, rng: &mut impl Rng) {
        let share = match self.profile {
            Profile::Conflicts => 1.0 / 4.0,
            Profile::Hostile => 1.0 / 8.0,
            Profile::Quick | Profile::Standard | Profile::Liveness | Profile::Scale => 0.0,
        };
        self.audited = rng.random_bool(share);
        if !self.audited {
            return;
        }
        let PlanShape { from_ms, until_ms, .. } = self.profile.plan_shape();
        for _ in 0..rng.random_range(0..4) {
            let span_ms = rng.random_range(10..4_000);
            let from_ms = rng.random_range(from_ms..until_ms - span_ms);
            let until_ms = rng.random_range(from_ms + 1..=until_ms - span_ms);
            let moment = if rng.random_bool(0.7) { Moment::Before } else { Moment::After };
            let (node, ordinal) = (rng.random_range(0..self.nodes), rng.random_range(1..=4));
            let place = Place::Call { node, call: Call::AuditAppend, ordinal, moment };
            let id = self.faults.iter().map(|fault| fault.id + 1).max().unwrap_or(0);
            let (kind, permille) = (Kind::ProcessCrash, 1_000);
            self.faults.push(Fault { id, kind, place, from_ms, until_ms, permille, span_ms });
        }
    }

    /// In one run of three some values expire; in one of nine, all of a dataset.
    fn let_expire(&mut self, rng: &mut impl Rng) {
        if !rng.random_bool(1.0 / 3.0) {
            return;
        }
        let expire = self.datasets.iter().filter(|kept| kept.law.is_none());
        let expire: Vec<String> = expire.map(|kept| kept.name.clone()).collect();
        workload::let_expire(&mut self.operations, &expire, 150, rng);
        if rng.random_bool(1.0 / 3.0)
            && let Some(files) = self.datasets.last_mut()
        {
            files.ttl_ms = Some(rng.random_range(workload::TTL_MS));
        }
    }

    /// In one hostile run of eight no more than a few writes of one dataset may wait; in one of sixteen
    /// it promises, and in one its values stand in R2 alone. The other worlds absorb whatever a store
    /// that is away leaves waiting.
    fn be_demanding(&mut self, rng: &mut impl Rng) {
        let (bounded, promises) = (rng.random_bool(1.0 / 8.0), rng.random_bool(1.0 / 16.0));
        let records = rng.random_range(3..20);
        if self.profile != Profile::Hostile {
            return;
        }
        if let Some(files) = self.datasets.last_mut() {
            files.queue_records = bounded.then_some(records);
            files.promises = promises;
            files.d1_reference = rng.random_bool(1.0 / 16.0);
        }
    }

    /// One coordinator, or one store beside the authority, is gone for good.
    fn never_heals(&mut self, rng: &mut impl Rng) {
        let from_ms = rng.random_range(3_000..20_000);
        let node = rng.random_range(0..self.nodes);
        let gone = match rng.random_range(0..4) {
            0 => End::Store(StoreId::Kv),
            1 => End::Store(StoreId::R2),
            _ => End::Node(node),
        };
        if gone == End::Store(StoreId::R2) {
            // What the authority cannot take whole has nowhere to go.
            let bytes_max = self.authority_value_bytes_max;
            self.operations
                .retain(|operation| operation.value().is_none_or(|v| v.len() <= bytes_max));
            self.faults.retain(|fault| fault.kind != Kind::LoadOversize);
        }
        if let End::Node(_) = gone {
            // Of the others none is taken away: somebody must be left.
            self.faults.retain(|fault| !fault.kind.is_membership());
        }
        if let End::Store(store) = gone {
            // Nobody can see what is done there.
            let unseen =
                |fault: &Fault| fault.kind.is_damage() && fault.place == Place::Store(store);
            self.faults.retain(|fault| !unseen(fault));
        }
        let mut ids = self.faults.iter().map(|fault| fault.id + 1).max().unwrap_or(0)..;
        let mut add = |kind: Kind, place: Place, until_ms: u64, span_ms: u64| {
            let id = ids.next().expect("a plan has few faults");
            self.faults.push(Fault { id, kind, place, from_ms, until_ms, permille: 1000, span_ms });
        };
        let cut_off = rng.random_bool(0.5);
        match gone {
            End::Node(node) if cut_off => {
                let others = (0..self.nodes).filter(|other| *other != node).map(End::Node);
                for to in others.chain(StoreId::ALL.map(End::Store)) {
                    let from = End::Node(node);
                    add(Kind::NetPartition, Place::Link { from, to }, NEVER_MS, 0);
                }
            }
            End::Node(node) => {
                let (call, ordinal, moment) = (Call::D1Poll, 1, Moment::Before);
                let place = Place::Call { node, call, ordinal, moment };
                add(Kind::ProcessCrash, place, from_ms + 10_000, NEVER_MS);
            }
            End::Store(StoreId::R2) => {
                add(Kind::R2ErrorBefore, Place::Store(StoreId::R2), NEVER_MS, 0);
            }
            End::Store(store) => add(Kind::KvErrorBefore, Place::Store(store), NEVER_MS, 0),
            End::Session(_) => {}
        }
        self.outside.push(gone);
    }

    /// True for what never heals.
    pub fn is_outside(&self, end: End) -> bool {
        self.outside.contains(&end)
    }

    /// The coordinators that never heal.
    pub fn nodes_outside(&self) -> BTreeSet<NodeId> {
        let node = |end: &End| if let End::Node(node) = end { Some(NodeId(*node)) } else { None };
        self.outside.iter().filter_map(node).collect()
    }

    /// The stores that never heal.
    pub fn stores_outside(&self) -> BTreeSet<StoreId> {
        let store = |end: &End| if let End::Store(store) = end { Some(*store) } else { None };
        self.outside.iter().filter_map(store).collect()
    }

    /// A world in which nothing happens yet, to be written by hand: one dataset, `notes`, that
    /// waits for D1 and reaches KV and R2 behind the acknowledgement.
    pub fn still(nodes: u16) -> Self {
        let notes = Kept::plain("notes");
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
            reconcile_recent_ms: None,
            reconcile_full: None,
            intents_max: None,
            feed_page: None,
            audited: false,
            operations: Vec::new(),
            faults: Vec::new(),
            outside: Vec::new(),
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

    /// What is added from here on is in a dataset whose concurrent values are decided so.
    pub fn under(mut self, law: Law) -> Self {
        self.datasets.insert(0, Kept { law: Some(law), ..Kept::plain("disputed") });
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
        let reconcile_full = self.reconcile_full.as_ref().map(|text| {
            text.parse::<Cron>().unwrap_or_else(|error| panic!("the scenario's cron: {error}"))
        });
        let dataset = |kept: &Kept| Dataset {
            reconcile_every,
            reconcile_recent: self.reconcile_recent_ms.map(Duration::from_millis),
            reconcile_full: reconcile_full.clone(),
            ..kept.dataset()
        };
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
        let ends = self.faults.iter().map(|fault| fault.until_ms);
        ends.filter(|until_ms| *until_ms < NEVER_MS).max().unwrap_or(0)
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
    fn a_world_can_be_made_of_every_seed() {
        for (profile, seed) in Profile::ALL.into_iter().flat_map(|p| (0..40).map(move |s| (p, s))) {
            assert_eq!(Scenario::generate(profile, seed).check(), Ok(()), "{profile}:{seed}");
        }
    }

    #[test]
    fn what_a_file_names_and_no_world_has_is_told() {
        let refused = |change: fn(&mut Scenario), word: &str| {
            let mut scenario = Scenario::generate(Profile::Hostile, 1);
            change(&mut scenario);
            let problem = scenario.check().unwrap_err();
            assert!(problem.contains(word), "{problem}");
        };
        let at_site = |site| Place::StoreAt { site, store: StoreId::Kv };
        assert_eq!(
            Scenario::still(2).fault(Kind::KvForeignWrite, at_site(0), 0..9, 0).check(),
            Ok(())
        );
        refused(|s| s.sites = 9, "9 sites");
        refused(|s| s.nodes = 0, "0 coordinators");
        refused(|s| s.operations[0].node = 4, "no coordinator 4");
        refused(|s| s.operations[0].session = 4, "no session 4");
        refused(|s| s.operations[0].dataset = "nope".to_owned(), "\"nope\"");
        refused(|s| s.reconcile_full = Some("nope".to_owned()), "cron");
        refused(|s| s.faults[0].place = Place::Disk(4), "no coordinator 4");
        refused(
            |s| s.faults[0].place = Place::StoreAt { site: 2, store: StoreId::Kv },
            "no site 2",
        );
    }

    #[test]
    fn names() {
        assert_eq!("standard:42".parse(), Ok(Name { profile: Profile::Standard, seed: 42 }));
        assert_eq!("42".parse(), Ok(Name { profile: Profile::Quick, seed: 42 }));
        assert!("standard:x".parse::<Name>().unwrap_err().contains("whole number"));
        assert!("nope:1".parse::<Name>().unwrap_err().contains("standard"));
    }
}
