//! Users' own rules for conflicts, as scripts that can reach nothing but their arguments.
//!
//! ```text
//! source ─load─▶ Rule { resolve(sides, base) }        refused: syntax, forbidden words, other shape
//!                  │
//! base, sides ─────┼─▶ values of the script ─▶ run, counted ─▶ canonical JSON, or a delete
//!                  │                            │
//! examples ─check─▶ laws, smallest breach       └─ a limit, a throw, a value JSON does not have: Failed
//! ```
//!
//! Invariant: what a rule answers is a function of the *set* of sides and the base, with the same
//! bytes on every machine, and it always ends. So a script has no clock, randomness, output, modules
//! or state of its own; nothing it computes hangs on a hash or on a libm; and a value that it could not
//! give back as the same number or text is refused on its way in instead of being changed.
//!
//! | file | idea |
//! | --- | --- |
//! | `sandbox` | the language: what is in it, and its limits |
//! | `value` | JSON as values of the script, and back |
//! | `check` | laws that a rule must keep, and the smallest example that breaks one |
//!
//! ```text
//! fn resolve(sides, base) {                    // sides: in the order of dots, at least one
//!     let low = ();                            // #{ value, deleted, stamp_ms, node, dot }
//!     for side in latest_first(sides) {        // of equals the later one
//!         if !side.deleted && (low == () || side.value.price < low.price) { low = side.value; }
//!     }
//!     low                                      // () is a delete; inside of a value it is null
//! }
//! ```
//!
//! What is done when a rule fails (a fallback, and a word to the operator) is left to `resolve`.

mod check;
mod sandbox;
#[cfg(test)]
mod tests;
mod value;

pub use check::{CounterExample, Example, Law};
pub use sandbox::{
    CALLS_MAX, EXPRESSION_LEVELS_MAX, ITEMS_MAX, Limit, MEMBERS_MAX, OPERATIONS_MAX, STRINGS_MAX,
    VARIABLES_MAX, WORK_MAX,
};

use crate::json::{DEPTH_MAX, Node, Refused};
use crate::merge::{SIDES_MAX, Side, Whose};
use rhai::{AST, CallFnOptions, Dynamic, Engine, Map, Scope};
use std::fmt;

/// Bytes of a script.
pub const SOURCE_BYTES_MAX: usize = 64 << 10;

/// Bytes of the base and all sides together.
pub const BYTES_MAX: usize = 1 << 20;

/// Bytes of a thrown or reported text that are kept.
const WORDS_BYTES_MAX: usize = 512;

/// A rule that was accepted.
pub struct Rule {
    engine: Engine,
    script: AST,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").finish_non_exhaustive()
    }
}

/// What a rule makes of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The value as JSON, members in the order of their names; `None`: the record is deleted.
    pub value: Option<Vec<u8>>,
}

/// Where in a script: counted from 1. Limits are often met at no place in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

impl Place {
    fn of(position: rhai::Position) -> Option<Self> {
        let line = position.line()?;
        Some(Place { line, column: position.position().unwrap_or(1) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a script becomes no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// It has more than [`SOURCE_BYTES_MAX`].
    Large(usize),
    /// It is no script.
    Syntax {
        /// What is wrong.
        why: String,
        /// Where.
        place: Option<Place>,
    },
    /// It uses a word that rules do not have.
    Forbidden {
        /// The word.
        word: String,
        /// What to do instead.
        instead: &'static str,
        /// Where.
        place: Option<Place>,
    },
    /// Something stands outside of its functions.
    OutsideFunctions(Option<Place>),
    /// It has no function `resolve`.
    NoResolve,
    /// Its `resolve` takes so many parameters.
    Parameters(usize),
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHAPE: &str = "write fn resolve(sides, base) { .. }";
        match self {
            RuleError::Large(bytes) => {
                write!(f, "the rule has {bytes} bytes; at most {SOURCE_BYTES_MAX} are read")
            }
            RuleError::Syntax { why, place } => {
                write!(f, "the rule is no script: {why}{}", at(place))
            }
            RuleError::Forbidden { word, instead, place } => {
                write!(f, "rules have no `{word}`{}: {instead}", at(place))
            }
            RuleError::OutsideFunctions(place) => write!(
                f,
                "the rule has code outside of its functions{}, which would never run: \
                 move it into resolve",
                at(place)
            ),
            RuleError::NoResolve => write!(f, "the rule has no function resolve: {SHAPE}"),
            RuleError::Parameters(found) => {
                write!(f, "resolve takes {found} parameters instead of 2: {SHAPE}")
            }
        }
    }
}

impl std::error::Error for RuleError {}

fn at(place: &Option<Place>) -> String {
    place.map(|place| format!(" at {place}")).unwrap_or_default()
}

/// Whose value is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// What the rule is given.
    Given(Whose),
    /// What the rule answers.
    Answer,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Given(whose) => whose.fmt(f),
            Origin::Answer => f.write_str("the rule's answer"),
        }
    }
}

/// Why a rule gives no answer: the caller falls back to another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// There is no side at all.
    NoSide,
    /// There are more than [`SIDES_MAX`].
    ManySides(usize),
    /// Base and sides have more than [`BYTES_MAX`] together.
    Large(usize),
    /// What the rule would be given is no JSON.
    NotJson(Whose, Refused),
    /// A part of a value would not come back as the number or text that it is.
    Unrepresentable {
        /// Whose.
        whose: Origin,
        /// The part (RFC 6901).
        pointer: String,
        /// What it is.
        why: &'static str,
    },
    /// What the rule is given is over a limit of scripts before they run.
    GivenTooLarge(Limit),
    /// The script met a limit.
    Limit {
        /// Which.
        limit: Limit,
        /// Where, if at one place.
        place: Option<Place>,
    },
    /// The script threw.
    Thrown {
        /// What.
        words: String,
        /// Where.
        place: Option<Place>,
    },
    /// The script did what it cannot do: called what does not exist, divided by zero, and so on.
    Script {
        /// What.
        why: String,
        /// Where.
        place: Option<Place>,
    },
    /// A part of the answer is of no type that JSON has.
    NoJsonType {
        /// The part (RFC 6901).
        pointer: String,
        /// Its type.
        found: String,
    },
    /// The answer nests deeper than [`DEPTH_MAX`].
    Deep,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::NoSide => f.write_str("there is no value to resolve"),
            Failed::ManySides(found) => {
                write!(f, "{found} values are concurrent; rules take at most {SIDES_MAX}")
            }
            Failed::Large(bytes) => {
                write!(f, "the values have {bytes} bytes; rules take at most {BYTES_MAX}")
            }
            Failed::NotJson(whose, why) => write!(f, "{whose} {why}"),
            Failed::Unrepresentable { whose, pointer, why } => {
                write!(f, "{whose} has at {pointer:?} {why}, which rules cannot give back exactly")
            }
            Failed::GivenTooLarge(limit) => write!(f, "base or sides are too large: {limit}"),
            Failed::Limit { limit, place } => {
                write!(f, "the rule was stopped{}: {limit}", at(place))
            }
            Failed::Thrown { words, place } => write!(f, "the rule threw{}: {words}", at(place)),
            Failed::Script { why, place } => write!(f, "the rule failed{}: {why}", at(place)),
            Failed::NoJsonType { pointer, found } => write!(
                f,
                "the rule's answer has at {pointer:?} a {found}, which JSON does not have: \
                 answer maps, arrays, strings, numbers, true, false or ()"
            ),
            Failed::Deep => write!(f, "the rule's answer nests deeper than {DEPTH_MAX} levels"),
        }
    }
}

impl std::error::Error for Failed {}

impl Rule {
    /// Reads a script that defines `fn resolve(sides, base)`.
    pub fn load(source: &str) -> Result<Self, RuleError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(RuleError::Large(source.len()));
        }
        let engine = sandbox::engine();
        let script = engine.compile(source).map_err(|error| sandbox::refusal(&error, source))?;
        sandbox::only_functions(&script)?;
        let resolves = script.iter_functions().filter(|function| function.name == "resolve");
        let parameters: Vec<usize> = resolves.map(|function| function.params.len()).collect();
        match parameters.iter().min() {
            Some(_) if parameters.contains(&2) => Ok(Rule { engine, script }),
            Some(least) => Err(RuleError::Parameters(*least)),
            None => Err(RuleError::NoResolve),
        }
    }

    /// Runs the rule on the set of sides; a value of `None` is a delete.
    pub fn resolve(
        &self,
        base: Option<&[u8]>,
        sides: &[Side<Option<&[u8]>>],
    ) -> Result<Resolved, Failed> {
        let mut sides = sides.to_vec();
        sides.sort_by(|a, b| (a.dot, a.value).cmp(&(b.dot, b.value)));
        sides.dedup_by_key(|side| side.dot);
        match sides.len() {
            0 => return Err(Failed::NoSide),
            1..=SIDES_MAX => {}
            many => return Err(Failed::ManySides(many)),
        }
        let each = sides.iter().filter_map(|side| side.value).chain(base);
        let bytes = each.map(<[u8]>::len).sum();
        if bytes > BYTES_MAX {
            return Err(Failed::Large(bytes));
        }
        let given: Result<Vec<Dynamic>, Failed> = sides.iter().map(side_of).collect();
        let given = Dynamic::from_array(given?);
        let base = given_of(base, Whose::Base)?;
        for value in [&given, &base] {
            sandbox::within(value).map_err(|error| match sandbox::failure(*error) {
                Failed::Limit { limit, place: _ } => Failed::GivenTooLarge(limit),
                other => other,
            })?;
        }
        let options = CallFnOptions::new().eval_ast(false);
        let mut scope = Scope::new();
        let answer = self
            .engine
            .call_fn_with_options::<Dynamic>(
                options,
                &mut scope,
                &self.script,
                "resolve",
                (given, base),
            )
            .map_err(|error| sandbox::failure(*error))?;
        Ok(Resolved { value: value::to_json(&answer)? })
    }
}

fn side_of(side: &Side<Option<&[u8]>>) -> Result<Dynamic, Failed> {
    let value = given_of(side.value, Whose::Side(side.dot))?;
    let stamp_ms = i64::try_from(side.stamp.wall_ms).map_err(|_| Failed::Unrepresentable {
        whose: Origin::Given(Whose::Side(side.dot)),
        pointer: String::new(),
        why: "a stamp beyond 63 bits",
    })?;
    Ok(Dynamic::from_map(Map::from([
        ("value".into(), value),
        ("deleted".into(), side.value.is_none().into()),
        ("stamp_ms".into(), stamp_ms.into()),
        ("node".into(), i64::from(side.dot.actor.node.0).into()),
        ("dot".into(), side.dot.to_text().into()),
    ])))
}

fn given_of(bytes: Option<&[u8]>, whose: Whose) -> Result<Dynamic, Failed> {
    let Some(bytes) = bytes else { return Ok(Dynamic::UNIT) };
    let node = Node::parse(bytes).map_err(|why| Failed::NotJson(whose, why))?;
    value::of_json(&node, whose)
}
