//! Faults put into the sources one by one, to see whether a test notices: cargo-mutants on the crates that decide where frames
//! and addresses go.

mod page;
mod results;

use crate::{
    error::Error,
    process,
    repository::Repository,
    tools::{self, Tool},
};
use clap::Args;
use results::Results;
use std::{fs, path::Path};

const CARGO_MUTANTS: Tool = Tool { name: "cargo-mutants", version: "27.1.0" };
/// Of a hundred faults so many must be noticed.
const LEAST: u32 = 95;
/// Where the results stand.
const PAGE: &str = "docs/mutants.md";
/// What is left out, with reasons.
const CONFIG: &str = ".cargo/mutants.toml";

/// A package whose sources are changed, and what tests it.
struct Subject {
    package: &'static str,
    /// The tests that find nearly all, and take seconds: arguments of `cargo test`.
    quick: Tests,
    /// For faults that these do not notice.
    whole: Tests,
}

/// Tests of some packages, for people and for cargo.
struct Tests {
    packages: &'static [&'static str],
    /// Which of their targets.
    targets: &'static [&'static str],
}

const MODEL: Tests = Tests { packages: &["flowlane-pipeline"], targets: &["--test=against_the_model"] };
const DATA_PATH: &[&str] =
    &["flowlane-wire", "flowlane-tables", "flowlane-pipeline", "flowlane-vectors", "flowlane-model"];

/// In the order of what depends on what, the last first.
const SUBJECTS: [Subject; 5] = [
    Subject {
        package: "flowlane-pipeline",
        quick: MODEL,
        whole: Tests { packages: &["flowlane-pipeline"], targets: &["--tests"] },
    },
    Subject {
        package: "flowlane-tables",
        quick: Tests { packages: &["flowlane-tables"], targets: &["--lib"] },
        whole: Tests { packages: DATA_PATH, targets: &["--tests"] },
    },
    Subject {
        package: "flowlane-wire",
        quick: Tests { packages: &["flowlane-wire"], targets: &["--lib"] },
        whole: Tests { packages: DATA_PATH, targets: &["--tests"] },
    },
    Subject {
        package: "flowlane-allot",
        quick: Tests { packages: &["flowlane-allot"], targets: &["--lib"] },
        whole: Tests { packages: &["flowlane-allot", "flowlane-store"], targets: &["--tests"] },
    },
    Subject {
        package: "flowlane-store",
        quick: Tests { packages: &["flowlane-store"], targets: &["--lib"] },
        whole: Tests { packages: &["flowlane-store", "flowlane-durability"], targets: &["--tests"] },
    },
];

/// What to change.
#[derive(Args)]
pub struct Options {
    /// Packages whose name has this in it, such as `allot`; without it all
    #[arg(long, value_name = "NAME")]
    package: Option<String>,
    /// Go on where an earlier run stopped, and try again what no test noticed then
    #[arg(long)]
    resume: bool,
    /// Try nothing: tell what earlier runs have found
    #[arg(long, conflicts_with = "resume")]
    report: bool,
    /// How many faults are tried at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Puts the faults in, in copies of the repository, and writes the page.
///
/// # Errors
/// [`Error::Mutants`] where less than 95 % of the faults in a package were noticed; those that were not have been named then.
/// [`Error::NoPackage`] names the packages that there are.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    let wanted = options.package.as_deref().unwrap_or_default();
    let chosen: Vec<_> = SUBJECTS.iter().filter(|subject| subject.package.contains(wanted)).collect();
    if chosen.is_empty() {
        let all: Vec<_> = SUBJECTS.iter().map(|subject| subject.package).collect();
        return Err(Error::NoPackage { wanted: wanted.into(), all: all.join(", ") });
    }
    let program = CARGO_MUTANTS.install(repository)?;
    let mut table = Vec::new();
    for subject in chosen {
        let results = subject.run(repository, &program, options)?;
        if !options.json {
            results.missed().for_each(|name| println!("not noticed: {name}"));
        }
        table.push((subject.package, results.counts()));
    }
    if options.json {
        println!("{}", page::json(&table)?);
    } else {
        println!("{}", page::table(&table));
    }
    page::write(repository, &table)?;
    let weak: Vec<_> = table.iter().filter(|(_, counts)| !counts.suffice(LEAST)).map(|(package, _)| *package).collect();
    if weak.is_empty() { Ok(()) } else { Err(Error::Mutants { packages: weak.join(", "), least: LEAST }) }
}

impl Subject {
    /// Two rounds: the quick tests on all faults, the others on those that are left.
    fn run(&self, repository: &Repository, program: &Path, options: &Options) -> Result<Results, Error> {
        let folder = repository.target.join("mutants").join(self.package);
        fs::create_dir_all(&folder).map_err(Error::file("made", &folder))?;
        let known = options.resume || options.report;
        let mut results = if known { Results::read(&folder)? } else { Results::default() };
        let all = self.list(repository, program, true)?;
        results.begin(&all, self.list(repository, program, false)?.len() - all.len());
        if known {
            results.add(&folder)?;
        }
        for tests in [&self.quick, &self.whole] {
            let left = results.left();
            if left > 0 && !options.report {
                println!("==> {}: {left} faults, {}", self.package, tests.name());
                self.round(repository, program, tests, &folder, &results, options.jobs)?;
                results.add(&folder)?;
                results.write(&folder)?;
            }
        }
        Ok(results)
    }

    /// The names of all faults, or of those that are not left out.
    fn list(&self, repository: &Repository, program: &Path, configured: bool) -> Result<Vec<String>, Error> {
        let mut list = tools::command(program);
        list.current_dir(&repository.root).args(["--list", "--package", self.package]);
        let listed = process::output(list.args((!configured).then_some("--no-config")))?;
        Ok(listed.lines().map(String::from).collect())
    }

    /// Tries all faults whose end is not known yet.
    fn round(
        &self,
        repository: &Repository,
        program: &Path,
        tests: &Tests,
        folder: &Path,
        results: &Results,
        jobs: u8,
    ) -> Result<(), Error> {
        results.tell_what_is_known(folder)?;
        let mut mutants = tools::command(program);
        mutants.current_dir(&repository.root).args(["--iterate", "--package", self.package, "--profile", "mutants"]);
        mutants.args(tests.packages.iter().flat_map(|package| ["--test-package", package]));
        mutants.args(tests.targets.iter().map(|target| format!("--cargo-arg={target}")));
        // What runs for ever is noticed too, but a busy machine is none of the fault's.
        mutants.args(["--minimum-test-timeout", "60", "--no-times", "--colors", "never", "--jobs", &jobs.to_string()]);
        let status = process::status(mutants.arg("--output").arg(folder))?;
        // 2: some were not noticed; 3: some did not end.
        if matches!(status.code(), Some(0 | 2 | 3)) { Ok(()) } else { Err(process::failed(&mutants, status)) }
    }
}

impl Tests {
    fn name(&self) -> String {
        [self.packages, self.targets].concat().join(" ")
    }
}
