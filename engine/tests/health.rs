//! Live and ready, as an orchestrator sees them: which states make a process unready, which do not, and
//! that it comes back by itself.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod server;

use serde_json::Value;
use server::{Reply, Server, folder};

fn ready(server: &Server) -> Reply {
    server.plain("GET", "/v1/health/ready", &[], b"").unwrap()
}

fn live(server: &Server) -> u16 {
    server.plain("GET", "/v1/health/live", &[], b"").unwrap().status
}

#[test]
fn a_store_that_is_away_makes_nobody_unready() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    let well = ready(&server);
    assert_eq!((well.status, &well.json()["ready"]), (200, &Value::Bool(true)));
    for store in ["kv", "r2", "d1"] {
        let held = server.cli(&["store", "open", store, "--reason", "away"]);
        assert!(held.status.success());
    }
    assert_eq!((ready(&server).status, live(&server)), (200, 200));
    server.stop();
}

/// D1's records have not been read since the start, so hardly any write can be taken.
#[test]
fn a_process_that_cannot_read_d1_at_its_start_is_not_ready_and_becomes_so_by_itself() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    assert!(server.cli(&["store", "open", "d1", "--reason", "away"]).status.success());
    server.kill();
    let server = Server::start_unready(&data);
    let away = ready(&server);
    assert_eq!((away.status, away.problem().as_str()), (503, "not-ready"), "{away:?}");
    let reasons = away.json()["reasons"].clone();
    assert!(reasons[0].as_str().unwrap().contains("being read"), "{reasons}");
    assert_eq!(live(&server), 200);
    assert!(server.cli(&["store", "auto", "d1", "--reason", "back"]).status.success());
    server.until("ready", || ready(&server).status == 200);
    server.stop();
}
