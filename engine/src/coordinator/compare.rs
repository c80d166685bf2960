//! Comparing trees with another site, from the roots down: only what differs is read.
//!
//! ```text
//! roots ──> children of the nodes that differ ──> … ──> versions of the leaves that differ
//!       └─ where their ledger had come to in their feed: it is followed from there
//! ```
//!
//! A site that starts, was away for long, or whose place in another's feed is lost would read all of
//! that feed for the few records that it lacks; and whatever a feed did not show, nobody would miss.
//! So a feed that is longer than a page is not read from its beginning: trees are compared first. And
//! in its turn with a dataset a coordinator compares the trees of that dataset with every other site.
//!
//! Invariant: what stands at the other site up to the place `at` of its feed, and is not superseded
//! there by something behind it, is in the authority here, or was asked for. Every answer comes from a
//! ledger that had come to `at` or further: an older one could hide a difference that the feed does
//! not show again.
//!
//! Sites differ rightly for a while, or for long, and then the versions of some leaves are read in
//! vain, never the values: what is on its way; a value whose time has passed here and not there (same
//! history); a tombstone that one of them has reaped and the other not (at or below its floor, so
//! nothing at all); what the authority here refuses for good (it waits as a dead letter). A version
//! that lives there although its tombstone was reaped here is asked for, and buried (rule A6).

use super::Coordinator;
use super::exchange::NotNow;
use crate::env::{Env, Network, Outcome, PeerMessage, PeerReply, RowStore, Storage, Wanted};
use crate::record::{Key, RecordId, StoreId};
use crate::resolve;
use crate::row::{Change, Seq};
use crate::tree::{FAN_OUT, Leaf, Node, Sums, Tree};
use crate::version::{NodeId, SiteId};
use std::sync::Arc;
use std::time::Duration;

/// Nodes whose children one message asks for; each has sixteen, of some thirty bytes.
pub(super) const NODES_MAX: usize = 64;
/// Leaves whose rows one message asks for.
pub(super) const LEAVES_MAX: usize = 64;
/// Rows in one answer.
const PAGE_ROWS: usize = 500;
/// An answer ends after this; the rest is asked for again.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Leaves that one look reads of one site; the next one goes on behind them.
const LEAVES_A_LOOK: usize = 256;

/// How far a comparison has come. Its memory is bounded by the fan-out and the depth of a tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    /// Where the other site's ledger had come to when the roots were compared.
    at: Seq,
    /// Those that are still to be compared.
    datasets: Vec<Arc<str>>,
    /// The one that is being compared.
    dataset: Option<Arc<str>>,
    /// Nodes of it that differ, the first one last.
    below: Vec<Node>,
    /// Leaves of it that differ and are to be read before the nodes in `below`.
    leaves: Vec<Leaf>,
    /// The first of them was read up to this key.
    after: Option<Key>,
    /// Leaves up to here are left out.
    past: Option<Leaf>,
    /// Leaves that were read, and the last of them.
    read: usize,
    last: Option<Leaf>,
    /// Somebody answered whose ledger is behind the first answer.
    stale: bool,
}

/// What is to be asked next.
enum Ask {
    Children(Arc<str>, Vec<Node>),
    Leaves(Arc<str>, Vec<Leaf>, Option<Key>),
}

impl Comparison {
    /// Of these datasets; `past`: where an earlier one stopped.
    fn of(at: Seq, datasets: Vec<Arc<str>>, past: Option<Leaf>) -> Self {
        Comparison { at, datasets, past, ..Comparison::default() }
    }

    fn next(&mut self) -> Option<Ask> {
        loop {
            if let Some(dataset) = &self.dataset {
                if !self.leaves.is_empty() {
                    let leaves = self.leaves.iter().take(LEAVES_MAX).copied().collect();
                    return Some(Ask::Leaves(dataset.clone(), leaves, self.after.clone()));
                }
                if !self.below.is_empty() {
                    let from = self.below.len().saturating_sub(NODES_MAX);
                    let nodes = self.below[from..].iter().rev().copied().collect();
                    return Some(Ask::Children(dataset.clone(), nodes));
                }
            }
            self.dataset = Some(self.datasets.pop()?);
            self.below.push(Node::ROOT);
        }
    }

    /// The sums of the children of the `asked` last nodes below.
    fn heard(&mut self, asked: &[Node], sums: &[Sums], ours: &Tree) {
        self.below.truncate(self.below.len() - asked.len());
        let children = asked.iter().flat_map(|node| node.children());
        let past = self.past;
        let differs = |(node, sums): &(Node, &Sums)| {
            past.is_none_or(|past| node.leaves().1 > past) && ours.sums(*node) != **sums
        };
        let differing: Vec<Node> =
            children.zip(sums).filter(differs).map(|(node, _)| node).collect();
        self.leaves.extend(differing.iter().filter_map(|node| node.leaf()));
        self.below.extend(differing.iter().rev().filter(|node| node.leaf().is_none()));
    }

    /// The first `through` of the leaves were read; of the one after them, what comes up to `after`.
    fn read(&mut self, through: usize, after: Option<Key>) {
        self.read += through;
        self.last = self.leaves.drain(..through.min(self.leaves.len())).next_back().or(self.last);
        self.after = after;
    }
}

impl<E: Env> Coordinator<E> {
    /// Compares all trees with a site whose feed is not followed yet. Gives where to follow it from.
    pub(super) async fn compare_all(
        &self,
        site: SiteId,
        from: NodeId,
        begun: &mut Option<Comparison>,
    ) -> Result<Seq, NotNow> {
        if begun.is_none() {
            self.know_floors().await?;
            let (at, differing) = self.differing_roots(from, None).await?;
            *begun = Some(Comparison::of(at, differing, None));
        }
        let comparison = begun.as_mut().expect("it has begun");
        loop {
            match self.compare_on(site, from, comparison, None).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(NotNow) => {
                    // Or its feed is not the one that it was.
                    if comparison.stale {
                        *begun = None;
                    }
                    return Err(NotNow);
                }
            }
        }
        let at = comparison.at;
        *begun = None;
        self.state().counters.trees_compared += 1;
        Ok(at)
    }

    /// Asks for the floors that were not seen yet: what is below them is dead, and not lacked.
    async fn know_floors(&self) -> Result<(), NotNow> {
        let unknown: Vec<Arc<str>> = {
            let state = self.state();
            let datasets = state.policy.datasets.keys();
            datasets.filter(|dataset| !state.reaping.knows_floor(dataset)).cloned().collect()
        };
        for dataset in unknown {
            let record = RecordId { dataset: dataset.clone(), key: Key::from("") };
            let floor = self.floor(&record).await.ok_or(NotNow)?;
            self.state().reaping.note_floor(dataset, floor);
        }
        Ok(())
    }

    /// Compares a dataset's tree with those of all other sites, as far as their feeds count as
    /// followed: what differs there is what a feed did not show.
    pub(super) async fn compare_with_sites(&self, dataset: &Arc<str>) {
        let followed: Vec<(SiteId, Seq)> = {
            let state = self.state();
            let followed = state.sites.iter();
            followed.filter_map(|(site, followed)| Some((*site, followed.up_to()?))).collect()
        };
        for (site, through) in followed {
            let peers = self.env.network().peers().into_iter();
            let members: Vec<NodeId> =
                peers.filter(|peer| peer.site == site).map(|peer| peer.node).collect();
            let Some(turn) = usize::from(self.actor.node.0).checked_rem(members.len()) else {
                continue;
            };
            let past = self.state().sites.get(&site).and_then(|f| f.compared(dataset));
            let compared = self.compare_tree(site, members[turn], dataset, past, through).await;
            match compared {
                Ok(past) => {
                    let mut state = self.state();
                    state.counters.trees_compared += 1;
                    if let Some(followed) = state.sites.get_mut(&site) {
                        followed.note_compared(dataset, past);
                    }
                }
                Err(NotNow) => {
                    tracing::debug!(%dataset, %site, "its tree could not be compared now");
                }
            }
        }
    }

    /// Compares one tree, as far as one look does. Gives where the next one goes on; `None`: at the
    /// beginning.
    async fn compare_tree(
        &self,
        site: SiteId,
        from: NodeId,
        dataset: &Arc<str>,
        past: Option<Leaf>,
        through: Seq,
    ) -> Result<Option<Leaf>, NotNow> {
        let (at, differing) = self.differing_roots(from, Some(dataset)).await?;
        let mut comparison = Comparison::of(at, differing, past);
        while self.compare_on(site, from, &mut comparison, Some(through)).await? {
            if comparison.read >= LEAVES_A_LOOK {
                return Ok(comparison.last);
            }
        }
        Ok(None)
    }

    /// The datasets kept here whose roots differ from the other site's, and where its ledger is.
    async fn differing_roots(
        &self,
        from: NodeId,
        only: Option<&Arc<str>>,
    ) -> Result<(Seq, Vec<Arc<str>>), NotNow> {
        let asked = self.env.network().request(from, PeerMessage::Roots).await;
        let Outcome::Applied(PeerReply::Roots { at, roots }) = asked else { return Err(NotNow) };
        let state = self.state();
        if !state.ledger.is_complete() {
            return Err(NotNow);
        }
        let differs = |(dataset, sums): (Arc<str>, Sums)| {
            let kept = state.policy.datasets.contains_key(&dataset);
            let wanted = only.is_none_or(|only| *only == dataset);
            let ours = state.ledger.tree(&dataset).map(|tree| tree.root().sums);
            (kept && wanted && ours.unwrap_or_default() != sums).then_some(dataset)
        };
        Ok((at, roots.into_iter().filter_map(differs).collect()))
    }

    /// One question and its answer. False: nothing is left to be asked. With `through`, what stands
    /// behind that place of their feed is left to the feed.
    async fn compare_on(
        &self,
        site: SiteId,
        from: NodeId,
        comparison: &mut Comparison,
        through: Option<Seq>,
    ) -> Result<bool, NotNow> {
        let Some(ask) = comparison.next() else { return Ok(false) };
        match ask {
            Ask::Children(dataset, nodes) => {
                let message =
                    PeerMessage::Children { dataset: dataset.clone(), nodes: nodes.clone() };
                let asked = self.env.network().request(from, message).await;
                let Outcome::Applied(PeerReply::Children { at, sums }) = asked else {
                    return Err(NotNow);
                };
                if sums.len() != nodes.len() * FAN_OUT as usize {
                    return Err(NotNow);
                }
                if at < comparison.at {
                    comparison.stale = true;
                    return Err(NotNow);
                }
                let state = self.state();
                if !state.ledger.is_complete() {
                    return Err(NotNow);
                }
                let none = Tree::default();
                comparison.heard(&nodes, &sums, state.ledger.tree(&dataset).unwrap_or(&none));
            }
            Ask::Leaves(dataset, leaves, after) => {
                let asked = leaves.len();
                let message = PeerMessage::Leaves { dataset, leaves, after };
                let answer = self.env.network().request(from, message).await;
                let Outcome::Applied(PeerReply::Leaves { changes, through: read, after }) = answer
                else {
                    return Err(NotNow);
                };
                if read > asked || (read == 0 && after.is_none()) {
                    return Err(NotNow);
                }
                let missed = through.is_some();
                let changes =
                    changes.into_iter().filter(|c| through.is_none_or(|through| c.seq <= through));
                let wanted = self.lacking_of_leaves(changes)?;
                {
                    let mut state = self.state();
                    state.counters.site_leaves_read += read as u64;
                    if missed {
                        state.counters.missed_by_feeds += wanted.len() as u64;
                    }
                }
                self.fetch_and_adopt(site, from, wanted).await?;
                comparison.read(read, after);
            }
        }
        Ok(true)
    }

    /// Of what stands in leaves of another site that differ, what is to be asked for.
    fn lacking_of_leaves(
        &self,
        changes: impl Iterator<Item = Change>,
    ) -> Result<Vec<Wanted>, NotNow> {
        let state = self.state();
        if !state.ledger.is_complete() {
            return Err(NotNow);
        }
        let lacking = |change: Change| {
            let theirs = change.version.filter(|_| !change.foreign)?;
            let known = state.ledger.known(&change.record)?.version;
            let record = &change.record;
            let waits = |slot: &super::Slot| {
                let mut adoptions = slot.adoptions.iter();
                adoptions.any(|adoption| adoption.held.version.includes(&theirs))
            };
            // Dead here, and no more than dead there.
            let reaped = theirs.current().deleted
                && known.is_none()
                && state.reaping.is_below_floor(&record.dataset, &theirs.history);
            let current = known.as_ref().map(|known| known.current().dot);
            let covered = known.as_ref().is_some_and(|known| known.includes(&theirs));
            let known = resolve::history_of(known.as_ref());
            let waits = state.slots.get(record).is_some_and(|slot| waits(slot));
            let lacking = !covered && !reaped && !waits;
            lacking.then_some(Wanted { record: change.record, known, current })
        };
        Ok(changes.filter_map(lacking).collect())
    }

    /// The roots of the trees here, for another site.
    pub(super) fn give_roots(&self) -> PeerReply {
        let state = self.state();
        if !state.ledger.is_complete() {
            return PeerReply::Unavailable("its ledger is not complete".to_owned());
        }
        let root = |dataset: &Arc<str>| {
            let root = state.ledger.tree(dataset).map(|tree| tree.root().sums);
            (dataset.clone(), root.unwrap_or_default())
        };
        let roots = state.policy.datasets.keys().map(root).collect();
        PeerReply::Roots { at: state.ledger.cursor(), roots }
    }

    /// The children of some nodes of a tree here, for another site.
    pub(super) fn give_children(&self, dataset: &str, nodes: &[Node]) -> PeerReply {
        if nodes.len() > NODES_MAX || nodes.iter().any(|node| node.leaf().is_some()) {
            return PeerReply::Unavailable(format!("at most {NODES_MAX} nodes with children"));
        }
        let state = self.state();
        if !state.ledger.is_complete() {
            return PeerReply::Unavailable("its ledger is not complete".to_owned());
        }
        let none = Tree::default();
        let tree = state.ledger.tree(dataset).unwrap_or(&none);
        let sums = nodes.iter().flat_map(|node| node.children()).map(|node| tree.sums(node));
        PeerReply::Children { at: state.ledger.cursor(), sums: sums.collect() }
    }

    /// What stands in some leaves here, from the authority, for another site.
    pub(super) async fn give_leaves(
        &self,
        dataset: &str,
        leaves: &[Leaf],
        after: Option<Key>,
    ) -> PeerReply {
        if leaves.len() > LEAVES_MAX {
            return PeerReply::Unavailable(format!("at most {LEAVES_MAX} leaves"));
        }
        let late = self.now() + ANSWER_WITHIN;
        let (mut changes, mut after, mut through) = (Vec::new(), after, 0);
        for leaf in leaves {
            let room = PAGE_ROWS - changes.len();
            let d1 = self.env.storage().d1();
            let read = match self.not_held(StoreId::D1) {
                Ok(()) => d1.leaf_rows(dataset, *leaf, after.as_deref(), room).await,
                Err(held) => Err(held),
            };
            let rows = match read {
                Ok(rows) => rows,
                Err(error) if through == 0 && changes.is_empty() => {
                    return PeerReply::Unavailable(error.to_string());
                }
                Err(_) => break,
            };
            let full = rows.len() == room;
            after = rows.last().filter(|_| full).map(|last| last.record.key.clone());
            changes.extend(rows);
            if full {
                break;
            }
            through += 1;
            if self.now() >= late {
                break;
            }
        }
        PeerReply::Leaves { changes, through, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Digest;
    use crate::version::{Actor, ContentHash, Dot, VersionVector};
    use std::collections::BTreeSet;

    fn tree(records: u64, differing: &BTreeSet<u64>) -> Tree {
        let mut tree = Tree::default();
        for n in 0..records {
            let counter = if differing.contains(&n) { records + n } else { n } + 1;
            let actor = Actor { node: NodeId(1), incarnation: 7 };
            let mut history = VersionVector::new();
            history.include(Dot { actor, counter });
            let key = format!("key-{n}");
            let digest = Digest::of(&key, &history, ContentHash::of(b"v"));
            tree.update(Leaf::of(&key), None, Some(digest));
        }
        tree
    }

    /// Asks `theirs` until nothing is left; gives the leaves that were read and how many messages that
    /// took. `most`: leaves after which to stop, where the next one goes on.
    fn compare(ours: &Tree, theirs: &Tree, past: Option<Leaf>, most: usize) -> (Vec<Leaf>, usize) {
        let mut comparison = Comparison::of(Seq(1), vec![Arc::from("d")], past);
        let (mut read, mut messages) = (Vec::new(), 0);
        while comparison.read < most
            && let Some(ask) = comparison.next()
        {
            messages += 1;
            assert!(comparison.below.len() + comparison.leaves.len() <= NODES_MAX * 16 * 4);
            match ask {
                Ask::Children(_, nodes) => {
                    assert!(nodes.len() <= NODES_MAX);
                    let children = nodes.iter().flat_map(|node| node.children());
                    let sums: Vec<Sums> = children.map(|node| theirs.sums(node)).collect();
                    comparison.heard(&nodes, &sums, ours);
                }
                Ask::Leaves(_, leaves, after) => {
                    assert!(leaves.len() <= LEAVES_MAX && after.is_none());
                    // An answer that ends early is asked for again.
                    let some = leaves.len().div_ceil(2);
                    read.extend(&leaves[..some]);
                    comparison.read(some, None);
                }
            }
        }
        (read, messages)
    }

    #[test]
    fn only_leaves_that_differ_are_read_and_messages_go_with_them() {
        let mut messages = Vec::new();
        for records in [2_000, 20_000, 100_000] {
            let differing: BTreeSet<u64> = (0..50).map(|n| n * (records / 50)).collect();
            let (ours, theirs) = (tree(records, &differing), tree(records, &BTreeSet::new()));
            let (read, asked) = compare(&ours, &theirs, None, usize::MAX);
            let key = |n: &u64| Leaf::of(&format!("key-{n}"));
            let expected: BTreeSet<Leaf> = differing.iter().map(key).collect();
            assert_eq!(read, expected.into_iter().collect::<Vec<_>>(), "each once, in order");
            messages.push(asked);
        }
        assert!(messages.iter().all(|asked| *asked < 30), "{messages:?}");
    }

    #[test]
    fn one_that_stopped_is_gone_on_with_behind_what_it_read() {
        let differing: BTreeSet<u64> = (0..300).collect();
        let (ours, theirs) = (tree(2_000, &differing), tree(2_000, &BTreeSet::new()));
        let (all, _) = compare(&ours, &theirs, None, usize::MAX);
        let (some, _) = compare(&ours, &theirs, None, 100);
        assert!(some.len() >= 100 && some.len() < all.len());
        let (rest, _) = compare(&ours, &theirs, some.last().copied(), usize::MAX);
        assert_eq!([some, rest].concat(), all);
    }

    #[test]
    fn equal_trees_take_no_question_but_for_the_roots() {
        let tree = tree(500, &BTreeSet::new());
        assert_eq!(Comparison::of(Seq(1), Vec::new(), None).next().map(|_| ()), None);
        let (read, messages) = compare(&tree, &tree, None, usize::MAX);
        assert_eq!((read.len(), messages), (0, 1));
    }
}
