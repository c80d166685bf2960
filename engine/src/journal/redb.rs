//! The journal on redb.
