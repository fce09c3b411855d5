//! Tasks of the repository: `cargo xtask test` passes all tests, `cargo xtask bpf` builds the kernel program,
//! `cargo xtask conformance` shows every claim on every executor, `cargo xtask differential` compares the executors,
//! `cargo xtask fuzz` looks for inputs that should not be.

mod apt;
mod bpf;
mod conformance;
mod differential;
mod error;
mod fuzz;
mod process;
mod repository;
mod test;

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
    /// Build the kernel program and write data-path/kernel/flowlane.bpf.{o,sources}, which are committed
    Bpf(BpfOptions),
    /// Show every claim on every executor of the pipeline, and write docs/conformance.md
    ///
    /// Needs root. Fails unless every claim has a case that passed on every executor, and none failed.
    Conformance(conformance::Options),
    /// Compare all executors of the pipeline with the model, on generated frames, bit for bit; needs root
    ///
    /// Ends well only if no frame differs. Else it says which frame of which seed shows it.
    Differential(differential::Options),
    /// Let libFuzzer look for inputs that break a fuzz target (fuzz/src); stops at the first
    ///
    /// Builds cargo-bolero into target/tools when it is not there. The stable compiler will do; libFuzzer itself needs a
    /// C++ compiler.
    Fuzz(fuzz::Options),
    /// Run every check and every test; the last line is `N passed, N failed`
    ///
    /// Needs Debian and root: packages that the tests use are installed, the kernel program is rebuilt from source and the
    /// tests run on the rebuilt one. At the end the committed object is put back; the rebuilt one stays in target/bpf. If
    /// the run is killed, `git restore data-path/kernel/flowlane.bpf.o` does that.
    Test(test::Options),
}

#[derive(Args)]
struct BpfOptions {
    /// Install what the build needs: Debian packages (as root) and bpf-linker (into target/tools)
    #[arg(long)]
    install: bool,
    /// Build nothing, only tell whether the committed object is of the present sources; needs no toolchain
    #[arg(long, conflicts_with = "install")]
    check: bool,
}

fn main() -> ExitCode {
    let done = Repository::find().and_then(|repository| match Cli::parse().task {
        Task::Bpf(options) => bpf(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Conformance(options) => conformance::run(&repository, &options).map(|()| ExitCode::SUCCESS),
        Task::Differential(options) => differential::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Fuzz(options) => fuzz::run(&repository, &options).map(|()| ExitCode::SUCCESS),
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
        println!("{} is of the present sources", bpf::OBJECT);
        return Ok(());
    }
    let toolchain = if options.install { Toolchain::install(repository)? } else { Toolchain::find(repository)? };
    let built = bpf::build(repository, &toolchain)?;
    let changed = bpf::write(repository, &built)?;
    println!("{}: {}", bpf::OBJECT, if changed { "written" } else { "unchanged" });
    Ok(())
}
