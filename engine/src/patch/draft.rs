//! A document while it is changed: opened only along the ways that a patch goes.
//!
//! ```text
//! Kept ────────────────▶ a part of the document, or of the patch, as it is spelled
//! Object [a: Kept, b: Array [Kept, Kept, Text "7"]]
//! ```
//!
//! Invariant: work and growth are counted before they are done.

use super::{BYTES_MAX, Cannot};
use crate::json::{Amount, DEPTH_MAX, NODES_MAX, Node, Shape};
use crate::structured::Cell;
use jsonptr::{Pointer, Token};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Members looked at, items moved, and bytes of values set or copied, by one patch.
const WORK_MAX: usize = 1 << 26;

/// The document that a patch is applied to.
pub(super) struct Draft<'b> {
    root: Part<'b>,
    work: Work,
}

/// A part of it.
#[derive(Clone)]
enum Part<'b> {
    Kept(&'b Node<'b>),
    /// A scalar that nobody spelled before.
    Text(String),
    Array(Vec<Part<'b>>),
    Object(Vec<Member<'b>>),
}

#[derive(Clone)]
struct Member<'b> {
    name: Cow<'b, str>,
    spelled: Cow<'b, str>,
    value: Part<'b>,
}

/// What was done so far.
struct Work {
    done: usize,
    /// Bytes that the document may have.
    bytes: usize,
    /// Parts that were copied one by one.
    copied: usize,
}

impl Work {
    fn charge(&mut self, more: usize) -> Result<(), Cannot> {
        self.done = self.done.saturating_add(more);
        if self.done > WORK_MAX { Err(Cannot::Work) } else { Ok(()) }
    }

    /// Before a value of so many bytes is set.
    fn grow(&mut self, bytes: usize) -> Result<(), Cannot> {
        self.charge(bytes)?;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > 2 * BYTES_MAX { Err(Cannot::Work) } else { Ok(()) }
    }
}

impl<'b> Draft<'b> {
    /// Of a document.
    pub fn new(document: &'b Node<'b>) -> Self {
        let work = Work { done: 0, bytes: document.text().len(), copied: 0 };
        Draft { root: Part::Kept(document), work }
    }

    /// RFC 6902, 4.1.
    pub fn add(&mut self, path: &Pointer, value: &'b Node<'b>) -> Result<(), Cannot> {
        self.insert(path, Part::Kept(value))
    }

    fn insert(&mut self, path: &Pointer, value: Part<'b>) -> Result<(), Cannot> {
        self.admit(path, &value)?;
        let Some((above, last)) = path.split_back() else {
            self.root = value;
            return Ok(());
        };
        match self.open(above)? {
            (Part::Array(items), work) => {
                let at = index(&last)?.for_len_incl(items.len());
                let at = at.map_err(|_| Cannot::PastEnd(items.len()))?;
                work.charge(items.len() - at)?;
                items.insert(at, value);
            }
            (Part::Object(members), work) => {
                work.charge(members.len())?;
                set(members, last, value);
            }
            (Part::Kept(_) | Part::Text(_), _) => return Err(Cannot::Scalar),
        }
        Ok(())
    }

    /// RFC 6902, 4.2.
    pub fn remove(&mut self, path: &Pointer) -> Result<(), Cannot> {
        self.take(path).map(drop)
    }

    fn take(&mut self, path: &Pointer) -> Result<Part<'b>, Cannot> {
        let (above, last) = path.split_back().ok_or(Cannot::Root)?;
        match self.open(above)? {
            (Part::Array(items), work) => {
                let at = index(&last)?.for_len(items.len());
                let at = at.map_err(|_| Cannot::PastEnd(items.len()))?;
                work.charge(items.len() - at)?;
                Ok(items.remove(at))
            }
            (Part::Object(members), work) => {
                work.charge(members.len())?;
                let name = last.decoded();
                let at = members.iter().position(|member| member.name == name);
                Ok(members.remove(at.ok_or(Cannot::Missing)?).value)
            }
            (Part::Kept(_) | Part::Text(_), _) => Err(Cannot::Scalar),
        }
    }

    /// RFC 6902, 4.3.
    pub fn replace(&mut self, path: &Pointer, value: &'b Node<'b>) -> Result<(), Cannot> {
        self.admit(path, &Part::Kept(value))?;
        *self.slot(path)? = Part::Kept(value);
        Ok(())
    }

    /// RFC 6902, 4.4.
    pub fn relocate(&mut self, from: &Pointer, path: &Pointer) -> Result<(), Cannot> {
        find(&self.root, &mut self.work, from).map_err(Cannot::at_source)?;
        if from == path {
            return Ok(());
        }
        if path.starts_with(from) {
            return Err(Cannot::IntoItself);
        }
        let value = self.take(from)?;
        self.insert(path, value)
    }

    /// RFC 6902, 4.5.
    pub fn copy(&mut self, from: &Pointer, path: &Pointer) -> Result<(), Cannot> {
        let Draft { root, work } = self;
        let value = match find(root, work, from).map_err(Cannot::at_source)? {
            At::Node(node) => Part::Kept(node),
            At::Part(part) => {
                work.copied += part.count();
                if work.copied > NODES_MAX {
                    return Err(Cannot::Work);
                }
                part.clone()
            }
        };
        self.insert(path, value)
    }

    /// RFC 6902, 4.6.
    pub fn test(&mut self, path: &Pointer, value: &Node<'b>) -> Result<(), Cannot> {
        let same = match find(&self.root, &mut self.work, path) {
            Ok(At::Node(node)) => node.same(value),
            Ok(At::Part(part)) => part.same(value),
            Err(Cannot::Work) => return Err(Cannot::Work),
            Err(_) => false,
        };
        self.work.charge(value.text().len())?;
        if same { Ok(()) } else { Err(Cannot::Differs) }
    }

    /// Adds to an integer; what is not there, in an object that is, counts as 0.
    pub fn increment(&mut self, path: &Pointer, by: i64) -> Result<(), Cannot> {
        let found = match find(&self.root, &mut self.work, path) {
            Ok(At::Node(node)) => Some(node),
            Ok(At::Part(_)) => return Err(Cannot::NoInteger("a part of the patch")),
            Err(Cannot::Missing) => None,
            Err(why) => return Err(why),
        };
        let Some(node) = found else {
            return self.insert(path, Part::Text(by.to_string()));
        };
        let (was, tagged) = integer(node)?;
        let sum = was.checked_add(Amount::integer(by)).ok_or(Cannot::Overflow)?;
        let text = match (tagged, sum.to_i64()) {
            (true, Some(n)) => {
                let mut json = Vec::new();
                Cell::Integer(n).write_json(&mut json);
                String::from_utf8(json).expect("a cell's JSON is text")
            }
            (true, None) => return Err(Cannot::Overflow),
            (false, _) => sum.to_text().ok_or(Cannot::Overflow)?,
        };
        *self.slot(path)? = Part::Text(text);
        Ok(())
    }

    /// RFC 7396, 2.
    pub fn merge(&mut self, patch: &'b Node<'b>) {
        self.root.merge(patch);
    }

    /// The document's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.work.bytes.min(BYTES_MAX));
        self.root.write(&mut out);
        out
    }

    /// Refuses a value that would make the document too deep or too large.
    fn admit(&mut self, path: &Pointer, value: &Part<'b>) -> Result<(), Cannot> {
        self.work.grow(value.bytes())?;
        if path.count() + value.depth() > DEPTH_MAX { Err(Cannot::Deep) } else { Ok(()) }
    }

    /// The array or object at a place, opened for change.
    fn open(&mut self, path: &Pointer) -> Result<(&mut Part<'b>, &mut Work), Cannot> {
        let Draft { root, work } = self;
        let part = step_to(root, work, path).map_err(|why| match why {
            Cannot::Missing => Cannot::NoParent,
            why => why,
        })?;
        part.open(work)?;
        Ok((part, work))
    }

    /// What is at a place, to be replaced.
    fn slot(&mut self, path: &Pointer) -> Result<&mut Part<'b>, Cannot> {
        let Draft { root, work } = self;
        step_to(root, work, path)
    }
}

/// What is at a place, and is looked at only.
fn find<'d, 'b>(root: &'d Part<'b>, work: &mut Work, path: &Pointer) -> Result<At<'d, 'b>, Cannot> {
    let mut at = At::Part(root);
    for token in path.tokens() {
        if let At::Part(Part::Kept(node)) = at {
            at = At::Node(node);
        }
        at = match at {
            At::Node(node) => match node.shape() {
                Shape::Array(items) => At::Node(&items[nth(&token, items.len())?]),
                Shape::Object(members) => {
                    let found = members.find(&token.decoded());
                    At::Node(found.ok_or(Cannot::Missing)?)
                }
                Shape::Scalar => return Err(Cannot::Scalar),
            },
            At::Part(Part::Array(items)) => At::Part(&items[nth(&token, items.len())?]),
            At::Part(Part::Object(members)) => {
                work.charge(members.len())?;
                let name = token.decoded();
                let found = members.iter().find(|member| member.name == name);
                At::Part(&found.ok_or(Cannot::Missing)?.value)
            }
            At::Part(Part::Kept(_) | Part::Text(_)) => return Err(Cannot::Scalar),
        };
    }
    Ok(match at {
        At::Part(Part::Kept(node)) => At::Node(node),
        at => at,
    })
}

fn step_to<'d, 'b>(
    root: &'d mut Part<'b>,
    work: &mut Work,
    path: &Pointer,
) -> Result<&'d mut Part<'b>, Cannot> {
    let mut at = root;
    for token in path.tokens() {
        at.open(work)?;
        at = match at {
            Part::Array(items) => {
                let nth = nth(&token, items.len())?;
                &mut items[nth]
            }
            Part::Object(members) => {
                work.charge(members.len())?;
                let name = token.decoded();
                let found = members.iter_mut().find(|member| member.name == name);
                &mut found.ok_or(Cannot::Missing)?.value
            }
            Part::Kept(_) | Part::Text(_) => return Err(Cannot::Scalar),
        };
    }
    Ok(at)
}

enum At<'d, 'b> {
    Part(&'d Part<'b>),
    Node(&'b Node<'b>),
}

fn index(token: &Token<'_>) -> Result<jsonptr::index::Index, Cannot> {
    token.to_index().map_err(|_| Cannot::Index(token.decoded().into_owned()))
}

/// The place of an item that is there.
fn nth(token: &Token<'_>, items: usize) -> Result<usize, Cannot> {
    index(token)?.for_len(items).map_err(|_| Cannot::PastEnd(items))
}

/// An integer, and whether it is written as a cell that few readers of JSON keep exactly.
fn integer(node: &Node<'_>) -> Result<(Amount, bool), Cannot> {
    let whole = |text: &str| match text.contains(['.', 'e', 'E']) {
        true => Err(Cannot::NoInteger("a fraction")),
        false => Amount::of(text).ok_or(Cannot::Overflow),
    };
    if let Some(number) = node.number() {
        return whole(number).map(|amount| (amount, false));
    }
    let Some(members) = node.members() else {
        let found = match node.text().as_bytes()[0] {
            b'"' => "text",
            b'n' => "null",
            b'[' => "an array",
            _ => "a boolean",
        };
        return Err(Cannot::NoInteger(found));
    };
    let tagged = members.find("$integer").filter(|_| members.len() == 1).and_then(Node::string);
    let n = tagged.and_then(|text| text.parse::<i64>().ok());
    n.map(|n| (Amount::integer(n), true)).ok_or(Cannot::NoInteger("an object"))
}

fn set<'b>(members: &mut Vec<Member<'b>>, name: Token<'_>, value: Part<'b>) {
    let name = name.decoded();
    match members.iter_mut().find(|member| member.name == name) {
        Some(member) => member.value = value,
        None => {
            let spelled = serde_json::to_string(&name).expect("text serializes").into();
            members.push(Member { name: Cow::Owned(name.into_owned()), spelled, value });
        }
    }
}

impl<'b> Part<'b> {
    /// Takes a kept array or object apart by one level.
    fn open(&mut self, work: &mut Work) -> Result<(), Cannot> {
        let Part::Kept(node) = *self else { return Ok(()) };
        match node.shape() {
            Shape::Scalar => return Err(Cannot::Scalar),
            Shape::Array(items) => work.charge(items.len())?,
            Shape::Object(members) => work.charge(members.len())?,
        }
        *self = Part::opened(node);
        Ok(())
    }

    fn opened(node: &'b Node<'b>) -> Self {
        match node.shape() {
            Shape::Scalar => Part::Kept(node),
            Shape::Array(items) => Part::Array(items.iter().map(Part::Kept).collect()),
            Shape::Object(members) => {
                let opened = |member: &'b crate::json::Member<'b>| Member {
                    name: Cow::Borrowed(&member.name),
                    spelled: Cow::Borrowed(member.spelled),
                    value: Part::Kept(&member.value),
                };
                Part::Object(members.iter().map(opened).collect())
            }
        }
    }

    /// RFC 7396, 2: `MergePatch`. Both are as deep as a document may be, at most.
    fn merge(&mut self, patch: &'b Node<'b>) {
        let Some(changes) = patch.members() else {
            *self = Part::Kept(patch);
            return;
        };
        if let Part::Kept(node) = *self {
            *self = Part::opened(node);
        }
        let members = match std::mem::replace(self, Part::Object(Vec::new())) {
            Part::Object(members) => members,
            Part::Kept(_) | Part::Text(_) | Part::Array(_) => Vec::new(),
        };
        let places: BTreeMap<String, usize> = members
            .iter()
            .enumerate()
            .filter(|(_, member)| changes.find(&member.name).is_some())
            .map(|(at, member)| (member.name.clone().into_owned(), at))
            .collect();
        let mut members: Vec<Option<Member<'b>>> = members.into_iter().map(Some).collect();
        for change in changes.iter() {
            let place = places.get(&*change.name).copied();
            match (place, change.value.is_null()) {
                (None, true) => {}
                (Some(at), true) => members[at] = None,
                (Some(at), false) => {
                    let member = members[at].as_mut().expect("a patch has a name once");
                    member.value.merge(&change.value);
                }
                (None, false) => {
                    let mut value = Part::Text("null".to_owned());
                    value.merge(&change.value);
                    let (name, spelled) = (Cow::Borrowed(&*change.name), change.spelled.into());
                    members.push(Some(Member { name, spelled, value }));
                }
            }
        }
        *self = Part::Object(members.into_iter().flatten().collect());
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Part::Kept(node) => out.extend_from_slice(node.text().as_bytes()),
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Array(items) => {
                out.push(b'[');
                for (nth, item) in items.iter().enumerate() {
                    if nth > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Part::Object(members) => {
                out.push(b'{');
                for (nth, member) in members.iter().enumerate() {
                    if nth > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(member.spelled.as_bytes());
                    out.push(b':');
                    member.value.write(out);
                }
                out.push(b'}');
            }
        }
    }

    fn same(&self, node: &Node<'_>) -> bool {
        match self {
            Part::Kept(kept) => kept.same(node),
            Part::Text(text) => Node::parse(text.as_bytes()).is_ok_and(|part| part.same(node)),
            Part::Array(parts) => node.items().is_some_and(|items| {
                parts.len() == items.len() && parts.iter().zip(items).all(|(a, b)| a.same(b))
            }),
            Part::Object(parts) => node.members().is_some_and(|members| {
                let found = |part: &Member<'_>| {
                    members.find(&part.name).is_some_and(|value| part.value.same(value))
                };
                parts.len() == members.len() && parts.iter().all(found)
            }),
        }
    }

    /// Bytes that it is written with.
    fn bytes(&self) -> usize {
        match self {
            Part::Kept(node) => node.text().len(),
            Part::Text(text) => text.len(),
            Part::Array(items) => 2 + items.iter().map(|item| item.bytes() + 1).sum::<usize>(),
            Part::Object(members) => {
                let each = |member: &Member<'_>| member.spelled.len() + member.value.bytes() + 2;
                2 + members.iter().map(each).sum::<usize>()
            }
        }
    }

    /// Parts that a copy of it has.
    fn count(&self) -> usize {
        match self {
            Part::Kept(_) | Part::Text(_) => 1,
            Part::Array(items) => 1 + items.iter().map(Part::count).sum::<usize>(),
            Part::Object(members) => {
                1 + members.iter().map(|member| member.value.count()).sum::<usize>()
            }
        }
    }

    /// Levels of arrays and objects.
    fn depth(&self) -> usize {
        match self {
            Part::Kept(node) => node.depth(),
            Part::Text(_) => 0,
            Part::Array(items) => 1 + items.iter().map(Part::depth).max().unwrap_or(0),
            Part::Object(members) => {
                1 + members.iter().map(|member| member.value.depth()).max().unwrap_or(0)
            }
        }
    }
}
