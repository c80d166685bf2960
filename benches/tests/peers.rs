//! What it takes a site to catch up goes with what differs, not with what is there.

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tidelock_benches::Memory;
use tidelock_engine::coordinator::Coordinator;
use tidelock_engine::env::Peer;
use tidelock_engine::policy::{Dataset, Pace, Policy};
use tidelock_engine::record::{RecordId, Stored};
use tidelock_engine::resolve::sibling;
use tidelock_engine::row::Seq;
use tidelock_engine::version::{Actor, Dot, NodeId, SiteId, Stamp, Version};

/// Records that differ.
const DIFFERING: u64 = 20;

fn filled(site: SiteId, records: u64) -> Memory {
    let memory = Memory::at(site);
    let holder = Actor { node: NodeId(7), incarnation: 7 };
    for n in 0..records {
        let newer = site == SiteId(0) && n % (records / DIFFERING) == 0;
        let counter = if newer { records + n } else { n } + 1;
        let value = Stored::Inline(Bytes::from(format!("{counter}")));
        let written =
            sibling(Dot { actor: holder, counter }, Stamp { wall_ms: 9, logical: 0 }, &value);
        let record = RecordId { dataset: Arc::from("bench"), key: format!("k{n}").into() };
        memory.install(record, Version::write(&Default::default(), written), value);
    }
    memory
}

async fn start(memory: &Memory, node: NodeId) -> Arc<Coordinator<Memory>> {
    let dataset = Dataset { reconcile_every: None, ..Dataset::everywhere("bench") };
    let pace = Pace {
        poll: Duration::from_millis(10),
        poll_min: Duration::from_millis(10),
        feed_page: 100,
        ..Pace::default()
    };
    let started = Coordinator::start(memory.clone(), node, Policy::new([dataset]), pace).await;
    let coordinator = started.expect("an empty journal replays");
    while !coordinator.status().ledger_complete {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    coordinator
}

/// Messages that the second site sent, and rows that were read at the first.
async fn caught_up(records: u64) -> (u64, u64) {
    let sites = [SiteId(0), SiteId(1)].map(|site| filled(site, records));
    let there = start(&sites[0], NodeId(0)).await;
    let here = start(&sites[1], NodeId(1)).await;
    let before = (sites[1].messages(), sites[0].rows_read());
    sites[1].meet(Peer { node: NodeId(0), site: SiteId(0) }, there.clone());
    while !here.status().sites.iter().any(|site| site.reached > Seq(0)) || !here.is_idle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let version = |memory: &Memory, n: u64| {
        let record = RecordId { dataset: Arc::from("bench"), key: format!("k{n}").into() };
        memory.with_d1(|d1| d1.rows()[&record].version.clone())
    };
    for n in 0..records {
        assert_eq!(version(&sites[0], n), version(&sites[1], n), "k{n}");
    }
    let took = (sites[1].messages() - before.0, sites[0].rows_read() - before.1);
    sites[1].part();
    there.stop();
    here.stop();
    took
}

#[tokio::test]
async fn catching_up_goes_with_what_differs() {
    let (few, many) = (caught_up(2_000).await, caught_up(20_000).await);
    // A leaf has one record or two of twenty thousand; a poll or a page more may fall in between.
    assert!(many.1 < 3 * DIFFERING, "{many:?} against {few:?}");
    assert!(many.0 <= few.0 + 10 && many.0 < 60, "{many:?} against {few:?}");
}
