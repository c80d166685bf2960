//! Stories that more than one test tells.

use tidelock_engine::record::StoreId;
use tidelock_faults::{End, Kind, Place};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };

/// B's edge cache remembers w0, and B hears of w1 from nobody; the session that wrote w1 at A reads
/// at B.
pub fn stale_at_the_other_coordinator() -> Scenario {
    let cut = |from, to| Place::Link { from, to };
    let mut scenario = Scenario::still(2)
        .then(1_000, 0, "k", PUT)
        .then(2_500, 1, "k", Act::ReadAny)
        .then(3_500, 0, "k", PUT)
        .then(6_000, 1, "k", Act::ReadSession)
        .fault(Kind::KvStaleRead, Place::Store(StoreId::Kv), 2_000..8_000, 0)
        .fault(Kind::NetPartition, cut(End::Node(1), End::Store(StoreId::D1)), 3_000..8_000, 0)
        .fault(Kind::NetPartition, cut(End::Node(0), End::Node(1)), 3_000..8_000, 0);
    for operation in &mut scenario.operations {
        operation.session = 0;
    }
    scenario.sessions = 1;
    scenario
}
