//! The certificate: takes each rule of the protocol out of a copy of the engine, and shows what
//! notices.
//!
//! ```text
//! sim/mutants/NAME.patch ──> target/certify/tree ──> its test in sim/tests: must fail
//!                                   │
//!                                   └──> seeds until one breaks an invariant
//! ```
//!
//! Invariant: the workspace itself is never touched. The copy is made once, of tracked files as
//! they stand, and is whole again before the next rule is taken out; what an interruption left
//! taken out is put back when the next copy is made.

use crate::scenario::Profile;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The files of `sim/tests/` whose tests mutants may name.
pub const TESTS: [&str; 8] =
    ["traces", "exchange", "conflicts", "reconcile", "reap", "blobs", "audit", "members"];
/// Seeds between two looks at the result.
const SEEDS_AT_ONCE: u64 = 20;

/// A rule to be taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// The patch's name.
    pub name: String,
    /// The rule, as `PROTOCOL.md` calls it.
    pub rule: String,
    /// What the patch removes.
    pub removes: String,
    /// The test that must fail, in one of [`TESTS`].
    pub test: String,
    /// The profile whose seeds are tried.
    pub profile: Profile,
    /// The patch.
    pub patch: PathBuf,
}

impl Mutant {
    /// Reads a patch's first line: `# RULE: what it removes; fails TEST`, and for other seeds than those of
    /// `standard` behind that `; seeds of PROFILE`.
    pub fn read(patch: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(patch)
            .map_err(|error| format!("cannot read {}: {error}", patch.display()))?;
        let words = || {
            let line = text.lines().next()?.strip_prefix("# ")?;
            let (rule, rest) = line.split_once(": ")?;
            let (removes, test) = rest.rsplit_once("; fails ")?;
            let (test, profile) = match test.split_once("; seeds of ") {
                Some((test, profile)) => (test, profile.parse().ok()?),
                None => (test, Profile::Standard),
            };
            Some((rule.to_owned(), removes.to_owned(), test.to_owned(), profile))
        };
        let (rule, removes, test, profile) = words().ok_or_else(|| {
            format!("{} must begin with \"# RULE: what it removes; fails TEST\"", patch.display())
        })?;
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Mutant { name, rule, removes, test, profile, patch: patch.to_owned() })
    }

    /// All of a workspace, by name; `only` of them, if any are named.
    pub fn all(root: &Path, only: &[String]) -> Result<Vec<Self>, String> {
        let folder = root.join("sim/mutants");
        let entries = std::fs::read_dir(&folder)
            .map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
        let mut patches: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
            .collect();
        patches.sort();
        let all: Vec<Mutant> = patches.iter().map(|p| Mutant::read(p)).collect::<Result<_, _>>()?;
        let names = all.iter().map(|mutant| mutant.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(name) = only.iter().find(|name| !all.iter().any(|m| m.name == **name)) {
            return Err(format!("there is no mutant {name:?}; the mutants are {names}"));
        }
        Ok(all.into_iter().filter(|m| only.is_empty() || only.contains(&m.name)).collect())
    }
}

/// What noticed that a rule was gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The patch's name.
    pub mutant: String,
    /// The rule.
    pub rule: String,
    /// What was removed.
    pub removes: String,
    /// The test that must fail.
    pub test: String,
    /// It did.
    pub caught_by_test: bool,
    /// Seeds of its profile until one failed, that one included; `None`: none did.
    pub seeds_until_caught: Option<u64>,
    /// Seeds that were tried.
    pub seeds_tried: u64,
    /// What the failing seed broke first.
    pub invariant: Option<String>,
    /// Why nothing was shown: the patch does not build, say.
    pub problem: Option<String>,
}

impl Verdict {
    /// Nothing was asked yet.
    pub fn of(mutant: &Mutant) -> Self {
        Verdict {
            mutant: mutant.name.clone(),
            rule: mutant.rule.clone(),
            removes: mutant.removes.clone(),
            test: mutant.test.clone(),
            caught_by_test: false,
            seeds_until_caught: None,
            seeds_tried: 0,
            invariant: None,
            problem: None,
        }
    }

    /// True when anything noticed.
    pub fn is_caught(&self) -> bool {
        self.caught_by_test || self.seeds_until_caught.is_some()
    }
}

/// The table for people: what its test and the seeds made of each mutant, and how many
/// were caught.
pub fn table(verdicts: &[Verdict]) -> String {
    let columns = ("mutant", "rule", "its test", "caught by seed (invariant)");
    let mut lines = vec![line(columns.0, columns.1, columns.2, columns.3, "what it removes")];
    lines.extend(verdicts.iter().map(row));
    let of = verdicts.len();
    let caught = |by: fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| by(verdict)).count();
    lines.push(format!(
        "{} of {of} caught: {} by their tests, {} by seeds",
        caught(Verdict::is_caught),
        caught(|verdict| verdict.caught_by_test),
        caught(|verdict| verdict.seeds_until_caught.is_some())
    ));
    lines.join("\n")
}

/// A verdict's line of the table.
pub fn row(verdict: &Verdict) -> String {
    let test = match (verdict.caught_by_test, &verdict.problem) {
        (true, _) => "caught",
        (false, None) => "MISSED",
        (false, Some(_)) => "BROKEN",
    };
    let seeds = match (&verdict.seeds_until_caught, &verdict.invariant) {
        (Some(seeds), Some(invariant)) => format!("{seeds} ({invariant})"),
        _ => format!("not in {}", verdict.seeds_tried),
    };
    line(&verdict.mutant, &verdict.rule, test, &seeds, &verdict.removes)
}

fn line(mutant: &str, rule: &str, test: &str, seeds: &str, removes: &str) -> String {
    format!("{mutant:<14} {rule:<8} {test:<8} {seeds:<28} {removes}")
}

/// The top of the workspace that this is called in.
pub fn workspace() -> Result<PathBuf, String> {
    let output = git(Path::new("."), &["rev-parse", "--show-toplevel"])?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output).trim_end()))
}

/// True when a patch fits the workspace as it stands.
pub fn applies(root: &Path, mutant: &Mutant) -> Result<(), String> {
    let patch = mutant.patch.to_string_lossy();
    git(root, &["apply", "--check", patch.as_ref()]).map(drop).map_err(|problem| {
        format!("{} does not apply any more; make it again: {problem}", mutant.patch.display())
    })
}

/// The copy that rules are taken out of.
pub struct Copy {
    tree: PathBuf,
    build: PathBuf,
}

impl Copy {
    /// Of a workspace, in its target folder.
    pub fn of(root: &Path) -> Result<Self, String> {
        let folder = root.join("target/certify");
        let copy = Copy { tree: folder.join("tree"), build: folder.join("build") };
        copy.restore(root)?;
        Ok(copy)
    }

    /// Makes the copy what the workspace is. Files that are so already keep their time, so that
    /// only what changed is built again.
    fn restore(&self, root: &Path) -> Result<(), String> {
        let listed = git(root, &["ls-files", "-z"])?;
        let listed = String::from_utf8_lossy(&listed);
        let names: BTreeSet<PathBuf> = listed
            .split('\0')
            .filter(|name| !name.is_empty() && root.join(name).is_file())
            .map(PathBuf::from)
            .collect();
        let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        for name in &names {
            let (from, to) = (root.join(name), self.tree.join(name));
            let mut bytes = std::fs::read(&from).map_err(|error| failed(&from, error))?;
            if name == Path::new("Cargo.toml") {
                // A rule that was taken out leaves names unused; that is no reason not to build.
                // And many builds matter more here than one fast binary: what is built once for
                // each rule runs a few dozen seeds.
                let text = String::from_utf8_lossy(&bytes);
                let text = text.replace("warnings = \"deny\"", "warnings = \"allow\"");
                let text = text.replace("codegen-units = 1\n", "codegen-units = 16\n");
                bytes = text.replace("lto = \"fat\"", "lto = false\nopt-level = 1").into_bytes();
            }
            if std::fs::read(&to).is_ok_and(|standing| standing == bytes) {
                continue;
            }
            let folder = to.parent().expect("it is inside the tree");
            std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
            std::fs::write(&to, bytes).map_err(|error| failed(&to, error))?;
        }
        remove_others(&self.tree, &self.tree, &names).map_err(|error| failed(&self.tree, error))
    }

    /// Takes a rule out, asks its test and then up to `seeds` seeds, and puts the rule back.
    /// `step` is told what is being done.
    pub fn try_out(
        &self,
        mutant: &Mutant,
        seeds: u64,
        step: &dyn Fn(&str),
    ) -> Result<Verdict, String> {
        let patch = mutant.patch.to_string_lossy();
        git(&self.tree, &["apply", patch.as_ref()]).map_err(|problem| {
            format!("{} does not apply any more; make it again: {problem}", mutant.patch.display())
        })?;
        let verdict = self.ask(mutant, seeds, step);
        git(&self.tree, &["apply", "--reverse", patch.as_ref()])?;
        verdict
    }

    fn ask(&self, mutant: &Mutant, seeds: u64, step: &dyn Fn(&str)) -> Result<Verdict, String> {
        let file = self.file_of(&mutant.test)?;
        step("building");
        let built = self.cargo(file, &["--no-run"])?;
        if !built.status.success() {
            return Err(format!(
                "{} does not build:\n{}",
                mutant.patch.display(),
                String::from_utf8_lossy(&built.stderr)
            ));
        }
        step("its test");
        let tested = self.cargo(file, &["--", "--exact", &mutant.test])?;
        let said = String::from_utf8_lossy(&tested.stdout);
        if !said.contains("running 1 test\n") {
            return Err(format!("sim/tests/{file}.rs did not run {}", mutant.test));
        }
        let mut verdict = Verdict::of(mutant);
        // A run that was killed has shown nothing: the test itself must say that it failed.
        verdict.caught_by_test = said.contains("test result: FAILED");
        while verdict.seeds_tried < seeds && verdict.seeds_until_caught.is_none() {
            let from = verdict.seeds_tried;
            let upto = seeds.min(from + SEEDS_AT_ONCE);
            step(&format!("seeds {from}..{upto}"));
            if let Some((seed, invariant)) = self.first_failing(mutant.profile, from, upto)? {
                verdict.seeds_until_caught = Some(seed + 1);
                verdict.invariant = Some(invariant);
            }
            verdict.seeds_tried = upto;
        }
        Ok(verdict)
    }

    /// The file that has a test: the others need not be built again.
    fn file_of(&self, test: &str) -> Result<&'static str, String> {
        let named = format!("fn {test}()");
        let has = |file: &&str| {
            let text = std::fs::read_to_string(self.tree.join(format!("sim/tests/{file}.rs")));
            text.is_ok_and(|text| text.contains(&named))
        };
        let found = TESTS.into_iter().find(has);
        found.ok_or_else(|| format!("no test of {TESTS:?} is named {test}"))
    }

    fn first_failing(
        &self,
        profile: Profile,
        from: u64,
        upto: u64,
    ) -> Result<Option<(u64, String)>, String> {
        let seeds = format!("{from}..{upto}");
        let output = Command::new(self.build.join("release/tidelock-sim"))
            .args(["run", "--profile", profile.name(), "--seeds", &seeds, "--json", "-"])
            .output()
            .map_err(|error| format!("cannot run the simulator with the rule out: {error}"))?;
        let Ok(result) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            // A rule's absence may also trip one of the engine's own assertions; a process that
            // was killed shows nothing.
            return match output.status.code() {
                Some(101) => Ok(Some((from, "a panic of the engine".to_owned()))),
                _ => Err(format!("the simulator ended with {}", output.status)),
            };
        };
        let first = result["violations"].as_array().and_then(|violations| violations.first());
        Ok(first.map(|violation| {
            let seed = violation["seed"].as_u64().unwrap_or(from);
            (seed, violation["invariant"].as_str().unwrap_or("?").to_owned())
        }))
    }

    fn cargo(&self, file: &str, arguments: &[&str]) -> Result<Output, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Command::new(cargo)
            .args(["test", "--release", "-p", "tidelock-sim", "--test", file])
            .args(arguments)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.build)
            // One file changes from one mutant to the next.
            .env("CARGO_INCREMENTAL", "1")
            .output()
            .map_err(|error| format!("cannot run cargo: {error}"))
    }
}

/// Removes what the workspace does not have any more.
fn remove_others(top: &Path, folder: &Path, names: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(top, &path, names)?;
        } else if path.strip_prefix(top).is_ok_and(|name| !names.contains(name)) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Runs git in a folder. The copy's folder is no repository, and must not look like a part of
/// the one around it.
fn git(folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let around = folder.parent().filter(|_| folder.ends_with("target/certify/tree"));
    let mut command = Command::new("git");
    command.args(arguments).current_dir(folder);
    if let Some(around) = around {
        command.env("GIT_CEILING_DIRECTORIES", around);
    }
    let output = command.output().map_err(|error| format!("cannot run git: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
