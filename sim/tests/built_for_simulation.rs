//! Without `--cfg madsim` there is no simulator, and every test of it would silently be gone.

#[cfg(not(madsim))]
#[test]
fn the_cfg_is_lost() {
    panic!(
        "this build has no `--cfg madsim`: .cargo/config.toml sets it, unless RUSTFLAGS is set; \
         unset it, or add `--cfg madsim` to it"
    );
}

#[cfg(madsim)]
#[test]
fn the_cfg_is_there() {}
