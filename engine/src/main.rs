//! The binary `tidelock`.

fn main() -> std::process::ExitCode {
    tidelock_engine::production::cli::main()
}
