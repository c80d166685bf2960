//! The real world: disks, sockets and clocks.
