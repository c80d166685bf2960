//! Tidelock's engine: keeps records identical across Cloudflare KV, D1 and R2.
//!
//! A write goes one way: `coordinator` → `journal` → `lane` → the stores → `ledger`. Everything
//! that decides is a plain function or state machine with time and randomness passed in;
//! everything that waits goes through the traits in [`env`]. The engine itself draws no entropy,
//! reads no clock, spawns no thread and iterates in no order that a hash has made.
//!
//! With the feature `production` (on by default) [`production`] binds the traits to real disks,
//! sockets and clocks, and the binary `tidelock` serves them.

pub mod audit;
pub mod backlog;
pub mod blob;
pub mod breaker;
pub mod concurrency;
pub mod conflict;
pub mod coordinator;
pub mod cron;
pub mod dead_letter;
pub mod env;
pub mod erasure;
pub mod fields;
pub mod health;
pub mod hlc;
pub mod journal;
pub mod json;
pub mod lane;
pub mod last_puts;
pub mod ledger;
pub mod merge;
pub mod patch;
pub mod policy;
#[cfg(feature = "production")]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the other side of the door: here the traits meet real disks, threads and clocks"
)]
pub mod production;
pub mod projection;
pub mod record;
pub mod record_map;
pub mod recovery;
pub mod resolve;
pub mod retry;
pub mod row;
pub mod rule;
pub mod settle;
pub mod structured;
pub mod tree;
pub mod version;
