//! JSON as values of the script, and back.
//!
//! Invariant: what goes in and comes out untouched means the same JSON, as [`Node::same`] tells it.
//! What could not is refused with its place: it is never rounded.

use super::{Failed, Origin};
use crate::json::{DEPTH_MAX, Decimal, Node, Shape};
use crate::merge::Whose;
use jsonptr::{PointerBuf, Token};
use rhai::{Array, Dynamic, Map};

const WHOLE_NULL: &str = "null as the whole value, which is a delete to rules";
const BIG_INTEGER: &str = "an integer beyond 64 bits with a sign";
const ROUNDED: &str = "a number that a float of 64 bits rounds";
const NO_TEXT: &str = "a string that is no Unicode text";
const NOT_FINITE: &str = "a number that is not finite";

/// A document, for the script.
pub(super) fn of_json(node: &Node<'_>, whose: Whose) -> Result<Dynamic, Failed> {
    let mut path = PointerBuf::new();
    let read = match node.is_null() {
        true => Err(WHOLE_NULL),
        false => read(node, &mut path),
    };
    read.map_err(|why| Failed::Unrepresentable {
        whose: Origin::Given(whose),
        pointer: path.to_string(),
        why,
    })
}

/// On a refusal, `path` stays at the part that is refused.
fn read(node: &Node<'_>, path: &mut PointerBuf) -> Result<Dynamic, &'static str> {
    match node.shape() {
        Shape::Array(items) => {
            let mut array = Array::with_capacity(items.len());
            for (at, item) in items.iter().enumerate() {
                path.push_back(Token::from(at));
                array.push(read(item, path)?);
                path.pop_back();
            }
            Ok(Dynamic::from_array(array))
        }
        Shape::Object(members) => {
            let mut map = Map::new();
            for member in members.iter() {
                path.push_back(Token::new(&*member.name));
                map.insert((&*member.name).into(), read(&member.value, path)?);
                path.pop_back();
            }
            Ok(Dynamic::from_map(map))
        }
        Shape::Scalar => match (node.text(), node.number()) {
            ("null", _) => Ok(Dynamic::UNIT),
            ("true", _) => Ok(Dynamic::TRUE),
            ("false", _) => Ok(Dynamic::FALSE),
            (_, Some(number)) => read_number(number),
            (_, None) => Ok(node.string().ok_or(NO_TEXT)?.into_owned().into()),
        },
    }
}

fn read_number(text: &str) -> Result<Dynamic, &'static str> {
    if !text.contains(['.', 'e', 'E']) {
        return text.parse::<i64>().map(Dynamic::from_int).map_err(|_| BIG_INTEGER);
    }
    let float: f64 = text.parse().map_err(|_| ROUNDED)?;
    let back = serde_json::Number::from_f64(float).ok_or(ROUNDED)?.to_string();
    match (Decimal::of(text), Decimal::of(&back)) {
        (Some(was), Some(is)) if was == is => Ok(Dynamic::from_float(float)),
        (Some(_) | None, _) => Err(ROUNDED),
    }
}

/// The canonical JSON of an answer; `None` for a delete.
pub(super) fn to_json(answer: &Dynamic) -> Result<Option<Vec<u8>>, Failed> {
    if answer.is_unit() {
        return Ok(None);
    }
    let mut writer = Writer { out: String::new(), path: PointerBuf::new() };
    writer.value(answer, 0)?;
    Ok(Some(writer.out.into_bytes()))
}

/// JSON of a value inside of a script; `None` for what has none.
pub(super) fn text_of(value: &Dynamic) -> Result<String, Failed> {
    let mut writer = Writer { out: String::new(), path: PointerBuf::new() };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    path: PointerBuf,
}

impl Writer {
    fn value(&mut self, value: &Dynamic, depth: usize) -> Result<(), Failed> {
        if value.is_unit() {
            self.out.push_str("null");
        } else if let Ok(yes) = value.as_bool() {
            self.out.push_str(if yes { "true" } else { "false" });
        } else if let Ok(integer) = value.as_int() {
            self.out.push_str(itoa::Buffer::new().format(integer));
        } else if let Ok(float) = value.as_float() {
            let number = serde_json::Number::from_f64(float).ok_or_else(|| {
                let pointer = self.path.to_string();
                Failed::Unrepresentable { whose: Origin::Answer, pointer, why: NOT_FINITE }
            })?;
            self.out.push_str(&number.to_string());
        } else if let Ok(text) = value.as_immutable_string_ref() {
            self.string(&text);
        } else if let Ok(array) = value.as_array_ref() {
            let depth = deeper(depth)?;
            self.out.push('[');
            for (at, item) in array.iter().enumerate() {
                self.separate(at);
                self.path.push_back(Token::from(at));
                self.value(item, depth)?;
                self.path.pop_back();
            }
            self.out.push(']');
        } else if let Ok(map) = value.as_map_ref() {
            let depth = deeper(depth)?;
            self.out.push('{');
            for (at, (name, member)) in map.iter().enumerate() {
                self.separate(at);
                self.string(name);
                self.out.push(':');
                self.path.push_back(Token::new(name.as_str()));
                self.value(member, depth)?;
                self.path.pop_back();
            }
            self.out.push('}');
        } else {
            let (pointer, found) = (self.path.to_string(), value.type_name().to_owned());
            return Err(Failed::NoJsonType { pointer, found });
        }
        Ok(())
    }

    fn separate(&mut self, at: usize) {
        if at > 0 {
            self.out.push(',');
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push_str(&serde_json::to_string(text).expect("text serializes"));
    }
}

fn deeper(depth: usize) -> Result<usize, Failed> {
    if depth == DEPTH_MAX { Err(Failed::Deep) } else { Ok(depth + 1) }
}
