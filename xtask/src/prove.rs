//! The proof of the compiled pipeline (`data-path/proof`), and faults that it must find.

mod faults;

use crate::{apt, error::Error, process, repository::Repository};
use clap::Args;
use faults::{FAULTS, Fault};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

const SCRIPT: &str = "data-path/proof/prove.py";
const REQUIREMENTS: &str = "data-path/proof/requirements.txt";
const PACKAGES: [&str; 2] = ["python3", "python3-venv"];
const LIBRARY: &str = "release/libflowlane_proof.so";
const BUILD: [&str; 5] = ["build", "--quiet", "--release", "--package", "flowlane-proof"];

/// The tasks that take seconds.
const SHORT: [&str; 4] = ["--only", "forward", "--only", "forward and run"];

/// What to prove.
#[derive(Args)]
pub struct Options {
    /// The result as a line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// Prove the whole list of steps too, for all frames: ten minutes more
    #[arg(long, conflicts_with = "seeded")]
    long: bool,
    /// Prove nothing of the pipeline itself, only show that the proof finds faults that are put into it
    #[arg(long)]
    seeded: bool,
    /// Prove the pipeline, and leave the faults out
    #[arg(long, conflicts_with = "seeded")]
    unseeded: bool,
}

impl Options {
    /// What takes less than a minute.
    pub const QUICK: Self = Self { json: false, long: false, seeded: false, unseeded: true };
}

/// One entry of the pipeline, followed along every path.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    task: String,
    paths: u64,
    instructions: u64,
    longest: u64,
    accesses: u64,
    questions: u64,
    solved: u64,
    replayed: u64,
    guessed: u64,
    seconds: f64,
    /// The property that does not hold, with a frame and tables that show it.
    violation: Option<Violation>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Violation {
    property: String,
    text: String,
    /// The frame's first octets in hexadecimal.
    frame: String,
    length: u64,
    ingress: u64,
    /// How the frame and the tables are besides.
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

/// All that the script says.
#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    length_max: u64,
    properties: Vec<Property>,
    tasks: Vec<Task>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Property {
    name: String,
    text: String,
    holds: bool,
    /// How often it was shown.
    shown: u64,
}

/// A fault that was put into the pipeline, and what the proof says of it.
#[derive(Debug, Serialize)]
struct Seeded {
    fault: &'static str,
    expected: &'static str,
    found: Option<Violation>,
    seconds: f64,
}

impl Seeded {
    fn is_found(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.property == self.expected)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    proved: bool,
    #[serde(flatten)]
    proof: Option<Proof>,
    seeded: Vec<Seeded>,
    seconds: f64,
}

/// Builds the library, proves it, and does the same with a fault after the other.
///
/// # Errors
/// [`Error::NotProved`] where a property does not hold, or a fault is not found.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    let python = install(repository)?;
    let begun = Instant::now();
    let proof = if options.seeded { None } else { Some(prove(repository, &python, options.long)?) };
    if let (Some(proof), false) = (&proof, options.json) {
        show(proof);
    }
    let mut seeded = Vec::new();
    if !options.unseeded {
        let tree = Tree::copy(repository)?;
        for fault in &FAULTS {
            let one = tree.seed(repository, &python, fault)?;
            if !options.json {
                println!("{}", seeded_line(&one));
            }
            seeded.push(one);
        }
    }
    let holds = proof.as_ref().is_none_or(|proof| proof.tasks.iter().all(|task| task.violation.is_none()));
    let proved = holds && seeded.iter().all(Seeded::is_found);
    let seconds = begun.elapsed().as_secs_f64();
    if options.json {
        let report = Report { proved, proof, seeded, seconds };
        println!("{}", serde_json::to_string(&report).map_err(Error::json("the report"))?);
    } else if proved {
        println!("proved in {seconds:.0} s");
    }
    if proved { Ok(()) } else { Err(Error::NotProved) }
}

/// A Python of the repository's own with what the script takes, in `target/proof`. Its interpreter.
fn install(repository: &Repository) -> Result<PathBuf, Error> {
    let folder = repository.target.join("proof/python");
    let (python, wanted) = (folder.join("bin/python"), repository.path(REQUIREMENTS));
    let requirements = fs::read(&wanted).map_err(Error::file("read", &wanted))?;
    let installed = folder.join("installed.txt");
    if fs::read(&installed).is_ok_and(|before| before == requirements) {
        return Ok(python);
    }
    if venv(&folder).is_err() {
        apt::install(&PACKAGES)?;
        venv(&folder)?;
    }
    let pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--requirement"];
    process::run(Command::new(&python).args(pip).arg(&wanted))?;
    fs::write(&installed, requirements).map_err(Error::file("written", installed))?;
    Ok(python)
}

fn venv(folder: &Path) -> Result<(), Error> {
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))
}

fn prove(repository: &Repository, python: &Path, long: bool) -> Result<Proof, Error> {
    process::run(process::cargo().args(BUILD))?;
    let which: &[&str] = if long { &[] } else { &SHORT };
    ask(repository, python, &repository.target.join(LIBRARY), which)
}

/// What the script says of a library.
fn ask(repository: &Repository, python: &Path, library: &Path, more: &[&str]) -> Result<Proof, Error> {
    let mut command = Command::new(python);
    // No compiled files beside the sources.
    command.arg("-B").arg(repository.path(SCRIPT)).arg(library).args(more);
    let mut said = String::new();
    // Exit code 1 is a violation, which is in what the script says.
    let done = process::lines(&mut command, |line| said = line.to_owned());
    match serde_json::from_str(&said) {
        Ok(proof) => Ok(proof),
        Err(reason) => Err(done.err().unwrap_or(Error::json("the proof")(reason))),
    }
}

fn show(proof: &Proof) {
    println!("frames of 0 to {} octets", proof.length_max);
    println!("{:<16} {:>6} {:>8} {:>8} {:>9} {:>8}", "entry", "paths", "longest", "accesses", "replayed", "seconds");
    for task in &proof.tasks {
        let Task { task: name, paths, longest, accesses, replayed, seconds, .. } = task;
        println!("{name:<16} {paths:>6} {longest:>8} {accesses:>8} {replayed:>9} {seconds:>8.1}");
    }
    for Property { name, text, holds, shown } in &proof.properties {
        println!("{} {name:<12} {text} ({shown} times)", if *holds { "proved  " } else { "VIOLATED" });
    }
    for (name, found) in proof.tasks.iter().filter_map(|task| Some((&task.task, task.violation.as_ref()?))) {
        let Violation { property, text, frame, length, ingress, others } = found;
        println!("{name}: {property}: {text}");
        println!("  frame of {length} octets by port {ingress}: {frame}");
        println!("  {}", serde_json::Value::Object(others.clone()));
    }
}

fn seeded_line(one: &Seeded) -> String {
    let Seeded { fault, expected, found, seconds } = one;
    match found {
        Some(found) if one.is_found() => {
            let Violation { property, text, frame, .. } = found;
            let short = frame.get(..48).unwrap_or(frame);
            format!("found    {fault}: {property}: {text}, {seconds:.1} s; frame {short}...")
        }
        Some(found) => format!("MISSED   {fault}: breaks {expected}, but the proof says {}", found.property),
        None => format!("MISSED   {fault}: breaks {expected}, and the proof says that all is well"),
    }
}

/// A copy of the sources, into which faults are put.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn copy(repository: &Repository) -> Result<Self, Error> {
        let root = repository.target.join("proof/seeded");
        copy(&repository.root, &root)?;
        Ok(Self { root })
    }

    /// Puts a fault in, asks the script, and takes it out again.
    fn seed(&self, repository: &Repository, python: &Path, fault: &Fault) -> Result<Seeded, Error> {
        let begun = Instant::now();
        let path = self.root.join(fault.file);
        let right = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        if right.matches(fault.right).count() != 1 {
            return Err(Error::NoPlaceForFault { fault: fault.name, file: fault.file });
        }
        fs::write(&path, right.replace(fault.right, fault.wrong)).map_err(Error::file("written", &path))?;
        let target = repository.target.join("proof/seeded-target");
        let mut cargo = process::cargo();
        cargo.args(BUILD).arg("--target-dir").arg(&target).current_dir(&self.root).env("CARGO_TARGET_DIR", &target);
        let built = process::run(&mut cargo);
        fs::write(&path, right).map_err(Error::file("written", &path))?;
        built?;
        let proof = ask(repository, python, &target.join(LIBRARY), &["--only", fault.entry])?;
        let found = proof.tasks.into_iter().find_map(|task| task.violation);
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Seeded { fault: fault.name, expected: fault.breaks, found, seconds })
    }
}

/// Copies what belongs to the repository: no builds, nothing hidden.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::file("made", to))?;
    for entry in fs::read_dir(from).map_err(Error::file("read", from))? {
        let entry = entry.map_err(Error::file("read", from))?;
        let (name, path) = (entry.file_name(), entry.path());
        if name == OsStr::new("target") || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(Error::file("read", &path))?;
        if kind.is_dir() {
            copy(&path, &to.join(name))?;
        } else if kind.is_file() {
            copy_file(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// A file that is there already with the same content stays, for cargo goes by its time.
fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    let content = fs::read(from).map_err(Error::file("read", from))?;
    if fs::read(to).is_ok_and(|there| there == content) {
        return Ok(());
    }
    fs::write(to, content).map_err(Error::file("written", to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_one_place_in_the_sources() {
        let repository = Repository::find().expect("the repository");
        for fault in &FAULTS {
            let text = fs::read_to_string(repository.path(fault.file)).expect(fault.file);
            assert_eq!(text.matches(fault.right).count(), 1, "{}", fault.name);
        }
    }

    #[test]
    fn a_fault_counts_as_found_only_by_the_property_that_it_breaks() {
        let found = |property: &str| {
            let violation =
                serde_json::json!({"property": property, "text": "", "frame": "", "length": 0, "ingress": 1});
            serde_json::from_value(violation).ok()
        };
        let seeded = |found| Seeded { fault: "one", expected: "lease", found, seconds: 0.0 };
        assert!(seeded(found("lease")).is_found());
        assert!(!seeded(found("port check")).is_found());
        assert!(!seeded(None).is_found());
    }
}
