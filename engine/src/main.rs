//! The binary `tidelock`.

/// A record costs some dozens of small allocations; this allocator is the faster one at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidelock_engine::production::cli::main()
}
