//! A JSON document as a tree that knows how each of its parts is spelled.
//!
//! ```text
//! {"price": 1.10, "tags": ["a"]}     Node::Object, text = all of it
//!           ^^^^          ^^^^^^     Node::Scalar, Node::Array, text = these bytes
//! ```
//!
//! Invariant: a part that nobody touches is written with the bytes it was read with, so that
//! `18446744073709551615`, `1.10` and `1e400` survive. `serde_json` says whether the document is
//! JSON, and without its features `arbitrary_precision` and `preserve_order`, which would change
//! every other reader in the build; the tree is cut from text that it has accepted.
//!
//! Of members with one name the last counts, as for every reader of JSON, at the place of the
//! first. What is done with a tree is left to `merge` and `patch`.

mod decimal;

pub use decimal::{Amount, Decimal};

use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Levels of arrays and objects in one another, the limit that `serde_json` has for trees.
pub const DEPTH_MAX: usize = 128;

/// Values in one document. A value takes some 64 bytes of memory and may take two bytes of text.
pub const NODES_MAX: usize = 1 << 20;

/// Members from which on an object is searched by name in better than linear time.
const SEARCHED_MEMBERS: usize = 8;

/// Why text does not become a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is no JSON, as `serde_json` explains.
    Malformed(String),
    /// It nests deeper than [`DEPTH_MAX`].
    Deep,
    /// It has more values than [`NODES_MAX`].
    Large,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Malformed(why) => write!(f, "is no JSON: {why}"),
            Refused::Deep => write!(f, "nests deeper than {DEPTH_MAX} levels"),
            Refused::Large => write!(f, "has more than {NODES_MAX} values"),
        }
    }
}

impl std::error::Error for Refused {}

/// A value and its spelling.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    text: &'a str,
    shape: Shape<'a>,
}

/// What a value is made of.
#[derive(Clone, Debug)]
pub enum Shape<'a> {
    /// null, true, false, a number or a string: its text says all.
    Scalar,
    /// The items in their order.
    Array(Vec<Node<'a>>),
    /// The members in their order.
    Object(Members<'a>),
}

/// The members of an object: one of each name.
#[derive(Clone, Debug, Default)]
pub struct Members<'a> {
    list: Vec<Member<'a>>,
    /// The places by name; empty where there are few.
    by_name: Vec<u32>,
}

/// A member of an object.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The name.
    pub name: Cow<'a, str>,
    /// The name as it is spelled, with its quotes.
    pub spelled: &'a str,
    /// The value.
    pub value: Node<'a>,
}

impl<'a> Node<'a> {
    /// Reads a document.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refused> {
        let raw: &RawValue =
            serde_json::from_slice(bytes).map_err(|error| Refused::Malformed(error.to_string()))?;
        Node::of(raw)
    }

    /// Cuts a tree from text that is known to be JSON.
    pub fn of(raw: &'a RawValue) -> Result<Self, Refused> {
        Cut { text: raw.get(), at: 0, nodes: 0 }.value(0)
    }

    /// The value's own bytes.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// What the value is made of.
    pub fn shape(&self) -> &Shape<'a> {
        &self.shape
    }

    /// The items, if this is an array.
    pub fn items(&self) -> Option<&[Node<'a>]> {
        match &self.shape {
            Shape::Array(items) => Some(items),
            Shape::Scalar | Shape::Object(_) => None,
        }
    }

    /// The members, if this is an object.
    pub fn members(&self) -> Option<&Members<'a>> {
        match &self.shape {
            Shape::Object(members) => Some(members),
            Shape::Scalar | Shape::Array(_) => None,
        }
    }

    /// The text of a number.
    pub fn number(&self) -> Option<&'a str> {
        matches!(self.text.as_bytes()[0], b'-' | b'0'..=b'9').then_some(self.text)
    }

    /// The characters of a string; `None` also for escapes that name no character.
    pub fn string(&self) -> Option<Cow<'a, str>> {
        if !self.text.starts_with('"') {
            return None;
        }
        decoded(self.text)
    }

    /// True for null.
    pub fn is_null(&self) -> bool {
        self.text == "null"
    }

    /// Levels of arrays and objects: 0 for a scalar.
    pub fn depth(&self) -> usize {
        match &self.shape {
            Shape::Scalar => 0,
            Shape::Array(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Shape::Object(members) => {
                1 + members.iter().map(|member| member.value.depth()).max().unwrap_or(0)
            }
        }
    }

    /// True when both mean the same JSON: members in any order, numbers by their exact value,
    /// strings by their characters (RFC 6902, 4.6).
    pub fn same(&self, other: &Node<'_>) -> bool {
        if self.text == other.text {
            return true;
        }
        match (&self.shape, &other.shape) {
            (Shape::Scalar, Shape::Scalar) => same_scalar(self, other),
            (Shape::Array(ours), Shape::Array(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.same(b))
            }
            (Shape::Object(ours), Shape::Object(theirs)) => {
                ours.len() == theirs.len()
                    && ours.iter().enumerate().all(|(at, member)| {
                        theirs.find_near(at, &member.name).is_some_and(|b| member.value.same(b))
                    })
            }
            (Shape::Scalar | Shape::Array(_) | Shape::Object(_), _) => false,
        }
    }

    /// Appends a spelling that is equal for values that are the [`same`](Node::same).
    pub fn push_canonical(&self, key: &mut String) {
        match &self.shape {
            Shape::Scalar => match (self.number(), self.string()) {
                (Some(number), _) => match Decimal::of(number) {
                    Some(decimal) => decimal.push_canonical(key),
                    None => key.push_str(number),
                },
                (None, Some(Cow::Owned(string))) => {
                    key.push_str(&serde_json::to_string(&string).expect("text serializes"));
                }
                (None, Some(Cow::Borrowed(_)) | None) => key.push_str(self.text),
            },
            Shape::Array(items) => {
                key.push('[');
                for item in items {
                    item.push_canonical(key);
                    key.push(',');
                }
                key.push(']');
            }
            Shape::Object(members) => {
                key.push('{');
                let mut sorted: Vec<&Member<'_>> = members.iter().collect();
                sorted.sort_by(|a, b| a.name.cmp(&b.name));
                for member in sorted {
                    key.push_str(&serde_json::to_string(&member.name).expect("text serializes"));
                    key.push(':');
                    member.value.push_canonical(key);
                    key.push(',');
                }
                key.push('}');
            }
        }
    }
}

fn same_scalar(a: &Node<'_>, b: &Node<'_>) -> bool {
    match (a.number(), b.number()) {
        (Some(a), Some(b)) => match (Decimal::of(a), Decimal::of(b)) {
            (Some(a), Some(b)) => a == b,
            (Some(_) | None, _) => false,
        },
        (None, None) => match (a.string(), b.string()) {
            (Some(a), Some(b)) => a == b,
            (Some(_) | None, _) => false,
        },
        (Some(_) | None, _) => false,
    }
}

/// The characters of a spelled string.
fn decoded(spelled: &str) -> Option<Cow<'_, str>> {
    match spelled.contains('\\') {
        false => Some(Cow::Borrowed(&spelled[1..spelled.len() - 1])),
        true => serde_json::from_str::<String>(spelled).ok().map(Cow::Owned),
    }
}

impl<'a> Members<'a> {
    /// Of members as they stand in a text.
    fn new(mut list: Vec<Member<'a>>) -> Self {
        if list.len() <= SEARCHED_MEMBERS {
            let mut at = 1;
            while at < list.len() {
                match list[..at].iter().position(|member| member.name == list[at].name) {
                    Some(first) => list[first] = list.remove(at),
                    None => at += 1,
                }
            }
            return Members { list, by_name: Vec::new() };
        }
        let mut by_name = sorted(&list);
        let name = |at: &u32| &list[*at as usize].name;
        if by_name.windows(2).any(|pair| name(&pair[0]) == name(&pair[1])) {
            // Stable order: a run of one name is in the order of the text.
            let mut last_of = vec![None; list.len()];
            let mut first = 0;
            for (nth, at) in by_name.iter().enumerate() {
                if nth == 0 || name(&by_name[nth - 1]) != name(at) {
                    first = *at as usize;
                }
                last_of[first] = Some(*at as usize);
            }
            let mut taken: Vec<Option<Member<'a>>> = list.into_iter().map(Some).collect();
            list = last_of
                .into_iter()
                .flatten()
                .map(|last| taken[last].take().expect("each name has one last member"))
                .collect();
            by_name = sorted(&list);
        }
        Members { list, by_name }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True for none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// In their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Member<'a>> {
        self.list.iter()
    }

    /// The value of a member.
    pub fn find(&self, name: &str) -> Option<&Node<'a>> {
        if self.by_name.is_empty() {
            let found = self.list.iter().find(|member| member.name == name);
            return found.map(|member| &member.value);
        }
        let at = self.by_name.binary_search_by(|at| (*self.list[*at as usize].name).cmp(name));
        at.ok().map(|at| &self.list[self.by_name[at] as usize].value)
    }

    /// The same, looking at one place first: edits of one document mostly keep its order.
    pub fn find_near(&self, at: usize, name: &str) -> Option<&Node<'a>> {
        match self.list.get(at) {
            Some(member) if member.name == name => Some(&member.value),
            Some(_) | None => self.find(name),
        }
    }
}

fn sorted(list: &[Member<'_>]) -> Vec<u32> {
    let mut places: Vec<u32> = (0..list.len() as u32).collect();
    places.sort_by(|a, b| list[*a as usize].name.cmp(&list[*b as usize].name));
    places
}

/// Cuts a tree from text that `serde_json` has accepted, in one pass.
struct Cut<'a> {
    text: &'a str,
    at: usize,
    nodes: usize,
}

impl<'a> Cut<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, Refused> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Refused::Large);
        }
        let start = self.at;
        let shape = match self.byte() {
            b'{' | b'[' if depth == DEPTH_MAX => return Err(Refused::Deep),
            b'{' => self.object(depth + 1)?,
            b'[' => self.array(depth + 1)?,
            b'"' => {
                self.string();
                Shape::Scalar
            }
            _ => {
                let bytes = self.text.as_bytes();
                while self.at < bytes.len()
                    && !matches!(bytes[self.at], b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t')
                {
                    self.at += 1;
                }
                Shape::Scalar
            }
        };
        Ok(Node { text: &self.text[start..self.at], shape })
    }

    fn array(&mut self, depth: usize) -> Result<Shape<'a>, Refused> {
        let mut items = Vec::new();
        self.at += 1;
        while self.more(b']') {
            items.push(self.value(depth)?);
        }
        Ok(Shape::Array(items))
    }

    fn object(&mut self, depth: usize) -> Result<Shape<'a>, Refused> {
        let mut list = Vec::new();
        self.at += 1;
        while self.more(b'}') {
            let spelled = self.string();
            let name = decoded(spelled).ok_or_else(|| {
                Refused::Malformed(format!("the member name {spelled} is no Unicode text"))
            })?;
            self.blank();
            self.at += 1; // the colon
            self.blank();
            list.push(Member { name, spelled, value: self.value(depth)? });
        }
        Ok(Shape::Object(Members::new(list)))
    }

    /// Goes to the next item, or past the end.
    fn more(&mut self, end: u8) -> bool {
        self.blank();
        if self.byte() == b',' {
            self.at += 1;
            self.blank();
        }
        let ended = self.byte() == end;
        self.at += usize::from(ended);
        !ended
    }

    fn string(&mut self) -> &'a str {
        let (start, bytes) = (self.at, self.text.as_bytes());
        self.at += 1;
        while bytes[self.at] != b'"' {
            self.at += 1 + usize::from(bytes[self.at] == b'\\');
        }
        self.at += 1;
        &self.text[start..self.at]
    }

    fn blank(&mut self) {
        while matches!(self.byte(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    fn byte(&self) -> u8 {
        self.text.as_bytes()[self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Node<'_> {
        Node::parse(text.as_bytes()).unwrap()
    }

    /// Writes the tree from its leaves, to see what the cuts are.
    fn rebuilt(node: &Node<'_>) -> String {
        match node.shape() {
            Shape::Scalar => node.text().to_owned(),
            Shape::Array(items) => {
                format!("[{}]", items.iter().map(rebuilt).collect::<Vec<_>>().join(","))
            }
            Shape::Object(members) => {
                let each = members.iter().map(|m| format!("{}:{}", m.spelled, rebuilt(&m.value)));
                format!("{{{}}}", each.collect::<Vec<_>>().join(","))
            }
        }
    }

    #[test]
    fn every_part_keeps_its_spelling() {
        let check = |text: &str, expected: &str| {
            let node = parse(text);
            assert_eq!(rebuilt(&node), expected, "{text}");
            assert_eq!(node.text(), text.trim());
        };
        check(" [ 18446744073709551615 ,1.10, 1e400,-0 ] ", "[18446744073709551615,1.10,1e400,-0]");
        check(r#"{"a" : [] , "\u0062\"":{ } }"#, r#"{"a":[],"\u0062\"":{}}"#);
        check(r#"["\\","a\\\"]",true,null]"#, r#"["\\","a\\\"]",true,null]"#);
        check(r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#);
        check("7", "7");
    }

    #[test]
    fn of_members_with_one_name_the_last_counts_in_large_objects_too() {
        let mut text = String::from("{");
        for n in 0..40 {
            text += &format!("\"m{}\":{n},", n % 13);
        }
        text += "\"z\":0}";
        let node = parse(&text);
        let members = node.members().unwrap();
        assert_eq!(members.len(), 14);
        assert_eq!(members.iter().next().unwrap().name, "m0");
        for n in 0..13 {
            let last = (0..40).rev().find(|at| at % 13 == n).unwrap().to_string();
            assert_eq!(members.find(&format!("m{n}")).unwrap().text(), last);
        }
        assert!(members.find("m13").is_none());
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Node::parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        let deep = Node::parse(nested(DEPTH_MAX + 1).as_bytes().to_vec().leak());
        assert_eq!(deep.unwrap_err(), Refused::Deep);
        assert_eq!(Node::parse(nested(100_000).as_bytes()).unwrap_err(), Refused::Deep);
        let many = format!("[{}0]", "0,".repeat(NODES_MAX));
        assert_eq!(Node::parse(many.as_bytes()).unwrap_err(), Refused::Large);
        for text in ["", "{", "[1,]", "01", "\"\u{1}\"", r#"{"\ud800":1}"#, "nul", "1 2"] {
            assert!(matches!(Node::parse(text.as_bytes()), Err(Refused::Malformed(_))), "{text}");
        }
        assert!(matches!(Node::parse(b"\"\xff\""), Err(Refused::Malformed(_))));
    }

    #[test]
    fn same_by_meaning() {
        let check = |a: &str, b: &str, same: bool| {
            assert_eq!(parse(a).same(&parse(b)), same, "{a} {b}");
            assert_eq!(parse(b).same(&parse(a)), same, "{b} {a}");
            let canonical = |text: &str| {
                let mut key = String::new();
                parse(text).push_canonical(&mut key);
                key
            };
            assert_eq!(canonical(a) == canonical(b), same, "{a} {b}");
        };
        check("1", "1.0", true);
        check("100", "1e2", true);
        check("0", "-0.0e7", true);
        check("18446744073709551615", "18446744073709551616", false);
        check("1e400", "1e401", false);
        check("1e400", "10E399", true);
        check(r#""a\/""#, r#""\u0061/""#, true);
        check(r#""1""#, "1", false);
        check("null", "false", false);
        check(r#"{"a":1,"b":[2]}"#, r#"{ "b":[2.0], "a":1 }"#, true);
        check(r#"{"a":1}"#, r#"{"a":1,"b":1}"#, false);
        check("[1,2]", "[2,1]", false);
        check("[]", "{}", false);
        check(r#"["a,","b"]"#, r#"["a","b"]"#, false);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in r#"[\[\]{}",:0-9eE.+\- a\\un]{0,40}"#) {
            if let Ok(node) = Node::parse(text.as_bytes()) {
                prop_assert!(parse(&rebuilt(&node)).same(&node));
            }
        }
    }
}
