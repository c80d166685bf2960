//! Policies from TOML.
