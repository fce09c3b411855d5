//! All checks and tests, with one line of totals at the end.

mod totals;

use crate::{
    apt,
    bpf::{self, Toolchain},
    conformance, deny, differential,
    error::Error,
    fuzz, process, prove,
    repository::Repository,
};
use caps::{CapSet, Capability};
use clap::Args;
use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Instant,
};
use totals::Totals;

/// Programs that tests run, by Debian package.
const PACKAGES: [&str; 20] = [
    "bind9-dnsutils",
    "bsdutils",
    "curl",
    "dnsmasq-base",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "libfaketime",
    "make",
    "nftables",
    "nginx",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "rsync",
    "tcpdump",
    "tshark",
    "util-linux",
];
/// What the kernel tests do: load programs, make interfaces, make namespaces.
const CAPABILITIES: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN];
/// Packages whose integration tests (`tests/`) do so. Their unit tests do not.
const KERNEL_TESTS: [&str; 8] = [
    "flowlane",
    "flowlane-bench",
    "flowlane-conformance",
    "flowlane-host",
    "flowlane-lab",
    "flowlane-ports",
    "flowlane-program",
    "flowlane-resolve",
];
/// Unit tests that do so all the same: this one mounts a file system, to fill it.
const KERNEL_UNIT_TESTS: [&str; 1] = ["a_full_file_system_is_reported_and_survived"];

/// That one must be found.
const SEEDED_BUG: [&str; 6] =
    ["--package", "flowlane-conformance", "--features", "seeded-bug", "--test", "differential"];

/// How to test.
#[derive(Args)]
pub struct Options {
    /// Install nothing, test the committed object, and leave out the tests that need root
    #[arg(long)]
    unprivileged: bool,
    /// Test the committed object: the BPF toolchain is neither installed nor used
    #[arg(long)]
    committed: bool,
}

/// Runs everything, whatever fails on the way, and prints `N passed, N failed` last. A check that fails (a stale object,
/// a format, a lint, a test program that did not build or died) counts as one failed.
pub fn run(repository: &Repository, options: &Options) -> Result<ExitCode, Error> {
    if !options.unprivileged {
        has_privileges()?;
    }
    let mut run = Run::default();
    run.step("committed BPF objects are of the present sources", || bpf::check(repository));
    if !options.unprivileged {
        run.step("packages that the tests use", || apt::install(&PACKAGES));
        run.step("rustfmt and clippy", install_components);
    }
    let rebuilt = if options.unprivileged || options.committed { Vec::new() } else { rebuild(repository, &mut run) };
    run.step("format", || process::run(process::cargo().args(["fmt", "--all", "--check"])));
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    run.step("lints", || process::run(process::cargo().args(clippy)));
    if options.unprivileged && !deny::is_installed(repository) {
        println!("not run, for cargo-deny is not in target/tools: licences and sources of dependencies");
    } else {
        run.step("licences and sources of dependencies", || deny::run(repository, &deny::Options::default()));
    }
    if options.unprivileged {
        let others = KERNEL_TESTS.iter().flat_map(|package| ["--exclude", package]);
        run.tests("tests", &["--workspace"], others.chain(["--"]).chain(skips()));
        let theirs = KERNEL_TESTS.iter().flat_map(|package| ["--package", package]);
        run.tests("unit tests of the other packages", &["--lib", "--bins"], theirs.chain(["--"]).chain(skips()));
        println!("not run, for they need root: the integration tests of {}", KERNEL_TESTS.join(", "));
    } else {
        run.step("build of all tests", || build(&["--workspace"]));
        run.tests("tests", &["--workspace"], []);
        run.step("proof of the pipeline's short way", || prove::run(repository, &prove::Options::QUICK));
        run.step("every claim on every executor", || conformance::check(repository));
        run.tests("differential test of a pipeline with a fault", &SEEDED_BUG, []);
        let name = format!("differential test, {} frames", differential::FRAMES);
        run.step(&name, || differential::run(&differential::Options::default()));
    }
    run.tests("fuzz targets, with random inputs", &fuzz::test_arguments(), []);
    drop(rebuilt);
    Ok(run.finish())
}

/// Builds tests, and waits until the disk has what was written: leases are durable before they are acknowledged, and would
/// otherwise wait for it.
fn build(which: &[&str]) -> Result<(), Error> {
    process::run(process::cargo().args(["test", "--no-run"]).args(which))?;
    process::run(&mut Command::new("sync"))
}

fn has_privileges() -> Result<(), Error> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let lacking: Vec<_> = CAPABILITIES.iter().filter(|one| !held.contains(one)).map(Capability::to_string).collect();
    if lacking.is_empty() { Ok(()) } else { Err(Error::Privileges(lacking.join(", "))) }
}

/// A Rust of the profile `minimal` comes without.
fn install_components() -> Result<(), Error> {
    for (component, command) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if process::output(process::cargo().args([command, "--version"])).is_err() {
            process::run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

fn skips() -> impl Iterator<Item = &'static str> {
    KERNEL_UNIT_TESTS.iter().flat_map(|test| ["--skip", test])
}

/// Builds the objects from source, and puts them in the committed ones' place where they differ.
fn rebuild(repository: &Repository, run: &mut Run) -> Vec<InPlace> {
    let Some(toolchain) = run.step("BPF toolchain", || Toolchain::install(repository)) else { return Vec::new() };
    let built = run.step("BPF objects from source", || bpf::build(repository, &toolchain));
    let objects = built.map_or_else(Vec::new, |built| built.objects);
    let mut put =
        |object| run.step("rebuilt BPF object against the committed one", || InPlace::put(repository, object));
    objects.iter().filter_map(|object| put(object).flatten()).collect()
}

/// A rebuilt object, for as long as this lives; then the committed one again.
struct InPlace {
    path: PathBuf,
    committed: Vec<u8>,
}

impl InPlace {
    /// Nothing is done if both are the same.
    fn put(repository: &Repository, object: &bpf::Object) -> Result<Option<Self>, Error> {
        let path = repository.path(object.committed);
        let committed = fs::read(&path).map_err(Error::file("read", &path))?;
        let rebuilt = fs::read(&object.built).map_err(Error::file("read", &object.built))?;
        if rebuilt == committed {
            println!("{}: they are the same", object.committed);
            return Ok(None);
        }
        println!("warning: they differ; another compiler may be why. The tests run on {}", object.built.display());
        fs::write(&path, rebuilt).map_err(Error::file("written", &path))?;
        Ok(Some(Self { path, committed }))
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.committed) {
            eprintln!("warning: {} could not be put back: {error}", self.path.display());
        }
    }
}

/// What has been run so far.
#[derive(Default)]
struct Run {
    totals: Totals,
    failures: Vec<String>,
}

impl Run {
    /// One check, which counts only if it fails.
    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        println!("==> {name}");
        let start = Instant::now();
        let done = work();
        let took = start.elapsed().as_secs_f32();
        match done {
            Ok(value) => {
                println!("    {name}: done in {took:.1} s");
                Some(value)
            }
            Err(error) => {
                println!("    {name}: FAILED after {took:.1} s: {error}");
                self.failures.push(format!("{name}: {error}"));
                self.totals.failed += 1;
                None
            }
        }
    }

    /// `cargo test`, each result of which counts.
    fn tests<'a>(&mut self, name: &str, which: &[&str], more: impl IntoIterator<Item = &'a str>) {
        let mut here = Totals::default();
        let mut failures = Vec::new();
        let mut cargo = process::cargo();
        cargo.args(["test", "--no-fail-fast"]).args(which).args(more);
        self.step(name, || {
            let done = process::lines(&mut cargo, |line| {
                println!("{line}");
                here.add(line);
                failures.extend(totals::failed_test(line).map(String::from));
            });
            here.end();
            // Tests that failed are counted one by one; any other failure counts as a failed step.
            if here.failed > 0 { Ok(()) } else { done }
        });
        self.totals += here;
        self.failures.append(&mut failures);
    }

    fn finish(self) -> ExitCode {
        println!();
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        if self.totals.ignored > 0 {
            println!("{} ignored", self.totals.ignored);
        }
        println!("{}", self.totals);
        if self.totals.failed == 0 && self.totals.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
