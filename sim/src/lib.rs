//! The simulated world that tries to make the engine lose a write.
//!
//! A [`scenario`] made from a profile and a seed runs the real engine in a [`world`] of our own
//! network, stores and disks on madsim's executor and virtual time; the [`checker`] holds what
//! sessions were told against what the stores show. One seed is one run, byte for byte.

#[cfg(madsim)]
pub mod audit;
#[cfg(madsim)]
pub mod breakers;
#[cfg(madsim)]
pub mod campaign;
#[cfg(madsim)]
pub mod certify;
#[cfg(madsim)]
pub mod checker;
pub mod contract;
#[cfg(madsim)]
pub mod damage;
#[cfg(madsim)]
pub mod disk;
pub mod double;
#[cfg(madsim)]
pub mod env;
#[cfg(madsim)]
pub mod failure;
#[cfg(madsim)]
pub mod lives;
#[cfg(madsim)]
pub mod load;
#[cfg(madsim)]
pub mod members;
#[cfg(madsim)]
mod misread;
#[cfg(madsim)]
pub mod network;
#[cfg(madsim)]
pub mod operator;
#[cfg(madsim)]
pub mod reload;
#[cfg(madsim)]
pub mod run;
#[cfg(madsim)]
pub mod scenario;
#[cfg(madsim)]
pub mod shrink;
#[cfg(madsim)]
pub mod stores;
#[cfg(madsim)]
pub mod streams;
#[cfg(madsim)]
pub mod trace;
#[cfg(madsim)]
pub mod workload;
#[cfg(madsim)]
pub mod world;
