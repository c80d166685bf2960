//! The real world: disks, sockets and clocks.
//!
//! Each module binds one trait of [`env`](crate::env) to it. Nothing here decides: what a version
//! becomes, what is owed and when a lease ends is decided by the engine's pure functions.

pub mod audit;
pub mod cli;
pub mod embedded;
pub mod env;
pub mod folder;
pub mod journal;
pub mod node;
pub mod peers;
pub mod reload;
pub mod rest;
pub mod serve;
pub mod webhook;
pub mod wire;
