//! The tree: a dataset's records in few numbers, so that two who keep them find where they differ.
//!
//! ```text
//! root ── 16 nodes ── 256 ── 4,096 ── 65,536 leaves        by the hash of the key, fan-out 16
//! node = how many records, and four wrapping sums of lanes of BLAKE3(key, history, hash)
//! ```
//!
//! Invariant: a node is the sum of the records below it, in whatever order they came. So a write
//! updates it in place (the old record taken away, the new one added), a parent is the sum of its
//! children, and its memory is bounded by the number of leaves, not of records. (Merkle's tree with
//! the incremental hashing of Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing:
//! Incrementality at Reduced Cost", 1997, in place of hashes of hashes.)
//!
//! Who holds a leaf's records, and how they are read, is left to the ledger and the stores.

use crate::version::{ContentHash, VersionVector};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// Children of a node.
pub const FAN_OUT: u32 = 16;
/// Levels below the root; the last is that of the leaves.
pub const DEPTH: u8 = 4;
/// Leaves of a tree.
pub const LEAVES: u32 = FAN_OUT.pow(DEPTH as u32);

/// The leaf that a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Leaf(pub u16);

impl Leaf {
    /// Of a key: the first sixteen bits of its hash.
    pub fn of(key: &str) -> Self {
        let hash = blake3::hash(key.as_bytes());
        let [high, low, ..] = *hash.as_bytes();
        Leaf(u16::from_be_bytes([high, low]))
    }

    /// As a node of its tree.
    pub fn node(self) -> Node {
        Node { depth: DEPTH, index: u32::from(self.0) }
    }
}

/// What one record adds to its leaf: 128 bits of the hash of its key and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub [u32; 4]);

/// What a digest is of takes no second allocation, nearly always.
const DIGESTED_BYTES_USUAL: usize = 256;

impl Digest {
    /// Of a version as rule V5 names it: by its history and the hash of its current value.
    pub fn of(key: &str, history: &VersionVector, hash: ContentHash) -> Self {
        Digest::over(key, history.iter().copied(), hash)
    }

    /// As [`Digest::of`], for a history that is kept in another form, in actor order.
    pub fn over(
        key: &str,
        history: impl Iterator<Item = (crate::version::Actor, u64)>,
        hash: ContentHash,
    ) -> Self {
        // The lengths keep a key's end apart from its history's beginning.
        let mut bytes = Vec::with_capacity(DIGESTED_BYTES_USUAL);
        bytes.extend_from_slice(&(key.len() as u64).to_le_bytes());
        bytes.extend_from_slice(key.as_bytes());
        for (actor, counter) in history {
            let mut entry = [0; 18];
            entry[..2].copy_from_slice(&actor.node.0.to_le_bytes());
            entry[2..10].copy_from_slice(&actor.incarnation.to_le_bytes());
            entry[10..].copy_from_slice(&counter.to_le_bytes());
            bytes.extend_from_slice(&entry);
        }
        bytes.extend_from_slice(&hash.0);
        let hashed = blake3::hash(&bytes);
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(hashed.as_bytes().chunks_exact(4)) {
            *lane = u32::from_le_bytes(bytes.try_into().expect("chunks of four"));
        }
        Digest(lanes)
    }
}

/// A sum over records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// How many.
    pub count: u32,
    /// Of their digests, each wrapping at 32 bits.
    pub lanes: [u32; 4],
}

impl Sums {
    /// A record came.
    pub fn add(&mut self, digest: Digest) {
        self.join(Sums { count: 1, lanes: digest.0 });
    }

    /// A record went.
    pub fn take(&mut self, digest: Digest) {
        self.count = self.count.wrapping_sub(1);
        for (sum, lane) in self.lanes.iter_mut().zip(digest.0) {
            *sum = sum.wrapping_sub(lane);
        }
    }

    /// The records of both.
    pub fn join(&mut self, other: Sums) {
        self.count = self.count.wrapping_add(other.count);
        for (sum, lane) in self.lanes.iter_mut().zip(other.lanes) {
            *sum = sum.wrapping_add(lane);
        }
    }
}

/// A place in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "(u8, u32)", into = "(u8, u32)")]
pub struct Node {
    depth: u8,
    index: u32,
}

impl TryFrom<(u8, u32)> for Node {
    type Error = &'static str;
    fn try_from((depth, index): (u8, u32)) -> Result<Self, Self::Error> {
        if depth > DEPTH || index >= FAN_OUT.pow(u32::from(depth)) {
            return Err("a node is (level, place): level 0 to 4, place below 16^level");
        }
        Ok(Node { depth, index })
    }
}

impl From<Node> for (u8, u32) {
    fn from(node: Node) -> Self {
        (node.depth, node.index)
    }
}

impl Node {
    /// Of all records.
    pub const ROOT: Node = Node { depth: 0, index: 0 };

    /// The leaf that it is, if it is one.
    pub fn leaf(self) -> Option<Leaf> {
        (self.depth == DEPTH).then(|| Leaf(u16::try_from(self.index).expect("16^4 leaves")))
    }

    /// Its children, in order; a leaf has none.
    pub fn children(self) -> impl Iterator<Item = Node> {
        let of_inner = if self.depth < DEPTH { FAN_OUT } else { 0 };
        (0..of_inner).map(move |n| Node { depth: self.depth + 1, index: self.index * FAN_OUT + n })
    }

    /// The first and the last leaf below it.
    pub fn leaves(self) -> (Leaf, Leaf) {
        let width = FAN_OUT.pow(u32::from(DEPTH - self.depth));
        let leaf = |index: u32| Leaf(u16::try_from(index).expect("16^4 leaves"));
        (leaf(self.index * width), leaf(self.index * width + (width - 1)))
    }
}

/// A node with its sums: what those who compare trees tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Where.
    pub node: Node,
    /// What is below it.
    pub sums: Sums,
}

/// The tree of one dataset. Leaves without records take no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Leaves by the high half of their number.
    blocks: BTreeMap<u8, Block>,
    root: Sums,
}

/// Up to 256 leaves, by the low half of their number. Few records have a leaf each: two dense arrays are a
/// third smaller than a map's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    places: Vec<u8>,
    sums: Vec<Sums>,
}

impl Block {
    /// Which of its leaves stand from `first` to `last`; none, where that is before it.
    fn range(&self, first: u8, last: u8) -> Range<usize> {
        let from = self.places.partition_point(|place| *place < first);
        from..self.places.partition_point(|place| *place <= last).max(from)
    }

    /// Where a leaf stands, which is made where there is none.
    fn at(&mut self, place: u8) -> usize {
        match self.places.binary_search(&place) {
            Ok(at) => at,
            Err(at) => {
                if self.places.len() == self.places.capacity() {
                    // By an eighth: most blocks are as large as the others, and stay so.
                    let more = self.places.len() / 8 + 4;
                    self.places.reserve_exact(more);
                    self.sums.reserve_exact(more);
                }
                self.places.insert(at, place);
                self.sums.insert(at, Sums::default());
                at
            }
        }
    }
}

/// What a comparison of [`Summary`]s has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differing {
    /// Nodes that differ and have children: those are to be asked for next.
    pub below: Vec<Node>,
    /// Leaves that differ: their records are to be read.
    pub leaves: Vec<Leaf>,
}

impl Tree {
    /// The version of a record of this leaf changed: `before` is the digest that it had here, `after` the one that
    /// it has now.
    pub fn update(&mut self, leaf: Leaf, before: Option<Digest>, after: Option<Digest>) {
        if before == after {
            return;
        }
        let [high, low] = leaf.0.to_be_bytes();
        let block = self.blocks.entry(high).or_default();
        let at = block.at(low);
        for sums in [&mut self.root, &mut block.sums[at]] {
            before.into_iter().for_each(|before| sums.take(before));
            after.into_iter().for_each(|after| sums.add(after));
        }
        if block.sums[at].count == 0 {
            block.places.remove(at);
            block.sums.remove(at);
            if block.places.is_empty() {
                self.blocks.remove(&high);
            }
        }
    }

    /// The leaves from `first` to `last` that have records, in order.
    fn range(&self, first: Leaf, last: Leaf) -> impl Iterator<Item = (Leaf, Sums)> {
        let ([high, low], [high_last, low_last]) = (first.0.to_be_bytes(), last.0.to_be_bytes());
        let blocks = (high <= high_last).then(|| self.blocks.range(high..=high_last));
        blocks.into_iter().flatten().flat_map(move |(&of, block)| {
            let first = if of == high { low } else { u8::MIN };
            let last = if of == high_last { low_last } else { u8::MAX };
            let range = block.range(first, last);
            let leaf = move |place: &u8| Leaf(u16::from_be_bytes([of, *place]));
            block.places[range.clone()].iter().map(leaf).zip(block.sums[range].iter().copied())
        })
    }

    /// Of all records.
    pub fn root(&self) -> Summary {
        Summary { node: Node::ROOT, sums: self.root }
    }

    /// Of one node.
    pub fn sums(&self, node: Node) -> Sums {
        if node == Node::ROOT {
            return self.root;
        }
        let (first, last) = node.leaves();
        let mut sums = Sums::default();
        self.range(first, last).for_each(|(_, leaf)| sums.join(leaf));
        sums
    }

    /// Of a node's children, in order; none for a leaf.
    pub fn children(&self, node: Node) -> Vec<Summary> {
        node.children().map(|node| Summary { node, sums: self.sums(node) }).collect()
    }

    /// The leaves that have records, in order.
    pub fn leaves(&self) -> impl Iterator<Item = (Leaf, Sums)> {
        self.range(Leaf(0), Leaf(u16::MAX))
    }

    /// Holds what another tree's nodes are said to be against this one's. From the root down,
    /// asking for the children of [`Differing::below`] each time, this ends at the leaves that
    /// differ after at most one round a level.
    pub fn differing(&self, theirs: &[Summary]) -> Differing {
        let mut differing = Differing::default();
        for theirs in theirs {
            if self.sums(theirs.node) == theirs.sums {
                continue;
            }
            match theirs.node.leaf() {
                Some(leaf) => differing.leaves.push(leaf),
                None => differing.below.push(theirs.node),
            }
        }
        differing
    }

    /// The leaves that differ from a complete list of another's, in order.
    pub fn differing_leaves(&self, theirs: impl IntoIterator<Item = (Leaf, Sums)>) -> Vec<Leaf> {
        self.differing_within(None, None, theirs)
    }

    /// As [`Tree::differing_leaves`], of a page that lists the leaves after `after`, up to `through`.
    pub fn differing_within(
        &self,
        after: Option<Leaf>,
        through: Option<Leaf>,
        theirs: impl IntoIterator<Item = (Leaf, Sums)>,
    ) -> Vec<Leaf> {
        let mut differing = Vec::new();
        let first = after.map_or(Some(Leaf(0)), |Leaf(after)| after.checked_add(1).map(Leaf));
        let last = through.unwrap_or(Leaf(u16::MAX));
        let ours = first.into_iter().flat_map(|first| self.range(first, last));
        let mut ours = ours.peekable();
        for (leaf, sums) in theirs {
            while let Some((before, _)) = ours.next_if(|(ours, _)| *ours < leaf) {
                differing.push(before);
            }
            let here = ours.next_if(|(ours, _)| *ours == leaf).map(|(_, sums)| sums);
            if here.unwrap_or_default() != sums {
                differing.push(leaf);
            }
        }
        differing.extend(ours.map(|(leaf, _)| leaf));
        differing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, Dot, NodeId};
    use proptest::prelude::*;

    fn digest(key: &str, counter: u64) -> Digest {
        let mut history = VersionVector::new();
        let actor = Actor { node: NodeId(1), incarnation: 7 };
        history.include(Dot { actor, counter });
        Digest::of(key, &history, ContentHash::of(b"v"))
    }

    fn built(records: &BTreeMap<String, u64>) -> Tree {
        let mut tree = Tree::default();
        for (key, counter) in records {
            tree.update(Leaf::of(key), None, Some(digest(key, *counter)));
        }
        tree
    }

    /// As two peers would: summaries go over, differing nodes come back.
    fn descend(ours: &Tree, theirs: &Tree) -> (Vec<Leaf>, usize) {
        let (mut leaves, mut asked, mut rounds) = (Vec::new(), vec![theirs.root()], 0);
        while !asked.is_empty() {
            rounds += 1;
            let differing = ours.differing(&asked);
            leaves.extend(differing.leaves);
            asked = differing.below.iter().flat_map(|node| theirs.children(*node)).collect();
        }
        (leaves, rounds)
    }

    #[test]
    fn every_part_of_a_version_counts() {
        let actor = |node| Actor { node: NodeId(node), incarnation: 7 };
        let history = |entries: &[(u16, u64)]| -> VersionVector {
            entries.iter().map(|&(node, counter)| (actor(node), counter)).collect()
        };
        let hash = ContentHash::of(b"v");
        let base = Digest::of("k", &history(&[(1, 1)]), hash);
        for other in [
            Digest::of("l", &history(&[(1, 1)]), hash),
            Digest::of("k", &history(&[(1, 2)]), hash),
            Digest::of("k", &history(&[(2, 1)]), hash),
            Digest::of("k", &history(&[(1, 1), (2, 1)]), hash),
            Digest::of("k", &history(&[(1, 1)]), ContentHash::of(b"w")),
        ] {
            assert_ne!(other, base);
        }
        assert_eq!(Digest::of("k", &history(&[(1, 1)]), hash), base);
    }

    #[test]
    fn nodes_are_their_childrens_sums_down_to_the_leaves() {
        let tree = built(&(0..500).map(|n| (format!("key-{n}"), n)).collect());
        let mut nodes = vec![Node::ROOT];
        let mut leaves = 0;
        while let Some(node) = nodes.pop() {
            let sums = tree.sums(node);
            if node.leaf().is_some() {
                leaves += 1;
                continue;
            }
            let mut joined = Sums::default();
            tree.children(node).iter().for_each(|child| joined.join(child.sums));
            assert_eq!(joined, sums);
            nodes.extend(node.children());
        }
        assert_eq!((leaves, tree.root().sums.count), (LEAVES, 500));
        assert!(tree.children(Leaf(7).node()).is_empty());
    }

    #[test]
    fn what_is_no_node_is_refused_when_read() {
        let text = serde_json::to_string(&Leaf(65_535).node()).unwrap();
        assert_eq!(serde_json::from_str::<Node>(&text).unwrap(), Leaf(65_535).node());
        for wrong in ["[5,0]", "[0,1]", "[4,65536]", "[255,4294967295]", "[1]"] {
            assert!(serde_json::from_str::<Node>(wrong).is_err(), "{wrong}");
        }
    }

    fn records() -> impl Strategy<Value = BTreeMap<String, u64>> {
        proptest::collection::btree_map("[a-f]{1,3}", 1u64..4, 0..60)
    }

    proptest! {
        #[test]
        fn updates_in_any_order_give_what_building_anew_does(
            before in records(), after in records(), back in any::<bool>(),
        ) {
            let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
            keys.dedup();
            if back {
                keys.reverse();
            }
            let mut tree = built(&before);
            let mut done = std::collections::BTreeSet::new();
            for key in keys {
                if done.insert(key) {
                    let of = |records: &BTreeMap<String, u64>| {
                        records.get(key).map(|counter| digest(key, *counter))
                    };
                    tree.update(Leaf::of(key), of(&before), of(&after));
                }
            }
            prop_assert_eq!(tree, built(&after));
        }

        #[test]
        fn any_range_of_leaves_is_what_stands_between_its_ends(
            records in records(), after in any::<u16>(), through in any::<u16>(),
        ) {
            let tree = built(&records);
            let between = |leaf: &Leaf| leaf.0 > after && leaf.0 <= through;
            let expected: Vec<Leaf> = tree.leaves().map(|(leaf, _)| leaf).filter(between).collect();
            let found = tree.differing_within(Some(Leaf(after)), Some(Leaf(through)), []);
            prop_assert_eq!(found, expected);
            let all: std::collections::BTreeSet<Leaf> = records.keys().map(|k| Leaf::of(k)).collect();
            prop_assert!(tree.leaves().map(|(leaf, _)| leaf).eq(all));
        }

        #[test]
        fn exactly_the_leaves_that_differ_are_found(ours in records(), theirs in records()) {
            let differs = |key: &&String| ours.get(*key) != theirs.get(*key);
            let mut expected: Vec<Leaf> =
                ours.keys().chain(theirs.keys()).filter(differs).map(|key| Leaf::of(key)).collect();
            expected.sort();
            expected.dedup();
            let (ours, theirs) = (built(&ours), built(&theirs));
            prop_assert_eq!(&ours.differing_leaves(theirs.leaves()), &expected);
            let middle = Leaf(0x8000);
            let (low, high): (Vec<_>, Vec<_>) =
                theirs.leaves().partition(|(leaf, _)| *leaf <= middle);
            let mut paged = ours.differing_within(None, Some(middle), low);
            paged.extend(ours.differing_within(Some(middle), None, high));
            prop_assert_eq!(&paged, &expected);
            let (found, rounds) = descend(&ours, &theirs);
            prop_assert_eq!(found, expected);
            prop_assert!(rounds <= usize::from(DEPTH) + 1);
        }
    }
}
