//! What a frame costs in instructions, kept in a file of the repository so that a change shows in review: those of the
//! userspace pipeline and of each of its steps as callgrind counts them, and the sizes of the kernel's programs.

use crate::{apt, error::Error, process, repository::Repository};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// Where the figures are kept.
const FILE: &str = "bench/cost.json";
const PACKAGES: [&str; 1] = ["valgrind"];
/// What is counted: all that this function does, and what it calls. Not `*` behind it: each closure in it, where it is called,
/// would end the count.
const COUNTED: &str = "*::decide_on_memory";
const BATCHES: u64 = 40;
const FRAMES_OF_A_BATCH: u64 = 256;
/// Works by name, with the numbers of flows to count for.
const WORKS: [(&str, &[u32]); 5] =
    [("unicast", &[1, 1_000_000]), ("source", &[1]), ("metered", &[1]), ("group", &[1]), ("flagged", &[1])];
/// The steps of the pipeline, as `flowlane-bench stage` names them. Each is counted in a function of its own.
const STAGES: [&str; 8] = ["parse", "look_up", "flag", "check", "resolve", "meter", "rewrite", "replicate"];
/// By how much a figure may differ before it counts as another: hash tables are seeded anew for each process.
const TOLERANCE: f64 = 0.03;

/// What to do with the figures.
#[derive(Args)]
pub struct Options {
    /// Write nothing; fail where a figure is 3 % off what bench/cost.json says
    #[arg(long)]
    check: bool,
}

/// All figures, by name.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cost {
    /// Instructions of the userspace pipeline for each frame.
    instructions_per_frame: BTreeMap<String, f64>,
    /// Those of each step of the list that a frame takes which is not forwarded at once, with the call of the step.
    #[serde(default)]
    instructions_per_stage: BTreeMap<String, f64>,
    /// The kernel that verified and compiled the programs, to the second number of its version.
    kernel: String,
    /// Octets of each program: BPF after verification, and the processor's own.
    program_bytes: BTreeMap<String, Size>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Size {
    xlated: f64,
    jited: f64,
}

/// Counts, shows what has changed, and writes the file.
///
/// # Errors
/// [`Error::StaleCost`] where figures differ and are only to be checked.
pub fn run(repository: &Repository, options: &Options) -> Result<(), Error> {
    apt::install(&PACKAGES)?;
    process::run(process::cargo().args(["build", "--quiet", "--release", "--package", "flowlane-bench"]))?;
    let present = count(&repository.target.join("release/flowlane-bench"))?;
    let path = repository.path(FILE);
    let kept = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(Error::json(FILE))?,
        Err(_) => Cost::default(),
    };
    let changed = changes(&kept, &present);
    changed.iter().for_each(|change| println!("{change}"));
    match (changed.is_empty(), options.check) {
        (true, _) => println!("every figure is within 3 % of what {FILE} says"),
        (false, true) => return Err(Error::StaleCost(FILE)),
        (false, false) => {
            let text = serde_json::to_string_pretty(&present).map_err(Error::json(FILE))?;
            fs::write(&path, text + "\n").map_err(Error::file("written", path))?;
        }
    }
    Ok(())
}

fn count(program: &Path) -> Result<Cost, Error> {
    let mut cost = Cost { kernel: kernel(), ..Cost::default() };
    for (work, flows) in WORKS.iter().flat_map(|(work, flows)| flows.iter().map(move |flows| (work, flows))) {
        let name = format!("{work}, {flows} flow{}", if *flows == 1 { "" } else { "s" });
        let arguments = ["memory", "--work", work, "--flows", &flows.to_string()];
        cost.instructions_per_frame.insert(name, instructions(program, COUNTED, &arguments)?);
    }
    for stage in STAGES {
        let counted = format!("*::stage_{stage}");
        cost.instructions_per_stage.insert(stage.to_owned(), instructions(program, &counted, &["stage", stage])?);
    }
    let sizes = process::output(Command::new(program).arg("sizes"))?;
    cost.program_bytes = serde_json::from_str(&sizes).map_err(Error::json("the sizes of the programs"))?;
    Ok(cost)
}

/// Instructions for each frame in the functions of that pattern, with one digit behind the point.
fn instructions(program: &Path, counted: &str, arguments: &[&str]) -> Result<f64, Error> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
    valgrind.arg(format!("--toggle-collect={counted}")).arg(program).args(arguments);
    let said = process::output(valgrind.args(["--batches", &BATCHES.to_string()]))?;
    let total = collected(&said).ok_or_else(|| Error::NothingCounted(counted.to_owned()))?;
    Ok((10.0 * total as f64 / (BATCHES * FRAMES_OF_A_BATCH) as f64).round() / 10.0)
}

/// The count in what callgrind says: `==1234== Collected : 5678`.
fn collected(said: &str) -> Option<u64> {
    let mut values = said.lines().filter_map(|line| line.split_once("== Collected :"));
    values.next().and_then(|(_, value)| value.trim().parse().ok()).filter(|count| *count > 0)
}

/// A line for each figure that has changed. Sizes are compared only if the same kernel made them.
fn changes(kept: &Cost, present: &Cost) -> Vec<String> {
    let mut changes =
        differences(&kept.instructions_per_frame, &present.instructions_per_frame, "instructions per frame");
    let stages = differences(&kept.instructions_per_stage, &present.instructions_per_stage, "instructions per frame");
    changes.extend(stages.into_iter().map(|change| format!("stage {change}")));
    if kept.kernel != present.kernel && !kept.kernel.is_empty() {
        println!("Linux {} made the programs that {FILE} knows, this is {}: not compared", kept.kernel, present.kernel);
        return changes;
    }
    let of = |cost: &Cost, size: fn(&Size) -> f64| -> BTreeMap<String, f64> {
        cost.program_bytes.iter().map(|(name, both)| (name.clone(), size(both))).collect()
    };
    let xlated = |size: &Size| size.xlated;
    let jited = |size: &Size| size.jited;
    changes.extend(differences(&of(kept, xlated), &of(present, xlated), "octets of BPF"));
    changes.extend(differences(&of(kept, jited), &of(present, jited), "octets of machine code"));
    changes
}

fn differences(kept: &BTreeMap<String, f64>, present: &BTreeMap<String, f64>, unit: &str) -> Vec<String> {
    let names = kept.keys().chain(present.keys().filter(|name| !kept.contains_key(*name)));
    names.filter_map(|name| difference(name, kept.get(name), present.get(name), unit)).collect()
}

fn difference(name: &str, kept: Option<&f64>, present: Option<&f64>, unit: &str) -> Option<String> {
    match (kept, present) {
        (Some(kept), Some(present)) if (present / kept - 1.0).abs() > TOLERANCE => {
            let percent = 100.0 * (present / kept - 1.0);
            Some(format!("{name}: {kept} -> {present} {unit} ({percent:+.1} %)"))
        }
        (Some(_), Some(_)) | (None, None) => None,
        (None, Some(present)) => Some(format!("{name}: {present} {unit}, new")),
        (Some(kept), None) => Some(format!("{name}: {kept} {unit}, gone")),
    }
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(kernel: &str, instructions: f64, xlated: f64) -> Cost {
        Cost {
            instructions_per_frame: [("unicast, 1 flow".to_owned(), instructions)].into(),
            instructions_per_stage: [("parse".to_owned(), 10.0)].into(),
            kernel: kernel.to_owned(),
            program_bytes: [("switch/flowlane_xdp".to_owned(), Size { xlated, jited: 100.0 })].into(),
        }
    }

    #[test]
    fn a_figure_that_is_3_percent_off_has_changed() {
        let kept = cost("6.18", 100.0, 800.0);
        assert_eq!(changes(&kept, &cost("6.18", 102.9, 800.0)), Vec::<String>::new());
        let slower = changes(&kept, &cost("6.18", 110.0, 800.0));
        assert_eq!(slower, ["unicast, 1 flow: 100 -> 110 instructions per frame (+10.0 %)"]);
        let larger = changes(&kept, &cost("6.18", 100.0, 1600.0));
        assert_eq!(larger, ["switch/flowlane_xdp: 800 -> 1600 octets of BPF (+100.0 %)"]);
    }

    #[test]
    fn sizes_that_another_kernel_made_are_not_compared() {
        assert!(changes(&cost("6.18", 100.0, 800.0), &cost("6.19", 100.0, 1600.0)).is_empty());
    }

    #[test]
    fn what_is_new_or_gone_has_changed() {
        let present = cost("6.18", 100.0, 800.0);
        assert_eq!(changes(&Cost::default(), &present).len(), 4);
        let none = Cost { kernel: "6.18".to_owned(), ..Cost::default() };
        assert_eq!(changes(&present, &none).len(), 4);
    }

    #[test]
    fn a_stage_that_has_changed_is_named() {
        let kept = cost("6.18", 100.0, 800.0);
        let mut present = cost("6.18", 100.0, 800.0);
        present.instructions_per_stage.insert("parse".to_owned(), 12.0);
        assert_eq!(changes(&kept, &present), ["stage parse: 10 -> 12 instructions per frame (+20.0 %)"]);
    }

    #[test]
    fn the_count_is_found_in_what_callgrind_says() {
        assert_eq!(collected("{}\n==7== Events    : Ir\n==7== Collected : 1616120\n"), Some(1_616_120));
        assert_eq!(collected("==7== Collected : 0\n"), None);
    }
}
