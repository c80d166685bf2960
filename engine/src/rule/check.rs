//! Laws that a rule must keep, and the smallest example that breaks one.
//!
//! ```text
//! examples ─▶ changed a little ─┐
//! shapes ──────────────────────▶├─▶ a conflict ─▶ every law ─▶ broken? ─▶ smaller, while it breaks
//! ```
//!
//! Invariant: the same rule, examples, rounds and seed give the same counter-example. A rule gets its
//! sides as a set and keeps no state, so what order they *arrive* in cannot matter; what can is how
//! writers are *named*: a rule that takes the first side takes whoever has the least name. Where writes
//! have one stamp, which is rare, nothing but names is left to tell them apart, so made-up conflicts have
//! none such.

use super::{Failed, Resolved, Rule};
use crate::merge::Side;
use crate::version::{Actor, Dot, NodeId, Stamp};
use serde_json::Value;
use std::fmt;

/// Steps of making a counter-example smaller, each some runs of the rule.
const SHRINKS_MAX: usize = 10_000;

/// Sides of a made-up conflict.
const SIDES_MADE_MAX: u64 = 4;

/// A conflict that users expect to meet, and what they expect of it.
#[derive(Clone, Debug, Default)]
pub struct Example {
    /// What the sides had started from, where it is known.
    pub base: Option<Vec<u8>>,
    /// What was written; `None` is a delete.
    pub sides: Vec<Side<Option<Vec<u8>>>>,
    /// What the rule must answer, where that is said.
    pub expected: Option<Resolved>,
}

/// What a rule must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// An example is answered, and as it says.
    Example,
    /// When all sides have the base's value, so has the answer.
    Unchanged,
    /// When all sides have one value, so has the answer.
    Agreement,
    /// Writers of other names with the same values and stamps have the same answer.
    Naming,
    /// Small values are answered, or thrown at, within every limit.
    Ends,
    /// Some conflict is answered.
    Answers,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Law::Example => "an example is answered as it says",
            Law::Unchanged => "what no side changed stays",
            Law::Agreement => "what all sides agree on stands",
            Law::Naming => "the names of writers make no difference",
            Law::Ends => "a rule stays within its limits",
            Law::Answers => "some conflict is answered (give an example of one)",
        })
    }
}

/// A conflict in which a rule breaks a law.
#[derive(Clone, Debug)]
pub struct CounterExample {
    /// The law.
    pub law: Law,
    /// The base.
    pub base: Option<Vec<u8>>,
    /// The sides.
    pub sides: Vec<Side<Option<Vec<u8>>>>,
    /// For [`Law::Naming`]: the same sides under other names.
    pub renamed: Option<Vec<Side<Option<Vec<u8>>>>>,
    /// What the rule answers.
    pub answer: Result<Resolved, Failed>,
    /// What the law wants, which is what the rule answers for the renamed; `None`: any answer.
    pub wanted: Option<Result<Resolved, Failed>>,
}

impl fmt::Display for CounterExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the rule breaks a law: {}", self.law)?;
        writeln!(f, "  base       {}", spelled(self.base.as_deref(), "unknown"))?;
        write_sides(f, "side  ", &self.sides)?;
        writeln!(f, "  answer     {}", outcome(&self.answer))?;
        if let Some(renamed) = &self.renamed {
            write_sides(f, "or    ", renamed)?;
        }
        match &self.wanted {
            Some(wanted) if self.renamed.is_some() => write!(f, "  answer     {}", outcome(wanted)),
            Some(wanted) => write!(f, "  wanted     {}", outcome(wanted)),
            None => f.write_str("  wanted     an answer"),
        }
    }
}

impl std::error::Error for CounterExample {}

fn write_sides(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    sides: &[Side<Option<Vec<u8>>>],
) -> fmt::Result {
    for side in sides {
        let value = spelled(side.value.as_deref(), "deleted");
        let (dot, stamp_ms) = (side.dot.to_text(), side.stamp.wall_ms);
        writeln!(f, "  {what}     {value}  by {dot} at {stamp_ms} ms")?;
    }
    Ok(())
}

fn spelled(value: Option<&[u8]>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), |bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn outcome(answer: &Result<Resolved, Failed>) -> String {
    match answer {
        Ok(resolved) => spelled(resolved.value.as_deref(), "deleted"),
        Err(failed) => failed.to_string(),
    }
}

impl Rule {
    /// Looks for a conflict in which the rule breaks a law: among the examples, then in `rounds`
    /// conflicts made from them and from built-in shapes.
    ///
    /// A rule may fail where no example is; it then must under all names.
    pub fn check(
        &self,
        examples: &[Example],
        rounds: u32,
        seed: u64,
    ) -> Result<(), Box<CounterExample>> {
        let known: Vec<Case> = examples.iter().filter_map(Case::of).collect();
        for example in examples {
            self.example(example)?;
        }
        let mut random = Random(seed);
        let made = (0..rounds).map(|_| Case::made(&known, &mut random));
        let mut unanswered = None;
        for case in known.iter().cloned().chain(made) {
            let answer = self.ask(case.base_bytes().as_deref(), &case.sides());
            if let Some(found) = self.broken(&case, &answer) {
                return Err(Box::new(self.smallest(case, found)));
            }
            if answer.is_ok() {
                unanswered = Some(None);
            }
            unanswered = unanswered.or(Some(Some((case, answer))));
        }
        match unanswered.flatten() {
            Some((case, answer)) if examples.is_empty() => Err(Box::new(CounterExample {
                law: Law::Answers,
                base: case.base_bytes(),
                sides: case.sides(),
                renamed: None,
                answer,
                wanted: None,
            })),
            Some(_) | None => Ok(()),
        }
    }

    fn example(&self, example: &Example) -> Result<(), Box<CounterExample>> {
        let answer = self.ask(example.base.as_deref(), &example.sides);
        let kept = match (&answer, &example.expected) {
            (Ok(answer), Some(expected)) => is_same_json(answer, expected),
            (Ok(_), None) => true,
            (Err(_), _) => false,
        };
        if kept {
            return Ok(());
        }
        Err(Box::new(CounterExample {
            law: Law::Example,
            base: example.base.clone(),
            sides: example.sides.clone(),
            renamed: None,
            answer,
            wanted: example.expected.clone().map(Ok),
        }))
    }

    fn ask(
        &self,
        base: Option<&[u8]>,
        sides: &[Side<Option<Vec<u8>>>],
    ) -> Result<Resolved, Failed> {
        let sides: Vec<Side<Option<&[u8]>>> = sides
            .iter()
            .map(|side| Side { dot: side.dot, stamp: side.stamp, value: side.value.as_deref() })
            .collect();
        self.resolve(base, &sides)
    }

    /// The first law that the rule breaks in a conflict which it answers so.
    fn broken(&self, case: &Case, answer: &Result<Resolved, Failed>) -> Option<CounterExample> {
        let (base, sides) = (case.base_bytes(), case.sides());
        let found = |law, renamed, wanted| CounterExample {
            law,
            base: base.clone(),
            sides: sides.clone(),
            renamed,
            answer: answer.clone(),
            wanted,
        };
        if let Err(Failed::Limit { .. }) = answer {
            return Some(found(Law::Ends, None, None));
        }
        let first = &case.sides.first()?.value;
        if answer.is_ok() && case.sides.iter().all(|side| side.value == *first) {
            let agreed = Ok(Resolved { value: bytes_of(first) });
            let unchanged = case.base.is_some() && case.base == *first;
            let law = if unchanged { Law::Unchanged } else { Law::Agreement };
            if *answer != agreed {
                return Some(found(law, None, Some(agreed)));
            }
        }
        // Any order of names is some of these, one after the other.
        (1..sides.len()).find_map(|at| {
            let mut renamed = sides.clone();
            (renamed[at - 1].dot, renamed[at].dot) = (renamed[at].dot, renamed[at - 1].dot);
            let other = self.ask(base.as_deref(), &renamed);
            let same = match (answer, &other) {
                (Ok(answer), Ok(other)) => answer == other,
                // The words of a failure may name a side.
                (Err(_), Err(_)) => true,
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
            };
            renamed.sort_by_key(|side| side.dot);
            (!same).then(|| found(Law::Naming, Some(renamed), Some(other)))
        })
    }

    /// Takes away from a conflict while the same law stays broken.
    fn smallest(&self, mut case: Case, mut found: CounterExample) -> CounterExample {
        let mut steps = 0;
        'smaller: loop {
            for smaller in case.smaller() {
                steps += 1;
                if steps > SHRINKS_MAX {
                    return found;
                }
                let answer = self.ask(smaller.base_bytes().as_deref(), &smaller.sides());
                let broken = self.broken(&smaller, &answer);
                if let Some(broken) = broken.filter(|broken| broken.law == found.law) {
                    (case, found) = (smaller, broken);
                    continue 'smaller;
                }
            }
            return found;
        }
    }
}

/// A conflict whose writers are named by their places.
#[derive(Clone, Debug)]
struct Case {
    base: Option<Value>,
    sides: Vec<Written>,
}

#[derive(Clone, Debug)]
struct Written {
    stamp_ms: u64,
    value: Option<Value>,
}

impl Case {
    /// Of an example, where `serde_json` gives its values back.
    fn of(example: &Example) -> Option<Self> {
        let read = |bytes: &Option<Vec<u8>>| match bytes {
            Some(bytes) => serde_json::from_slice(bytes).ok().map(Some),
            None => Some(None),
        };
        let side = |side: &Side<Option<Vec<u8>>>| {
            Some(Written { stamp_ms: side.stamp.wall_ms, value: read(&side.value)? })
        };
        let sides: Option<Vec<Written>> = example.sides.iter().map(side).collect();
        Some(Case { base: read(&example.base)?, sides: sides? })
    }

    /// A conflict from a document: each side an edit of it, the document itself, or what an earlier
    /// side wrote.
    fn made(known: &[Case], random: &mut Random) -> Self {
        let documents: Vec<&Value> = known
            .iter()
            .flat_map(|case| case.base.iter().chain(case.sides.iter().flat_map(|s| &s.value)))
            .collect();
        let document = match documents.len() as u64 {
            0 => made(random, 2),
            _ if random.one_in(4) => made(random, 2),
            many => documents[random.below(many) as usize].clone(),
        };
        let mut sides: Vec<Written> = Vec::new();
        for _ in 0..1 + random.below(SIDES_MADE_MAX) {
            let value = match random.below(8) {
                0 => None,
                1 => Some(document.clone()),
                2 if !sides.is_empty() => {
                    sides[random.below(sides.len() as u64) as usize].value.clone()
                }
                3 => Some(made(random, 2)),
                _ => Some(edited(&document, random)),
            };
            // In any order of stamps, none twice.
            let at = random.below(sides.len() as u64 + 1);
            sides.iter_mut().filter(|side| side.stamp_ms >= at).for_each(|side| side.stamp_ms += 1);
            sides.push(Written { stamp_ms: at, value });
        }
        if random.one_in(6) {
            let first = sides[0].value.clone();
            sides.iter_mut().for_each(|side| side.value = first.clone());
        }
        let base = (!random.one_in(3)).then_some(document);
        Case { base, sides }
    }

    fn base_bytes(&self) -> Option<Vec<u8>> {
        bytes_of(&self.base)
    }

    fn sides(&self) -> Vec<Side<Option<Vec<u8>>>> {
        let each = self.sides.iter().zip(1..);
        each.map(|(side, node)| Side {
            dot: Dot { actor: Actor { node: NodeId(node), incarnation: 1 }, counter: 1 },
            stamp: Stamp { wall_ms: side.stamp_ms, logical: 0 },
            value: bytes_of(&side.value),
        })
        .collect()
    }

    /// Conflicts with less in them, those with much less first.
    fn smaller(&self) -> Vec<Case> {
        let mut all = Vec::new();
        if self.sides.len() > 1 {
            all.extend((0..self.sides.len()).map(|at| {
                let mut case = self.clone();
                case.sides.remove(at);
                case
            }));
        }
        if self.base.is_some() {
            all.push(Case { base: None, ..self.clone() });
        }
        let mut stamps: Vec<u64> = self.sides.iter().map(|side| side.stamp_ms).collect();
        stamps.sort_unstable();
        if stamps.last().is_some_and(|last| *last >= stamps.len() as u64) {
            let mut case = self.clone();
            for side in &mut case.sides {
                let earlier = stamps.iter().filter(|stamp| **stamp < side.stamp_ms);
                side.stamp_ms = earlier.count() as u64;
            }
            all.push(case);
        }
        // Where values must stay equal, they shrink together.
        let values: Vec<&Value> =
            self.base.iter().chain(self.sides.iter().flat_map(|side| &side.value)).collect();
        if let Some((first, rest)) = values.split_first()
            && rest.iter().all(|value| value == first)
        {
            all.extend(less(first).into_iter().map(|less| {
                let mut case = self.clone();
                let sides = case.sides.iter_mut().map(|side| &mut side.value);
                for value in sides.chain([&mut case.base]).flatten() {
                    *value = less.clone();
                }
                case
            }));
        }
        all.extend(self.base.iter().flat_map(less).map(|less| {
            let mut case = self.clone();
            case.base = Some(less);
            case
        }));
        for (at, side) in self.sides.iter().enumerate() {
            all.extend(side.value.iter().flat_map(less).map(|less| {
                let mut case = self.clone();
                case.sides[at].value = Some(less);
                case
            }));
            if let Some(earlier) = self.sides[..at].iter().position(|s| s.stamp_ms > side.stamp_ms)
            {
                let mut case = self.clone();
                (case.sides[earlier].stamp_ms, case.sides[at].stamp_ms) =
                    (side.stamp_ms, self.sides[earlier].stamp_ms);
                all.push(case);
            }
        }
        all
    }
}

/// True where both are the same JSON: people who write down what they expect put spaces where they like.
fn is_same_json(answer: &Resolved, expected: &Resolved) -> bool {
    let read = |resolved: &Resolved| -> Option<Option<Value>> {
        let Some(bytes) = &resolved.value else { return Some(None) };
        serde_json::from_slice(bytes).ok().map(Some)
    };
    let (answer, expected) = (read(answer), read(expected));
    answer.is_some() && answer == expected
}

fn bytes_of(value: &Option<Value>) -> Option<Vec<u8>> {
    value.as_ref().map(|value| serde_json::to_vec(value).expect("a tree serializes"))
}

/// Values with less in them, the least first. Every one weighs less, so that shrinking ends.
fn less(value: &Value) -> Vec<Value> {
    let mut all: Vec<Value> = [0.into(), 1.into(), "".into(), Value::Array(vec![])].into();
    all.push(Value::Object(serde_json::Map::new()));
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => all.extend(number.as_i64().map(|n| (n / 2).into())),
        Value::String(text) => {
            let half = text.chars().count() / 2;
            all.push(text.chars().take(half).collect::<String>().into());
            all.push(text.chars().skip(1).collect::<String>().into());
        }
        Value::Array(items) => {
            all.extend(items.iter().filter(|item| !item.is_null()).cloned());
            for (at, item) in items.iter().enumerate() {
                let with = |item: Option<Value>| {
                    let mut items = items.clone();
                    items.splice(at..=at, item);
                    Value::Array(items)
                };
                all.push(with(None));
                all.extend(less(item).into_iter().map(Some).map(with));
            }
        }
        Value::Object(members) => {
            all.extend(members.values().filter(|member| !member.is_null()).cloned());
            for (name, member) in members {
                let with = |member: Option<Value>| {
                    let mut members = members.clone();
                    match member {
                        Some(member) => members.insert(name.clone(), member),
                        None => members.remove(name),
                    };
                    Value::Object(members)
                };
                all.push(with(None));
                all.extend(less(member).into_iter().map(Some).map(with));
            }
        }
    }
    let most = weight(value);
    all.retain(|smaller| weight(smaller) < most);
    all
}

fn weight(value: &Value) -> usize {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(0) => 1,
            Some(n) => 2 + n.unsigned_abs().ilog2() as usize + usize::from(n < 0),
            None => 70,
        },
        Value::Null | Value::Bool(_) => 3,
        Value::String(text) => 3 + text.chars().count(),
        Value::Array(items) => 4 + items.iter().map(weight).sum::<usize>(),
        Value::Object(members) => {
            let each = members.iter().map(|(name, member)| 1 + name.len() + weight(member));
            4 + each.sum::<usize>()
        }
    }
}

/// A value of no more than so many levels. A whole value is never null, which rules are not given.
fn made(random: &mut Random, levels: u32) -> Value {
    let kinds = if levels == 0 { 4 } else { 8 };
    match random.below(kinds) {
        0 => random.one_in(2).into(),
        1 | 2 => (random.below(12) as i64 - 2).into(),
        3 => text(random),
        4 | 5 => (0..random.below(4)).map(|_| made(random, levels - 1)).collect(),
        _ => {
            let name = |random: &mut Random| NAMES[random.below(NAMES.len() as u64) as usize];
            let each = (0..random.below(4)).map(|_| {
                let name = name(random).to_owned();
                (name, if random.one_in(12) { Value::Null } else { made(random, levels - 1) })
            });
            Value::Object(each.collect())
        }
    }
}

const NAMES: [&str; 6] = ["id", "name", "count", "tags", "items", "note"];

fn text(random: &mut Random) -> Value {
    let letters = ["a", "b", " ", "\n", "é", "1"];
    (0..random.below(4)).map(|_| letters[random.below(6) as usize]).collect::<String>().into()
}

/// The value with some part of it changed, of the same kind where it can be.
fn edited(value: &Value, random: &mut Random) -> Value {
    match value {
        Value::Array(items) if !random.one_in(8) => {
            let mut items = items.clone();
            match (random.below(3), items.len() as u64) {
                (0, _) | (_, 0) => items.push(made(random, 1)),
                (1, many) => {
                    items.remove(random.below(many) as usize);
                }
                (_, many) => {
                    let at = random.below(many) as usize;
                    items[at] = edited(&items[at], random);
                }
            }
            Value::Array(items)
        }
        Value::Object(members) if !random.one_in(8) => {
            let mut members = members.clone();
            let many = members.len() as u64;
            let name = match (random.below(3), many) {
                (0, _) | (_, 0) => NAMES[random.below(NAMES.len() as u64) as usize].to_owned(),
                _ => members.keys().nth(random.below(many) as usize).expect("below many").clone(),
            };
            match members.remove(&name) {
                Some(_) if random.one_in(3) => {}
                Some(member) => {
                    members.insert(name, edited(&member, random));
                }
                None => {
                    members.insert(name, made(random, 1));
                }
            }
            Value::Object(members)
        }
        Value::Number(number) => match number.as_i64() {
            Some(n) => n.saturating_add(random.below(5) as i64 - 2).into(),
            None => made(random, 1),
        },
        Value::String(_) if !random.one_in(4) => text(random),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            made(random, 1)
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is small, so that no value is noticeably more likely.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}
