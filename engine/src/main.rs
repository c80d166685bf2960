//! The binary `tidelock`.

/// A write is some sixty small allocations on its way through three stores.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidelock_engine::production::cli::main()
}
