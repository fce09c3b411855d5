//! Tasks of the repository. `cargo xtask test` passes all tests, `cargo xtask bpf` builds the kernel's programs.
//!
//! What is right: `conformance` shows every claim on every executor, `differential` compares the executors, `prove` proves what
//! holds for every frame, `fuzz` looks for inputs that should not be, `simulate` runs hosts and switches with faults from a
//! seed, `mutants` tests the tests. What it stands: `faults` harms a running switch, `attacks` tries what a hostile port can do.
//! How fast it is: `bench` measures forwarding, `cost` counts instructions. What it is made of: `deny`, `sbom`.

mod apt;
mod attacks;
mod bench;
mod bpf;
mod conformance;
mod cost;
mod deny;
mod differential;
mod error;
mod faults;
mod fuzz;
mod mutants;
mod process;
mod prove;
mod repository;
mod sbom;
mod simulate;
mod test;
mod tools;

use crate::{bpf::Toolchain, error::Error, repository::Repository};
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

/// Tasks of the repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Try what a hostile port can do to the switch and to the hosts at its other ports
    ///
    /// Needs root. Fails if an attack did what it aims at, if a bystander lost a frame, or if requests of bystanders took more
    /// than twice as long as without attack.
    Attacks(attacks::Options),
    /// Measure forwarding against all peers, and write docs/performance.{json,md,svg}; needs root
    ///
    /// Installs peers where this is Debian. What is not there is left out, and the table says what is missing. Takes some ten
    /// minutes and the time of a release build. Exit code 1 if something could not be measured, or does not count.
    Bench(bench::Options),
    /// Build the kernel's programs and write data-path/kernel/{switch,host,bench}.bpf.o and bpf.sources, which are committed
    Bpf(BpfOptions),
    /// Show every claim on every executor of the pipeline, and write docs/conformance.md
    ///
    /// Needs root. Fails unless every claim has a case that passed on every executor, and none failed.
    Conformance(conformance::Options),
    /// Count what a frame costs in instructions, show what has changed, and write bench/cost.json, which is committed
    ///
    /// Needs root, for the sizes of the kernel's programs, and installs valgrind. A figure that is less than 3 % off what the
    /// file says has not changed.
    Cost(cost::Options),
    /// Check licences and sources of all that is depended on, by deny.toml
    ///
    /// Builds cargo-deny into target/tools when it is not there.
    Deny(deny::Options),
    /// Compare all executors of the pipeline with the model, on generated frames, bit for bit; needs root
    ///
    /// Ends well only if no frame differs. Else it says which frame of which seed shows it.
    Differential(differential::Options),
    /// Do to a running switch what may go wrong, and count what was lost: frames, and leases; needs root
    ///
    /// The switch is killed, stopped, replaced and upgraded under a load of more than 100,000 frames a second; interfaces go;
    /// somebody writes into its tables. Ends well only if nothing was lost.
    Faults(faults::Options),
    /// Let libFuzzer look for inputs that break a fuzz target (fuzz/src); stops at the first
    ///
    /// Builds cargo-bolero into target/tools when it is not there. The stable compiler will do; libFuzzer itself needs a
    /// C++ compiler.
    Fuzz(fuzz::Options),
    /// Prove of the compiled pipeline what holds for every frame and all tables, and that faults in it would be found
    ///
    /// Installs pyvex and Z3 into target/proof. Exit code 1 with a frame in hexadecimal where a property does not hold, or with a
    /// fault that was not found. What is proved, and what is assumed: docs/proof.md.
    Prove(prove::Options),
    /// Put faults into the sources one by one, see whether tests notice, and write docs/mutants.md; takes hours
    ///
    /// Builds cargo-mutants into target/tools when it is not there. Works on copies of the repository. Fails if less than 95 % of
    /// the faults of a package are noticed, and names those that are not.
    Mutants(mutants::Options),
    /// Write target/sbom/flowlane.cdx.json: all that the binary is made of, as CycloneDX 1.5
    ///
    /// Builds cargo-cyclonedx into target/tools when it is not there. The document is the same for the same lock files; it says
    /// when it was made only where SOURCE_DATE_EPOCH does. Fails if a package that is linked is not in it.
    Sbom(sbom::Options),
    /// Simulate hosts, switches, disks and clocks with faults, from a seed, and check what must never happen
    ///
    /// The same seed gives the same trace, whose hash is told. Ends well only if no invariant was broken; else it says which,
    /// at which step, after what, and how to see it again.
    Simulate(simulate::Options),
    /// Run every check and every test; the last line is `N passed, N failed`
    ///
    /// Needs Debian and root: packages that the tests use are installed, the kernel's programs are rebuilt from source and
    /// the tests run on the rebuilt ones. At the end the committed objects are put back; the rebuilt ones stay in target/bpf.
    /// If the run is killed, `git restore data-path/kernel` does that.
    Test(test::Options),
}

#[derive(Args)]
struct BpfOptions {
    /// Install what the build needs: Debian packages (as root) and bpf-linker (into target/tools)
    #[arg(long)]
    install: bool,
    /// Build nothing, only tell whether the committed objects are of the present sources; needs no toolchain
    #[arg(long, conflicts_with = "install")]
    check: bool,
}

fn main() -> ExitCode {
    let done = Repository::find().and_then(|repository| match Cli::parse().task {
        Task::Attacks(options) => attacks::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Bench(options) => bench::run(&repository, &options),
        Task::Bpf(options) => bpf(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Conformance(options) => conformance::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Cost(options) => cost::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Deny(options) => deny::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Differential(options) => differential::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Faults(options) => faults::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Fuzz(options) => fuzz::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Prove(options) => prove::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Mutants(options) => mutants::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Sbom(options) => sbom::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Simulate(options) => simulate::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Test(options) => test::run(&repository, &options),
    });
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn bpf(repository: &Repository, options: &BpfOptions) -> Result<(), Error> {
    if options.check {
        bpf::check(repository)?;
        println!("the objects in data-path/kernel are of the present sources");
        return Ok(());
    }
    let toolchain = if options.install { Toolchain::install(repository)? } else { Toolchain::find(repository)? };
    let built = bpf::build(repository, &toolchain)?;
    let changed = bpf::write(repository, &built)?;
    for object in &built.objects {
        println!("{}: {}", object.committed, if changed.contains(&object.committed) { "written" } else { "unchanged" });
    }
    Ok(())
}
