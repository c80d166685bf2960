//! `cargo sim`: campaigns over many seeds, one seed again, and what a failure needs.
//!
//! Exit codes: 0 clean, 1 an invariant was broken, 2 the command cannot be carried out.

#[cfg(not(madsim))]
compile_error!(
    "the simulator needs `--cfg madsim` on the whole build; .cargo/config.toml sets it, unless \
     RUSTFLAGS is set: unset it, or add `--cfg madsim` to it"
);

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tidelock_faults::Kind;
use tidelock_reports::Campaign;
use tidelock_sim::certify::{self, Mutant, Verdict};
use tidelock_sim::scenario::{Name, Profile, Scenario};
use tidelock_sim::{campaign, failure, run, shrink};

/// A run makes and drops some hundred thousand small things; this allocator is the faster one at
/// that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints a line. A reader that has gone away (`| head`) is no reason to fail.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

/// Failure pages written for one campaign; the rest are named with their commands.
const FAILURE_PAGES_MAX: usize = 20;
/// Failing seeds printed in full.
const FAILURES_PRINTED_MAX: usize = 20;

/// Tries to make Tidelock's engine lose a write.
#[derive(Parser)]
#[command(name = "cargo sim", version, args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs many seeds (the default).
    Run(RunArgs),
    /// Runs one scenario again, byte for byte.
    Replay(ReplayArgs),
    /// Finds the smallest scenario that still breaks the same invariant.
    Shrink(ShrinkArgs),
    /// Takes each rule out of a copy of the engine, and shows what notices.
    Certify(CertifyArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The kind of worlds: quick, standard, liveness or scale.
    #[arg(long, default_value = "quick")]
    profile: Profile,
    /// The seeds from A up to, not including, B.
    #[arg(long, value_name = "A..B", default_value = "0..1000", value_parser = seeds)]
    seeds: Range<u64>,
    /// Threads; default: one for each core.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Only these kinds of faults, separated by commas.
    #[arg(long, value_name = "K,..", value_delimiter = ',')]
    only: Vec<Kind>,
    /// Without these kinds of faults, separated by commas.
    #[arg(long, value_name = "K,..", value_delimiter = ',')]
    without: Vec<Kind>,
    /// The i-th of n shards of the seeds, from 0.
    #[arg(long, value_name = "i/n", default_value = "0/1", value_parser = shard)]
    shard: (u64, u64),
    /// Begin no seed after this time, as in 90s, 10m or 1h.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time_limit: Option<Duration>,
    /// Write index.html, and a page for each failing seed, into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Write the figures to this file, - for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct ReplayArgs {
    /// A seed, as in standard:42, or a scenario file.
    #[arg(value_name = "SEED|FILE")]
    what: String,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Write the scenario to this file, to be edited and replayed.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Write the figures to this file, - for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page about the run into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

#[derive(Args)]
struct ShrinkArgs {
    /// A seed, as in standard:42, or a scenario file.
    #[arg(value_name = "SEED|FILE")]
    what: String,
    /// Write the smallest scenario to this file, to be read, edited and replayed.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Give up after so many runs, with the smallest that was found.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    runs: u64,
}

#[derive(Args)]
struct CertifyArgs {
    /// Only these mutants, separated by commas.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    only: Vec<String>,
    /// Seeds of its profile, mostly standard, to try for each.
    #[arg(long, value_name = "N", default_value_t = 300)]
    seeds: u64,
    /// Write the figures to this file, - for standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} is no range of seeds; give it as 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (from, to) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
    if from >= to {
        return Err(format!("{text:?} holds no seed; the second number must be greater"));
    }
    Ok(from..to)
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("{text:?} is no shard; give it as 0/4, 1/4, 2/4 or 3/4");
    let (i, n) = text.split_once('/').ok_or_else(wrong)?;
    match (i.parse(), n.parse()) {
        (Ok(i), Ok(n)) if i < n => Ok((i, n)),
        _ => Err(wrong()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; give it as 90s, 10m or 1h");
    let unit = match text.chars().last().ok_or_else(wrong)? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

fn main() -> ExitCode {
    let command = Command::parse();
    let done = match command.verb {
        Some(Verb::Run(args)) => run_campaign(&args),
        None => run_campaign(&command.run),
        Some(Verb::Replay(args)) => replay(&args),
        Some(Verb::Shrink(args)) => shrink(&args),
        Some(Verb::Certify(args)) => certify(&args),
    };
    match done {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(2)
        }
    }
}

fn run_campaign(args: &RunArgs) -> Result<bool, String> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let plan = campaign::Plan {
        profile: args.profile,
        seeds: args.seeds.clone(),
        jobs: args.jobs.unwrap_or(cores),
        only: args.only.clone(),
        without: args.without.clone(),
        shard: args.shard,
        time_limit: args.time_limit,
    };
    // A report that cannot be written is known before an hour of seeds, not after.
    if let Some(folder) = &args.report {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("cannot create the folder {}: {error}", folder.display()))?;
    }
    let seeds = (plan.seeds.end - plan.seeds.start).div_ceil(plan.shard.1);
    let bar = ProgressBar::new(seeds);
    let style = "{bar:32} {pos}/{len} seeds, {per_sec}, {eta} left{msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let result = campaign::run(&plan, &|done, violations| {
        bar.set_position(done);
        if violations > 0 {
            bar.set_message(format!(", {violations} violations"));
        }
    });
    bar.finish_and_clear();
    if let Some(folder) = &args.report {
        write_pages(&plan, &result, folder)?;
    }
    let quiet = args.json.as_deref() == Some(Path::new("-"));
    if !quiet {
        print_campaign(&result, args.report.as_deref());
    }
    if let Some(file) = &args.json {
        write_json(file, &result)?;
    }
    let never_felt = campaign::never_felt(&plan, &result);
    if !never_felt.is_empty() {
        let names: Vec<&str> = never_felt.iter().map(|kind| kind.name()).collect();
        eprintln!(
            "failed: no run felt {}; an engine that never meets a fault is not shown to survive \
             it. Leave such a kind out with --without, or make it strike",
            names.join(", ")
        );
    }
    Ok(result.violations.is_empty() && never_felt.is_empty())
}

fn write_pages(plan: &campaign::Plan, result: &Campaign, folder: &Path) -> Result<(), String> {
    let write = |name: &str, page: &str| {
        let path = folder.join(name);
        tidelock_reports::write(&path, page)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    write("index.html", &tidelock_reports::campaign_page(result))?;
    let mut seeds: Vec<u64> = result.violations.iter().map(|violation| violation.seed).collect();
    seeds.dedup();
    for seed in seeds.into_iter().take(FAILURE_PAGES_MAX) {
        let scenario = plan.scenario(seed);
        let outcome = run::run(&scenario, None, true);
        let page = tidelock_reports::failure_page(&failure::describe(&scenario, &outcome));
        write(&tidelock_reports::failure_file_name(seed), &page)?;
    }
    Ok(())
}

fn print_campaign(result: &Campaign, report: Option<&Path>) {
    let seeds = result.seeds.max(1);
    say!("{} seeds of {} at {}", result.seeds, result.profile, result.commit);
    say!(
        "  speed     {:.1} seeds/s, {:.1} seeds per CPU second, {:.0} times real time",
        result.seeds_per_second,
        result.seeds_per_cpu_second,
        result.speedup
    );
    say!(
        "  writes    {} asked: {} acknowledged, {} refused, {} unknown; {} lost, {} excused",
        result.attempted_writes,
        result.acked_writes,
        result.refused_writes,
        result.unknown_writes,
        result.lost_writes,
        result.excused_writes
    );
    say!(
        "  each seed {} acknowledged writes, {} delivered messages, {} conflicts (averages)",
        result.acked_writes / seeds,
        result.delivered_messages / seeds,
        result.conflicts / seeds
    );
    say!(
        "  recovery  p50 {} ms, p99 {} ms, max {} ms",
        result.recovery_ms.p50,
        result.recovery_ms.p99,
        result.recovery_ms.max
    );
    let unfelt: Vec<&str> = result
        .faults
        .iter()
        .filter(|(_, count)| count.felt == 0)
        .map(|(kind, _)| kind.as_str())
        .collect();
    say!("  faults    {} kinds, never felt: {}", result.faults.len(), words(&unfelt));
    let unreached: Vec<&str> =
        result.sometimes.iter().filter(|(_, n)| **n == 0).map(|(name, _)| name.as_str()).collect();
    say!("  reached   {} situations, never: {}", result.sometimes.len(), words(&unreached));
    say!("  trace     {}", result.trace_hash);
    for violation in result.violations.iter().take(FAILURES_PRINTED_MAX) {
        say!("seed {}: {}: {}", violation.seed, violation.invariant, violation.message);
        if let Some(invariant) = result.invariants.get(&violation.invariant) {
            say!("  {}", invariant.words);
        }
        say!("  {}", violation.repro);
    }
    let more = result.violations.len().saturating_sub(FAILURES_PRINTED_MAX);
    if more > 0 {
        say!("and {more} more; --json FILE has all of them");
    }
    match result.violations.len() {
        0 => say!("clean"),
        violations => say!("{violations} violations"),
    }
    if let Some(folder) = report {
        say!("report: {}", folder.join("index.html").display());
    }
}

fn shrink(args: &ShrinkArgs) -> Result<bool, String> {
    let whole = load(&args.what)?;
    let size = |scenario: &Scenario| {
        format!(
            "{} operations, {} faults, {} coordinators",
            scenario.operations.len(),
            scenario.faults.len(),
            scenario.nodes
        )
    };
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("it is a constant"));
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let shrunk = shrink::shrink(&whole, None, args.runs, &|scenario, runs| {
        bar.set_message(format!("{} after {runs} runs", size(scenario)));
        bar.tick();
    });
    bar.finish_and_clear();
    let Some(shrunk) = shrunk else {
        return Err(format!("{} breaks no invariant: there is nothing to shrink", args.what));
    };
    write_json(&args.output, &shrunk.scenario)?;
    if args.output == Path::new("-") {
        return Ok(false);
    }
    say!("{}: {}", args.what, size(&whole));
    say!("smallest: {} ({} runs)", size(&shrunk.scenario), shrunk.runs);
    if !shrunk.complete {
        say!("the runs were used up; --runs {} goes on further", args.runs.saturating_mul(2));
    }
    let violation = &shrunk.violation;
    say!("{}: {}", violation.invariant.name(), violation.message);
    say!("  {}", violation.invariant.words());
    say!("  cargo sim replay {} --trace", args.output.display());
    Ok(false)
}

fn certify(args: &CertifyArgs) -> Result<bool, String> {
    let root = certify::workspace()?;
    let mutants = Mutant::all(&root, &args.only)?;
    for mutant in &mutants {
        certify::applies(&root, mutant)?;
    }
    let copy = certify::Copy::of(&root)?;
    let bar = ProgressBar::new(mutants.len() as u64);
    let style = "{bar:32} {pos}/{len} mutants, {elapsed}{msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
    let on_terminal = std::io::stderr().is_terminal();
    if !on_terminal {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let mut verdicts = Vec::with_capacity(mutants.len());
    for mutant in &mutants {
        let tried = copy.try_out(mutant, args.seeds, &|step| {
            bar.set_message(format!(", {}: {step}", mutant.name));
            if !on_terminal {
                eprintln!("{}: {step}", mutant.name);
            }
        });
        // One that is broken is no reason to show nothing of the others.
        let verdict = tried.unwrap_or_else(|problem| {
            bar.suspend(|| eprintln!("error: {problem}"));
            Verdict { problem: Some(problem), ..Verdict::of(mutant) }
        });
        // Told as it is reached: all of them take many minutes.
        if on_terminal {
            bar.println(certify::row(&verdict));
        } else {
            eprintln!("{}", certify::row(&verdict));
        }
        verdicts.push(verdict);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json.as_deref() != Some(Path::new("-")) {
        say!("{}", certify::table(&verdicts));
    }
    if let Some(file) = &args.json {
        write_json(file, &verdicts)?;
    }
    Ok(verdicts.iter().all(certify::Verdict::is_caught))
}

fn words(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn write_json<T: serde::Serialize>(file: &Path, value: &T) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    if file == Path::new("-") {
        say!("{text}");
        return Ok(());
    }
    std::fs::write(file, text + "\n")
        .map_err(|error| format!("cannot write {}: {error}", file.display()))
}

fn load(what: &str) -> Result<Scenario, String> {
    let path = Path::new(what);
    let is_file = path.extension().is_some() || what.contains('/') || path.is_file();
    if is_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the scenario {what}: {error}"))?;
        let no_scenario = |problem: String| format!("{what} is no scenario: {problem}");
        let scenario: Scenario =
            serde_json::from_str(&text).map_err(|error| no_scenario(error.to_string()))?;
        scenario.check().map_err(no_scenario)?;
        return Ok(scenario);
    }
    let name: Name = what.parse()?;
    Ok(Scenario::generate(name.profile, name.seed))
}

fn replay(args: &ReplayArgs) -> Result<bool, String> {
    let scenario = load(&args.what)?;
    if let Some(file) = &args.save {
        write_json(file, &scenario)?;
    }
    let outcome = run::run(&scenario, None, true);
    let quiet = args.json.as_deref() == Some(Path::new("-"));
    if args.trace && !quiet {
        for event in &outcome.events {
            say!("{event}");
        }
    }
    if !quiet {
        say!("{} at {}", scenario.name(), campaign::commit());
        say!("  trace     {} ({} events)", outcome.trace_hash, outcome.event_count);
        say!("  virtual   {:.1} s", outcome.virtual_ms as f64 / 1_000.0);
        say!(
            "  writes    {} asked: {} acknowledged, {} refused, {} unknown",
            outcome.attempted,
            outcome.acknowledged,
            outcome.refused,
            outcome.unknown
        );
        for (fate, count) in failure::summary(&outcome) {
            say!("            {count} {fate}");
        }
        match outcome.recovery_ms {
            Some(took_ms) => match &outcome.recovery_waited_for {
                Some(of) => say!("  recovery  {took_ms} ms, of {of}"),
                None => say!("  recovery  {took_ms} ms"),
            },
            None => say!("  recovery  never"),
        }
        for (kind, felt) in &outcome.faults {
            say!("  fault     {kind}: {} planned, felt {} times", felt.injected, felt.felt);
        }
        for violation in &outcome.violations {
            say!(
                "violated at {} ms: {}: {}\n  {}\n  cargo sim replay {}",
                violation.at_ms,
                violation.invariant.name(),
                violation.message,
                violation.invariant.words(),
                args.what
            );
        }
        if outcome.violations.is_empty() {
            say!("clean");
        }
    }
    if let Some(folder) = &args.report {
        let path = folder.join(tidelock_reports::failure_file_name(scenario.seed));
        let page = tidelock_reports::failure_page(&failure::describe(&scenario, &outcome));
        tidelock_reports::write(&path, &page)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        if !quiet {
            say!("report: {}", path.display());
        }
    }
    if let Some(file) = &args.json {
        write_json(file, &figures(&scenario, &outcome))?;
    }
    Ok(outcome.violations.is_empty())
}

fn figures(scenario: &Scenario, outcome: &run::Outcome) -> serde_json::Value {
    serde_json::json!({
        "scenario": scenario.name(),
        "commit": campaign::commit(),
        "trace_hash": outcome.trace_hash,
        "events": outcome.event_count,
        "virtual_ms": outcome.virtual_ms,
        "healed_ms": outcome.healed_ms,
        "recovery_ms": outcome.recovery_ms,
        "recovery_waited_for": outcome.recovery_waited_for.as_ref().map(|of| of.to_string()),
        "attempted_writes": outcome.attempted,
        "acked_writes": outcome.acknowledged,
        "refused_writes": outcome.refused,
        "unknown_writes": outcome.unknown,
        "lost_writes": outcome.lost,
        "delivered_messages": outcome.delivered,
        "violations": outcome.violations,
    })
}
