//! Sets by example, and the laws of every ruling over random histories.

use super::*;
use crate::merge::{FieldRules, Strategy as Field};
use crate::version::Actor;
use proptest::prelude::*;
use std::cmp::Ordering;
use std::sync::Arc;

fn rules(conflicts: &Conflicts) -> Rules<'_> {
    Rules { ruling: &conflicts.default, conflicts, kind: Kind::Json, schema: None, key: "k" }
}

fn conflicts(default: Ruling) -> Conflicts {
    let fields = [("/n", Field::DeltaSum), ("/tags", Field::SetUnion), ("/top", Field::Max)];
    Conflicts { default, fields: FieldRules::new(fields).unwrap(), ..Conflicts::default() }
}

fn dot(node: u16, counter: u64) -> Dot {
    Dot { actor: Actor { node: NodeId(node), incarnation: 7 }, counter }
}

fn write(dot: Dot, wall_ms: u64, value: &Stored) -> Sibling {
    resolve::sibling(dot, Stamp { wall_ms, logical: 0 }, value)
}

fn inline(text: &str) -> Stored {
    Stored::Inline(Bytes::from(text.to_owned()))
}

/// Everything that was ever written, and what stood at every version.
#[derive(Default)]
struct World {
    values: BTreeMap<Dot, (Sibling, Stored)>,
    writes: Vec<Written>,
}

impl World {
    fn settle(&self, conflicts: &Conflicts, set: &Version) -> Settled {
        let mut values = Values::default();
        for sibling in set.siblings() {
            let (written, value) = &self.values[&sibling.dot];
            values.note(set, written, value);
        }
        settle(rules(conflicts), set, &values, &self.writes).expect("all is here")
    }

    /// What was written, and what its writer had read.
    fn stood(&mut self, version: &Version, dot: Dot, value: &Stored) {
        let (sibling, over) = version.sides().find(|(side, _)| side.dot == dot).expect("of it");
        let (sibling, over) = (*sibling, over.clone());
        self.writes.push(Written { sibling, over, value: value.clone() });
    }

    fn write(&mut self, sibling: Sibling, value: Stored) {
        self.values.insert(sibling.dot, (sibling, value));
    }
}

#[test]
fn what_the_authority_does_not_take_is_kept_and_no_part_of_the_set() {
    let (kept, refused) = (inline("1"), inline("2"));
    let mine = write(dot(1, 1), 10, &kept);
    let theirs = write(dot(2, 1), 20, &refused);
    let set = Version::write(&VersionVector::new(), mine)
        .join(&Version::write(&VersionVector::new(), theirs));
    let mut values = Values::default();
    values.note(&set, &mine, &kept);
    values.note(&set, &theirs, &refused);
    let conflicts = conflicts(Ruling::KeepSiblings);
    let rules = rules(&conflicts);
    assert_eq!(settle(rules, &set, &values, &[]).unwrap().held.version.current(), &theirs);
    let settled = settle_without(rules, &set, &[theirs.dot], &values, &[]).unwrap();
    assert_eq!((settled.held.version.siblings(), &settled.held.value), (&[mine][..], &kept));
    let loser = Loser { sibling: theirs, value: refused, winner: mine.dot };
    assert_eq!((settled.losers, settled.by), (vec![loser], By::KeepSiblings));
    assert!(settled.why.unwrap().contains(&theirs.dot.to_string()));
}

fn two(conflicts: &Conflicts, first: (Dot, u64, &Stored), second: (Dot, u64, &Stored)) -> Settled {
    let mut world = World::default();
    let version = |(dot, wall_ms, value): (Dot, u64, &Stored)| {
        let sibling = write(dot, wall_ms, value);
        (sibling, Version::write(&VersionVector::new(), sibling))
    };
    let (a, b) = (version(first), version(second));
    world.write(a.0, first.2.clone());
    world.write(b.0, second.2.clone());
    let set = a.1.join(&b.1);
    assert_eq!(set, b.1.join(&a.1));
    world.settle(conflicts, &set)
}

#[test]
fn each_ruling_shows_what_it_says_and_keeps_the_rest() {
    let foreign = Dot { actor: Actor { node: NodeId::FOREIGN, incarnation: 3 }, counter: 1 };
    let (early, late, gone) = (inline("{\"n\":1}"), inline("{\"n\":2}"), Stored::Tombstone);
    let shown = |ruling: Ruling, first, second| {
        let settled = two(&conflicts(ruling.clone()), first, second);
        assert!(settled.held.version.is_apart() || ruling == Ruling::Lww, "{ruling:?}");
        assert!(!settled.losers.is_empty(), "{ruling:?}");
        let current = settled.held.version.current();
        assert!(settled.losers.iter().all(|loser| loser.winner == current.dot));
        (settled.held.value, settled.by.to_string())
    };
    let (a, b) = ((dot(1, 1), 10, &early), (dot(2, 1), 20, &late));
    assert_eq!(shown(Ruling::Lww, a, b), (late.clone(), "lww".to_owned()));
    assert_eq!(shown(Ruling::KeepSiblings, a, b), (late.clone(), "keep_siblings".to_owned()));
    assert_eq!(shown(Ruling::DeleteWins, a, b), (late.clone(), "delete_wins".to_owned()));
    assert_eq!(shown(Ruling::EditWins, a, b), (late.clone(), "edit_wins".to_owned()));
    let deletes = (dot(2, 1), 20, &gone);
    assert_eq!(shown(Ruling::KeepSiblings, a, deletes).0, early);
    assert_eq!(shown(Ruling::EditWins, a, deletes).0, early);
    assert_eq!(shown(Ruling::Merge, a, deletes), (early.clone(), "edit_wins".to_owned()));
    let (deletes, edits) = ((dot(2, 1), 5, &gone), (dot(1, 1), 10, &early));
    assert_eq!(shown(Ruling::DeleteWins, edits, deletes).0, gone);
    let past_us = (foreign, 5, &late);
    assert_eq!(shown(Ruling::PreferStore(StoreId::D1), a, past_us).0, late);
    assert_eq!(shown(Ruling::PreferStore(StoreId::Kv), (dot(1, 1), 1, &early), past_us).0, early);
    // Two that were written where nothing was: each counted from nothing.
    let merged = two(&conflicts(Ruling::Merge), a, b);
    assert_eq!((merged.held.value, merged.by), (inline("{\"n\":3}"), By::MergeThreeWay));
    assert_eq!(merged.losers.len(), 2, "neither is shown as it was written");
}

/// The highest `n`; of a `top` over 40 it will not judge, and what is empty on all sides is deleted.
const HIGHEST: &str = r#"
    fn resolve(sides, base) {
        let best = ();
        for side in sides {
            if side.deleted { continue; }
            if side.value.top != () && side.value.top > 40 { throw "too high to judge"; }
            if best == () || side.value.n > best.n { best = side.value; }
        }
        if best != () && base != () { best.was = base.n; }
        best
    }
"#;

fn highest(fallback: Ruling) -> Conflicts {
    let rule = Arc::new(UserRule::load("highest", HIGHEST).unwrap());
    conflicts(Ruling::Rule { rule, fallback: Box::new(fallback) })
}

#[test]
fn a_rule_is_asked_with_all_values_and_what_they_have_in_common() {
    let rule = highest(Ruling::EditWins);
    let (high, low, gone) = (inline("{\"n\":7}"), inline("{\"n\":2}"), Stored::Tombstone);
    let name = || Arc::from("highest");
    let shown = |first, second| {
        let settled = two(&rule, first, second);
        assert!(settled.held.version.is_apart());
        assert_eq!(decided(&rule.default, &settled.held.version), settled.by);
        (settled.held.value, settled.by)
    };
    // The earlier of two, whichever dot it has; a delete where nothing else is.
    for (a, b) in [(dot(1, 1), dot(2, 1)), (dot(2, 1), dot(1, 1))] {
        assert_eq!(shown((a, 10, &high), (b, 20, &low)), (high.clone(), By::Rule(name())));
        assert_eq!(shown((a, 10, &gone), (b, 20, &low)).0, low);
        assert_eq!(shown((a, 10, &gone), (b, 20, &gone)), (gone.clone(), By::Rule(name())));
    }
    // It throws, or is given what is no JSON: the fallback decides, and nothing is lost.
    let beyond = inline("{\"n\":1,\"top\":41}");
    for other in [&beyond, &inline("{broken")] {
        let fell = two(&rule, (dot(1, 1), 20, &gone), (dot(2, 1), 10, other));
        assert_eq!((&fell.held.value, &fell.by), (other, &By::RuleFellBack(name())));
        assert!(fell.why.is_some(), "{other:?}: why is noted with it");
        assert!(fell.held.version.is_apart());
        assert_eq!(decided(&rule.default, &fell.held.version), fell.by);
    }
}

#[test]
fn what_a_rule_makes_never_stands_under_the_name_of_a_delete() {
    let made = "fn resolve(sides, base) { #{ n: 99 } }";
    let rule = Arc::new(UserRule::load("made", made).unwrap());
    let rule = conflicts(Ruling::Rule { rule, fallback: Box::new(Ruling::Lww) });
    let (value, gone) = (inline("{\"n\":1}"), Stored::Tombstone);
    let settled = two(&rule, (dot(1, 1), 10, &value), (dot(2, 1), 20, &gone));
    let shown = settled.held.version.current();
    assert_eq!((settled.held.value, shown.dot), (inline("{\"n\":99}"), dot(1, 1)));
    let deletes = two(&rule, (dot(1, 1), 10, &gone), (dot(2, 1), 20, &gone));
    assert_eq!((deletes.held.value, deletes.by), (gone, By::RuleFellBack(Arc::from("made"))));
}

#[test]
fn a_rule_starts_from_what_it_made_before() {
    let rule = highest(Ruling::Lww);
    let mut world = World::default();
    let none = VersionVector::new();
    let write_over = |world: &mut World, known: &Version, dot: Dot, n: u64| {
        let value = inline(&format!("{{\"n\":{n}}}"));
        let sibling = write(dot, n, &value);
        world.write(sibling, value.clone());
        let version = Version::write(&known.history, sibling);
        world.stood(&version, dot, &value);
        version
    };
    let first = |dot, n| Version::write(&none, write(dot, n, &inline(&format!("{{\"n\":{n}}}"))));
    let (a, b) = (first(dot(1, 1), 5), first(dot(2, 1), 3));
    for (version, n) in [(&a, 5), (&b, 3)] {
        let (dot, value) = (version.current().dot, inline(&format!("{{\"n\":{n}}}")));
        world.write(*version.current(), value.clone());
        world.stood(version, dot, &value);
    }
    let joined = world.settle(&rule, &a.join(&b)).held.version;
    let c = write_over(&mut world, &joined, dot(1, 2), 8);
    let d = write_over(&mut world, &joined, dot(2, 2), 9);
    let both = world.settle(&rule, &c.join(&d));
    assert_eq!(both.held.value, inline("{\"n\":9,\"was\":5}"));
    assert_eq!(both.held.version.basis(), Basis::ThreeWay);
    world.writes.retain(|written| written.sibling.dot != dot(2, 1));
    let lacking = world.settle(&rule, &c.join(&d));
    assert_eq!(lacking.held.value, inline("{\"n\":9}"));
    assert_eq!(lacking.held.version.basis(), Basis::TwoWay);
    assert!(both.held.version.includes(&lacking.held.version));
}

#[test]
fn what_cannot_be_merged_falls_back_and_says_so() {
    let (json, none) = (inline("{\"n\":1}"), inline("{broken"));
    let merged = two(&conflicts(Ruling::Merge), (dot(1, 1), 10, &json), (dot(2, 1), 20, &none));
    assert_eq!((merged.held.value, merged.by), (none, By::MergeFellBack));
    assert!(merged.why.is_some_and(|why| why.contains("JSON")));
    assert_eq!(merged.losers.len(), 1);
}

#[test]
fn without_the_base_a_merge_says_so_and_gives_way_to_one_that_had_it() {
    let conflicts = conflicts(Ruling::Merge);
    let mut world = World::default();
    let start = inline("{\"n\":10}");
    let first = write(dot(1, 1), 5, &start);
    world.write(first, start.clone());
    let v0 = Version::write(&VersionVector::new(), first);
    let mut add = |node: u16, n: u64, wall_ms: u64| {
        let value = inline(&format!("{{\"n\":{n}}}"));
        let sibling = write(dot(node, 9), wall_ms, &value);
        world.write(sibling, value);
        Version::write(&v0.history, sibling)
    };
    let set = add(1, 13, 10).join(&add(2, 15, 20));
    let lacking = world.settle(&conflicts, &set);
    assert_eq!(lacking.by, By::MergeTwoWay);
    assert_eq!(lacking.held.version.basis(), Basis::TwoWay);
    world.stood(&v0, first.dot, &start);
    let exact = world.settle(&conflicts, &set);
    assert_eq!((exact.held.value, exact.by), (inline("{\"n\":18}"), By::MergeThreeWay));
    assert!(exact.held.version.includes(&lacking.held.version));
    assert!(!lacking.held.version.includes(&exact.held.version));
}

#[test]
fn what_stood_is_told_from_nothing_and_from_what_nobody_knows() {
    let conflicts = conflicts(Ruling::Merge);
    let text = Rules { kind: Kind::Text, ..rules(&conflicts) };
    let written = |counter: u64, over: &VersionVector, value: Stored| {
        let sibling = write(dot(1, counter), counter, &value);
        (Version::write(over, sibling).history, Written { sibling, over: over.clone(), value })
    };
    let none = VersionVector::new();
    let (first, empty) = written(1, &none, inline(""));
    let (second, deleted) = written(2, &first, Stored::Tombstone);
    let writes = [empty, deleted];
    assert_eq!(stood(text, &writes, &none), Some(Stored::Tombstone));
    assert_eq!(stood(text, &writes, &first), Some(inline("")), "a text without a letter is one");
    assert_eq!(stood(text, &writes, &second), Some(Stored::Tombstone));
    assert_eq!(stood(text, &writes[1..], &first), None);
}

#[test]
fn missing_bytes_give_way_to_whoever_has_them() {
    let conflicts = conflicts(Ruling::DeleteWins);
    let (a, b) = (inline("1"), inline("2"));
    let (one, two) = (write(dot(1, 1), 5, &a), write(dot(2, 1), 10, &b));
    let none = VersionVector::new();
    let set = Version::write(&none, one).join(&Version::write(&none, two));
    let mut values = Values::default();
    assert_eq!(settle(rules(&conflicts), &set, &values, &[]), None);
    values.note(&set, &one, &a);
    let some = settle(rules(&conflicts), &set, &values, &[]).expect("one is here");
    values.note(&set, &two, &b);
    let all = settle(rules(&conflicts), &set, &values, &[]).expect("both are here");
    assert_eq!((some.held.value, all.held.value), (a, b));
    assert!(all.held.version.includes(&some.held.version));
    assert!(!some.held.version.includes(&all.held.version));
}

/// One step of a random history: who, what, with whom, and how much.
type Step = (usize, u8, usize, i64);

/// What every replica holds at the end, and the sum of all that was added.
fn run(conflicts: &Conflicts, steps: &[Step], replicas: usize) -> (World, Vec<Held>, i64) {
    let mut world = World::default();
    let mut held: Vec<Option<Held>> = vec![None; replicas];
    let mut read: Vec<Held> = Vec::new();
    let mut sum = 0;
    let number = |value: &Stored| match value {
        Stored::Inline(bytes) => {
            let json: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            json["n"].as_i64().unwrap_or(0)
        }
        Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_) => 0,
    };
    for (at, (who, act, other, add)) in steps.iter().enumerate() {
        let (who, other) = (who % replicas, other % replicas);
        let counter = at as u64 + 1;
        let dot = dot(u16::try_from(who).unwrap(), counter);
        // Clocks hours apart: nothing but ties may depend on them.
        let wall_ms = 1_000 + counter + 10_000 * (who as u64 * 7 % 3);
        let mut over = |base: Option<&Held>, known: Option<&Held>| {
            let n = base.map_or(0, |base| number(&base.value)) + add;
            let value = match conflicts.default {
                Ruling::DeleteWins | Ruling::EditWins | Ruling::KeepSiblings if add % 3 == 0 => {
                    Stored::Tombstone
                }
                _ => inline(&format!("{{\"n\":{n},\"tags\":[{add}],\"top\":{add}}}")),
            };
            let stamp = known.map_or(0, |known| known.version.stamp().wall_ms + 1);
            let sibling = write(dot, wall_ms.max(stamp), &value);
            world.write(sibling, value.clone());
            sum += add;
            let version = match (base, known) {
                (Some(base), Some(known)) => {
                    Version::write_beside(&known.version, &base.version.history, sibling)
                }
                (_, _) => Version::write(&VersionVector::new(), sibling),
            };
            world.stood(&version, dot, &value);
            version
        };
        let here = held[who].clone();
        let set = match (act % 4, &here) {
            (0, _) => Some(over(here.as_ref(), here.as_ref())),
            (1, Some(known)) => {
                // Over what somebody read here before.
                let seen = |old: &&Held| known.version.history.covers(&old.version.history);
                let old: Vec<Held> = read.iter().filter(seen).cloned().collect();
                Some(over(Some(&old[other % old.len()]), Some(known)))
            }
            _ => match (&here, &held[other]) {
                (Some(here), Some(there)) => match here.version.compare(&there.version) {
                    Some(Ordering::Less) => Some(there.version.clone()),
                    Some(Ordering::Greater | Ordering::Equal) => None,
                    None => Some(here.version.join(&there.version)),
                },
                (None, Some(there)) => Some(there.version.clone()),
                (_, None) => None,
            },
        };
        if let Some(set) = set {
            let settled = world.settle(conflicts, &set).held;
            read.push(settled.clone());
            held[who] = Some(settled);
        }
    }
    (world, held.into_iter().flatten().collect(), sum)
}

fn fold(world: &mut World, conflicts: &Conflicts, order: &[Held]) -> Option<Held> {
    order.iter().cloned().reduce(|a, b| {
        let set = a.version.join(&b.version);
        world.settle(conflicts, &set).held
    })
}

/// Replicas that meet in any order hold the same bytes, and go on holding them.
fn agree(conflicts: &Conflicts, steps: &[Step], rotate: usize) -> Result<(), TestCaseError> {
    let (mut world, mut held, _) = run(conflicts, steps, 5);
    let first = fold(&mut world, conflicts, &held);
    let by = rotate % held.len().max(1);
    held.rotate_left(by);
    prop_assert_eq!(&fold(&mut world, conflicts, &held), &first, "{:?}", conflicts);
    held.reverse();
    prop_assert_eq!(&fold(&mut world, conflicts, &held), &first, "{:?}", conflicts);
    if let (Some(first), Some(one)) = (&first, held.first()) {
        let again = first.version.join(&one.version);
        let again = world.settle(conflicts, &again).held;
        prop_assert_eq!(&again.version.id(), &first.version.id());
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0usize..5, 0u8..4, 0usize..5, 1i64..50), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// Five rulings, 10,000 histories, five replicas.
    #[test]
    fn replicas_agree_whatever_the_order(steps in steps(), rotate in 0usize..5) {
        let store = StoreId::D1;
        for ruling in [
            Ruling::KeepSiblings,
            Ruling::PreferStore(store),
            Ruling::DeleteWins,
            Ruling::EditWins,
            Ruling::Merge,
        ] {
            agree(&conflicts(ruling), &steps, rotate)?;
        }
    }

    /// However histories criss-cross, every increment counts once.
    #[test]
    fn counters_are_exact(steps in steps()) {
        let conflicts = conflicts(Ruling::Merge);
        let (mut world, held, sum) = run(&conflicts, &steps, 4);
        if let Some(all) = fold(&mut world, &conflicts, &held) {
            let Stored::Inline(bytes) = &all.value else { panic!("{all:?}") };
            let json: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            prop_assert_eq!(json["n"].as_i64(), Some(sum), "{:?}", all);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn replicas_with_a_rule_agree_whatever_the_order(steps in steps(), rotate in 0usize..5) {
        for fallback in [Ruling::Lww, Ruling::KeepSiblings, Ruling::DeleteWins] {
            agree(&highest(fallback), &steps, rotate)?;
        }
    }
}
