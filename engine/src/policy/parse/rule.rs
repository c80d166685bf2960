//! Users' own rules for conflicts: scripts, and examples of what is expected of them.
//!
//! Invariant: a rule that is accepted keeps every law of [`crate::rule::Law`] in its own examples and in a
//! fixed number of made-up conflicts, so whether a configuration is accepted does not hang on luck.

use super::super::UserRule;
use super::Reader;
use super::dataset::{NAMES, is_name};
use super::raw::{RawExample, RawRule};
use crate::merge::Side;
use crate::rule::{Example, Resolved};
use crate::version::{Actor, Dot, NodeId, Stamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;

/// Rules of one configuration.
pub const RULES_MAX: usize = 64;
/// Examples of one rule.
pub const EXAMPLES_MAX: usize = 64;
/// Made-up conflicts that a rule is tried with.
pub const ROUNDS: u32 = 256;
/// What they are made from. Any number would do.
const SEED: u64 = 0x7469_6465_6c6f_636b;
/// Instead of a value: it is deleted.
const DELETE: &str = "delete";

/// A rule of a configuration.
#[derive(Clone, Debug)]
pub struct ConfiguredRule {
    /// The rule.
    pub rule: Arc<UserRule>,
    /// What is expected of it.
    pub examples: Vec<Example>,
    /// Datasets that go by it.
    pub used_by: Vec<Arc<str>>,
}

impl Reader<'_> {
    pub(super) fn rules(&mut self, raw: &[Spanned<RawRule>]) -> BTreeMap<String, ConfiguredRule> {
        let mut rules = BTreeMap::new();
        if let Some(beyond) = raw.get(RULES_MAX) {
            let problem = format!("{} rules are declared", raw.len());
            self.refuse(beyond.span(), "rule", problem, &format!("at most {RULES_MAX}"));
        }
        for raw in raw.iter().map(Spanned::get_ref).take(RULES_MAX) {
            let name = raw.name.get_ref();
            if !is_name(name) {
                let problem = format!("{name:?} is no name for a rule");
                self.refuse(raw.name.span(), "rule.name", problem, NAMES);
            } else if rules.contains_key(name) {
                let problem = format!("{name:?} is the name of an earlier rule");
                self.refuse(raw.name.span(), "rule.name", problem, "a name of its own");
            }
            if let Some(beyond) = raw.example.get(EXAMPLES_MAX) {
                let problem = format!("rule {name:?} has {} examples", raw.example.len());
                let accepted = format!("at most {EXAMPLES_MAX}");
                self.refuse(beyond.span(), "rule.example", problem, &accepted);
            }
            let examples: Vec<Example> = raw.example.iter().map(example).collect();
            let rule = match UserRule::load(name, raw.source.get_ref()) {
                Ok(rule) => rule,
                Err(error) => {
                    let accepted = "a script with fn resolve(sides, base)";
                    self.refuse(raw.source.span(), "rule.source", error.to_string(), accepted);
                    self.refused_rules.insert(name.clone());
                    continue;
                }
            };
            if let Err(found) = rule.rule().check(&examples, ROUNDS, SEED) {
                let accepted =
                    "a rule that keeps this law; see \"Rules of your own\" in the README";
                self.refuse(raw.source.span(), "rule.source", found.to_string(), accepted);
                self.refused_rules.insert(name.clone());
                continue;
            }
            let (rule, used_by) = (Arc::new(rule), Vec::new());
            rules.insert(name.clone(), ConfiguredRule { rule, examples, used_by });
        }
        rules
    }
}

/// The first of its sides was written first, each by another writer.
fn example(raw: &Spanned<RawExample>) -> Example {
    let RawExample { base, sides, expect } = raw.get_ref();
    let value = |text: &String| (text != DELETE).then(|| text.clone().into_bytes());
    let sides = sides.iter().zip(1_u16..).map(|(text, n)| Side {
        dot: Dot { actor: Actor { node: NodeId(n), incarnation: 1 }, counter: 1 },
        stamp: Stamp { wall_ms: n.into(), logical: 0 },
        value: value(text),
    });
    let expected = expect.as_ref().map(|text| Resolved { value: value(text) });
    Example { base: base.as_ref().and_then(value), sides: sides.collect(), expected }
}
