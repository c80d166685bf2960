//! The language of rules: what is in it, what it may use up, and what its errors mean.
//!
//! ```text
//! words that are refused when the script is read     eval, import, switch, ..
//! functions of the language, by package              numbers, logic, texts, arrays, maps
//! instead of some of them                            sort, ==, to_string, replace
//! beside them                                        latest_first
//! limits                                             operations, calls, sizes
//! ```
//!
//! Invariants: nothing outside of a script's arguments can be read, changed or waited for, so a
//! package comes in by name and never as "the standard ones", which sleep, read clocks and ask the
//! platform's libm. No value is shared (no closures over variables, no curried functions), so none
//! holds itself and every size is counted. A value nests at most [`ITEMS_MAX`] + [`MEMBERS_MAX`]
//! deep, which the language walks by recursion, some 400 bytes of stack per level: a megabyte is enough.

use super::value::text_of;
use super::{Failed, Place, RuleError, WORDS_BYTES_MAX};
use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicFnPackage, BasicIteratorPackage, BasicMapPackage,
    BasicStringPackage, LogicPackage, MoreStringPackage, Package,
};
use rhai::{
    AST, Array, Dynamic, Engine, EvalAltResult, FnPtr, ImmutableString, LexError, Map,
    NativeCallContext, ParseError, ParseErrorType, Position,
};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Once;

/// Operations of one run: statements, expressions and calls.
pub const OPERATIONS_MAX: u64 = 100_000;

/// What one run may look at: an operation may touch as many values as the other limits allow, so each use
/// of a variable counts its items, its members and every 16 bytes of its texts.
pub const WORK_MAX: i64 = 10_000_000;

/// Calls in one another.
pub const CALLS_MAX: usize = 16;

/// Levels of one expression.
pub const EXPRESSION_LEVELS_MAX: usize = 32;

/// Variables at one time.
pub const VARIABLES_MAX: usize = 64;

/// Functions of one script.
const FUNCTIONS_MAX: usize = 64;

/// Bytes of all strings in one value, and of the names of its members.
pub const STRINGS_MAX: usize = 256 << 10;

/// Items of all arrays in one value. The sides are one value.
pub const ITEMS_MAX: usize = 2048;

/// Members of all maps in one value. The sides are one value.
pub const MEMBERS_MAX: usize = 1024;

/// Levels that values may have to be compared or spelled.
const COMPARED_LEVELS_MAX: usize = crate::json::DEPTH_MAX;

const PURE: &str = "a rule is a function of its arguments";
const SHARED: &str = "write a for loop; rules share no values";
const OUTPUT: &str = "answer what is to be kept, or throw what is to be said";

/// Words that rules do not have, and what to do instead.
const FORBIDDEN: [(&str, &str); 11] = [
    ("eval", "write the code out"),
    ("import", PURE),
    ("export", PURE),
    ("print", OUTPUT),
    ("debug", OUTPUT),
    ("curry", SHARED),
    // What it names is not looked at by `watched`.
    ("this", "take it as a parameter, and answer what is made of it"),
    ("is_shared", SHARED),
    // It goes by a hash of what it is given, which is another on other processors: whoever writes the
    // data could have two of them take different ways.
    ("switch", "write if and else"),
    // Powers of fractions come from the platform's libm.
    ("**", "multiply; powers of fractions differ from machine to machine"),
    ("**=", "multiply; powers of fractions differ from machine to machine"),
];

/// A limit that scripts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`OPERATIONS_MAX`].
    Operations,
    /// [`WORK_MAX`].
    Work,
    /// [`CALLS_MAX`].
    Calls,
    /// [`VARIABLES_MAX`].
    Variables,
    /// [`STRINGS_MAX`].
    Strings,
    /// [`ITEMS_MAX`].
    Items,
    /// [`MEMBERS_MAX`].
    Members,
    /// Values that are compared or spelled nest deeper than JSON may.
    Levels,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Operations => write!(f, "a rule may take {OPERATIONS_MAX} operations"),
            Limit::Work => write!(f, "a rule may look at {WORK_MAX} parts of values"),
            Limit::Calls => write!(f, "calls may nest {CALLS_MAX} deep"),
            Limit::Variables => write!(f, "there may be {VARIABLES_MAX} variables at one time"),
            Limit::Strings => write!(f, "the strings of a value may have {STRINGS_MAX} bytes"),
            Limit::Items => write!(f, "the arrays of a value may have {ITEMS_MAX} items"),
            Limit::Members => write!(f, "the maps of a value may have {MEMBERS_MAX} members"),
            Limit::Levels => {
                write!(f, "values of at most {COMPARED_LEVELS_MAX} levels are compared or spelled")
            }
        }
    }
}

/// What the language calls its sizes.
const STRING_SIZE: &str = "Length of string";
const ARRAY_SIZE: &str = "Size of array/BLOB";
const MAP_SIZE: &str = "Size of object map";
/// What this module calls its own.
const LEVELS: &str = "Levels of value";
const WORK: &str = "Work of script";

type Answer<T> = Result<T, Box<EvalAltResult>>;

/// The language.
pub(super) fn engine() -> Engine {
    // Functions are found by hash. The language would else draw the hash's keys when it is built, and
    // two builds of one source would not be the same.
    static KEYS: Once = Once::new();
    KEYS.call_once(|| {
        // Refused only if it was done before, by another user of the language in this process.
        let _ = rhai::config::hashing::set_hashing_seed(Some([1, 2, 3, 4]));
    });
    let mut engine = Engine::new_raw();
    engine
        .register_global_module(ArithmeticPackage::new().as_shared_module())
        .register_global_module(LogicPackage::new().as_shared_module())
        .register_global_module(BasicStringPackage::new().as_shared_module())
        .register_global_module(MoreStringPackage::new().as_shared_module())
        .register_global_module(BasicArrayPackage::new().as_shared_module())
        .register_global_module(BasicMapPackage::new().as_shared_module())
        .register_global_module(BasicIteratorPackage::new().as_shared_module())
        .register_global_module(BasicFnPackage::new().as_shared_module());
    for (word, _) in FORBIDDEN {
        engine.disable_symbol(word);
    }
    engine
        .set_strict_variables(true)
        .set_max_operations(OPERATIONS_MAX)
        .set_max_call_levels(CALLS_MAX)
        .set_max_expr_depths(EXPRESSION_LEVELS_MAX, EXPRESSION_LEVELS_MAX)
        .set_max_variables(VARIABLES_MAX)
        .set_max_functions(FUNCTIONS_MAX)
        .set_max_string_size(STRINGS_MAX)
        .set_max_array_size(ITEMS_MAX)
        .set_max_map_size(MEMBERS_MAX);
    watched(&mut engine);
    numbers(&mut engine);
    spelling(&mut engine);
    equality(&mut engine);
    sorting(&mut engine);
    engine.register_fn("latest_first", latest_first);
    engine
}

/// Measures a variable's value whenever it is used, and counts what that was in all. The language itself measures what operations and
/// calls give, but neither a map to which `map[name] = value` has added, nor any member's name.
fn watched(engine: &mut Engine) {
    #[expect(
        deprecated,
        reason = "not deprecated, says its note, but volatile: the version is pinned"
    )]
    engine.on_var(|name, _, mut context| {
        let mut sizes = Sizes::default();
        context.scope().get(name).map_or(Ok(()), |value| sizes.add(value))?;
        // Each run's own, and nothing at its beginning.
        let spent = context.tag().as_int().unwrap_or(0) + sizes.work();
        *context.tag_mut() = spent.into();
        if spent > WORK_MAX { Err(too_large(WORK)) } else { Ok(None) }
    });
}

/// Refuses a value that is over a limit of sizes.
pub(super) fn within(value: &Dynamic) -> Answer<()> {
    Sizes::default().add(value)
}

#[derive(Default)]
struct Sizes {
    strings: usize,
    items: usize,
    members: usize,
}

impl Sizes {
    /// Every level counts, so that what is too deep is left before the stack is.
    fn add(&mut self, value: &Dynamic) -> Answer<()> {
        if let Ok(text) = value.as_immutable_string_ref() {
            self.strings += text.len();
        } else if let Ok(array) = value.as_array_ref() {
            self.items += array.len();
            self.check()?;
            array.iter().try_for_each(|item| self.add(item))?;
        } else if let Ok(map) = value.as_map_ref() {
            self.members += map.len();
            self.check()?;
            for (name, member) in map.iter() {
                self.strings += name.len();
                self.add(member)?;
            }
        }
        self.check()
    }

    fn work(&self) -> i64 {
        let parts = 1 + self.items + self.members + self.strings / 16;
        i64::try_from(parts).expect("each is bounded")
    }

    fn check(&self) -> Answer<()> {
        if self.strings > STRINGS_MAX {
            Err(too_large(STRING_SIZE))
        } else if self.items > ITEMS_MAX {
            Err(too_large(ARRAY_SIZE))
        } else if self.members > MEMBERS_MAX {
            Err(too_large(MAP_SIZE))
        } else {
            Ok(())
        }
    }
}

/// Of the language's mathematics what is exact, and so the same everywhere.
fn numbers(engine: &mut Engine) {
    engine
        .register_fn("floor", f64::floor)
        .register_fn("ceiling", f64::ceil)
        .register_fn("round", f64::round)
        .register_fn("to_int", |n: i64| n)
        .register_fn("to_int", |x: f64| -> Answer<i64> {
            const BEYOND: f64 = 9_223_372_036_854_775_808.0;
            match x.trunc() {
                whole if (-BEYOND..BEYOND).contains(&whole) => Ok(whole as i64),
                _ => Err(wrong(format!("{x} is no integer of 64 bits"))),
            }
        })
        .register_fn("to_float", |n: i64| n as f64)
        .register_fn("to_float", |x: f64| x)
        .register_fn("parse_int", |text: &str| -> Answer<i64> {
            text.trim().parse().map_err(|_| wrong("the text is no integer of 64 bits".to_owned()))
        })
        .register_fn("parse_float", |text: &str| -> Answer<f64> {
            text.trim().parse().map_err(|_| wrong("the text is no number".to_owned()))
        });
    // The operator is a forbidden word; by name it could still be called.
    let no_power = || wrong("rules have no powers".to_owned());
    engine
        .register_fn("**", move |_: f64, _: f64| -> Answer<f64> { Err(no_power()) })
        .register_fn("**", move |_: f64, _: i64| -> Answer<f64> { Err(no_power()) })
        .register_fn("**", move |_: i64, _: f64| -> Answer<f64> { Err(no_power()) });
}

/// Texts of values as JSON instead of as the language spells them, which goes deeper into the stack
/// with every level; and replacing that looks at what it would make before it makes it.
fn spelling(engine: &mut Engine) {
    for name in ["to_string", "to_debug", "to_json"] {
        engine
            .register_fn(name, |array: Array| json(&Dynamic::from_array(array)))
            .register_fn(name, |map: Map| json(&Dynamic::from_map(map)));
    }
    engine
        .register_fn("to_json", |value: Dynamic| json(&value))
        .register_fn("replace", |text: &mut ImmutableString, find: &str, by: &str| {
            replaced(text, find, by)
        })
        .register_fn("replace", |text: &mut ImmutableString, find: char, by: &str| {
            replaced(text, find.encode_utf8(&mut [0; 4]), by)
        });
}

/// Not an error where JSON has no such value: the language would then spell it in its own way.
fn json(value: &Dynamic) -> String {
    text_of(value).unwrap_or_else(|why| format!("({why})"))
}

fn replaced(text: &mut ImmutableString, find: &str, by: &str) -> Answer<()> {
    let found = text.matches(find).count();
    if text.len() - found * find.len() + found * by.len() > STRINGS_MAX {
        return Err(too_large(STRING_SIZE));
    }
    *text = text.replace(find, by).into();
    Ok(())
}

/// Equality of arrays and maps in little stack; the language's own goes through a call per level.
fn equality(engine: &mut Engine) {
    let arrays = |a: Array, b: Array| same(&Dynamic::from_array(a), &Dynamic::from_array(b), 0);
    let maps = |a: Map, b: Map| same(&Dynamic::from_map(a), &Dynamic::from_map(b), 0);
    engine
        .register_fn("==", arrays)
        .register_fn("!=", move |a: Array, b: Array| arrays(a, b).map(|same| !same))
        .register_fn("==", maps)
        .register_fn("!=", move |a: Map, b: Map| maps(a, b).map(|same| !same));
}

fn same(a: &Dynamic, b: &Dynamic, level: usize) -> Answer<bool> {
    if level > COMPARED_LEVELS_MAX {
        return Err(too_large(LEVELS));
    }
    if let (Ok(a), Ok(b)) = (a.as_array_ref(), b.as_array_ref()) {
        return each_same(a.len() == b.len(), a.iter().zip(b.iter()), level);
    }
    if let (Ok(a), Ok(b)) = (a.as_map_ref(), b.as_map_ref()) {
        let names = a.len() == b.len() && a.keys().eq(b.keys());
        return each_same(names, a.values().zip(b.values()), level);
    }
    Ok(rank(a).is_some() && order(a, b) == Some(Ordering::Equal))
}

fn each_same<'d>(
    alike: bool,
    mut pairs: impl Iterator<Item = (&'d Dynamic, &'d Dynamic)>,
    level: usize,
) -> Answer<bool> {
    if !alike {
        return Ok(false);
    }
    loop {
        match pairs.next() {
            None => return Ok(true),
            Some((a, b)) if same(a, b, level + 1)? => {}
            Some(_) => return Ok(false),
        }
    }
}

/// Sides in the order of their stamps: a rule that goes through them so may keep the first of those that
/// it finds equal, whoever wrote it.
fn latest_first(mut sides: Array) -> Answer<Array> {
    let stamp_ms =
        |side: &Dynamic| -> Option<i64> { side.as_map_ref().ok()?.get("stamp_ms")?.as_int().ok() };
    if let Some(other) = sides.iter().find(|side| stamp_ms(side).is_none()) {
        return Err(wrong(format!("latest_first takes sides, not a {}", other.type_name())));
    }
    sides.sort_by_key(|side| std::cmp::Reverse(stamp_ms(side)));
    Ok(sides)
}

/// Sorting by what a script says. The language's own panics on an order that is none, and falls back to
/// an order of types that differs from build to build.
fn sorting(engine: &mut Engine) {
    for name in ["sort", "sort_by"] {
        engine.register_fn(name, |ctx: NativeCallContext, array: &mut Array, by: FnPtr| {
            *array = sorted(std::mem::take(array), &mut |a, b| asked(&ctx, &by, a, b))?;
            Answer::Ok(())
        });
    }
    for name in ["order", "order_by"] {
        engine.register_fn(name, |ctx: NativeCallContext, array: Array, by: FnPtr| {
            sorted(array, &mut |a, b| asked(&ctx, &by, a, b))
        });
    }
    let down = |a: &Dynamic, b: &Dynamic| scalars(b, a);
    engine
        .register_fn("sort", |array: &mut Array| {
            *array = sorted(std::mem::take(array), &mut scalars)?;
            Answer::Ok(())
        })
        .register_fn("sort_desc", move |array: &mut Array| {
            *array = sorted(std::mem::take(array), &mut { down })?;
            Answer::Ok(())
        })
        .register_fn("order", |array: Array| sorted(array, &mut scalars))
        .register_fn("order_desc", move |array: Array| sorted(array, &mut { down }));
}

/// Merge sort: stable, and whatever the order says, it ends.
fn sorted(
    mut items: Array,
    compare: &mut dyn FnMut(&Dynamic, &Dynamic) -> Answer<Ordering>,
) -> Answer<Array> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = items.split_off(items.len() / 2);
    let mut left = sorted(items, compare)?.into_iter().peekable();
    let mut right = sorted(right, compare)?.into_iter().peekable();
    let mut all = Array::with_capacity(left.len() + right.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = match compare(a, b)? {
            Ordering::Less | Ordering::Equal => left.next(),
            Ordering::Greater => right.next(),
        };
        all.extend(next);
    }
    all.extend(left);
    all.extend(right);
    Ok(all)
}

fn asked(ctx: &NativeCallContext, by: &FnPtr, a: &Dynamic, b: &Dynamic) -> Answer<Ordering> {
    let said: Dynamic = by.call_within_context(ctx, (a.clone(), b.clone()))?;
    match (said.as_int(), said.as_bool()) {
        (Ok(sign), _) => Ok(sign.cmp(&0)),
        (Err(_), Ok(before)) => Ok(if before { Ordering::Less } else { Ordering::Greater }),
        (Err(_), Err(found)) => Err(wrong(format!(
            "a sort is told by an integer, below 0 for the first, or by true, not by a {found}"
        ))),
    }
}

fn scalars(a: &Dynamic, b: &Dynamic) -> Answer<Ordering> {
    order(a, b).ok_or_else(|| {
        let (a, b) = (a.type_name(), b.type_name());
        wrong(format!("{a} and {b} have no order: sort by a function"))
    })
}

/// Kinds of scalars, in their order.
fn rank(value: &Dynamic) -> Option<u8> {
    match value {
        _ if value.is_unit() => Some(0),
        _ if value.is_bool() => Some(1),
        _ if value.is_int() || value.is_float() => Some(2),
        _ if value.is_char() => Some(3),
        _ if value.is_string() => Some(4),
        _ => None,
    }
}

/// The order of scalars, total; `None` where one is no scalar.
fn order(a: &Dynamic, b: &Dynamic) -> Option<Ordering> {
    let kinds = rank(a)?.cmp(&rank(b)?);
    if kinds != Ordering::Equal {
        return Some(kinds);
    }
    let number = |n: &Dynamic| n.as_float().or_else(|_| n.as_int().map(|n| n as f64));
    if let (Ok(a), Ok(b)) = (a.as_int(), b.as_int()) {
        Some(a.cmp(&b))
    } else if let (Ok(a), Ok(b)) = (number(a), number(b)) {
        // Zero has one place, whatever its sign.
        Some((a + 0.0).total_cmp(&(b + 0.0)))
    } else if let (Ok(a), Ok(b)) = (a.as_immutable_string_ref(), b.as_immutable_string_ref()) {
        Some(a.as_str().cmp(b.as_str()))
    } else if let (Ok(a), Ok(b)) = (a.as_char(), b.as_char()) {
        Some(a.cmp(&b))
    } else {
        Some(a.as_bool().ok().cmp(&b.as_bool().ok()))
    }
}

fn wrong(why: String) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorArithmetic(why, Position::NONE))
}

fn too_large(what: &str) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorDataTooLarge(what.to_owned(), Position::NONE))
}

/// Why a script was not read.
pub(super) fn refusal(error: &ParseError, source: &str) -> RuleError {
    let place = Place::of(error.position());
    let word = match error.err_type() {
        ParseErrorType::Reserved(word) | ParseErrorType::UnknownOperator(word) => word.clone(),
        ParseErrorType::BadInput(LexError::ImproperSymbol(word, _)) => word.clone(),
        // Behind a point, only the place is told.
        _ => place.map(|place| word_at(source, place)).unwrap_or_default(),
    };
    let forbidden = FORBIDDEN.iter().find(|(known, _)| *known == word);
    match forbidden {
        Some((word, instead)) => RuleError::Forbidden { word: (*word).to_owned(), instead, place },
        None => RuleError::Syntax { why: brief(&error.err_type().to_string()), place },
    }
}

fn word_at(source: &str, place: Place) -> String {
    let line = source.lines().nth(place.line - 1).unwrap_or_default();
    let behind = line.chars().skip(place.column.saturating_sub(1));
    behind.take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// Refuses code outside of functions, which a rule would never run, by running it up to its first
/// operation.
pub(super) fn only_functions(script: &AST) -> Result<(), RuleError> {
    let mut engine = Engine::new_raw();
    engine.on_progress(|_| Some(Dynamic::UNIT));
    let mut outside = script.clone();
    outside.clear_functions();
    match engine.eval_ast::<Dynamic>(&outside) {
        Ok(_) => Ok(()),
        Err(error) => Err(RuleError::OutsideFunctions(Place::of(error.position()))),
    }
}

/// Why a run gave no answer.
pub(super) fn failure(error: EvalAltResult) -> Failed {
    let place = Place::of(error.position());
    let stopped = |limit| Failed::Limit { limit, place };
    match error {
        // The place is the innermost, so is the cause.
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) => match failure(*inner) {
            Failed::Limit { limit, place: None } => stopped(limit),
            Failed::Thrown { words, place: None } => Failed::Thrown { words, place },
            Failed::Script { why, place: None } => Failed::Script { why, place },
            placed => placed,
        },
        EvalAltResult::ErrorTooManyOperations(_) => stopped(Limit::Operations),
        EvalAltResult::ErrorTooManyVariables(_) => stopped(Limit::Variables),
        EvalAltResult::ErrorStackOverflow(_) => stopped(Limit::Calls),
        EvalAltResult::ErrorDataTooLarge(what, _) => match &*what {
            STRING_SIZE => stopped(Limit::Strings),
            ARRAY_SIZE => stopped(Limit::Items),
            MAP_SIZE => stopped(Limit::Members),
            WORK => stopped(Limit::Work),
            LEVELS => stopped(Limit::Levels),
            other => Failed::Script { why: format!("{other} is too large"), place },
        },
        EvalAltResult::ErrorRuntime(thrown, _) => {
            let text = thrown.as_immutable_string_ref().map(|text| brief(&text));
            Failed::Thrown { words: text.unwrap_or_else(|_| brief(&json(&thrown))), place }
        }
        other => {
            let mut bare = other;
            bare.clear_position();
            Failed::Script { why: brief(&bare.to_string()), place }
        }
    }
}

fn brief(text: &str) -> String {
    let mut end = text.len().min(WORDS_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
