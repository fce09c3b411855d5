//! Parts of the benchmark that `cargo xtask bench` and `cargo xtask cost` run in a process of their own.

use clap::Parser;
use flowlane_bench::{
    BATCH, Bar, CleanUp, Error, Forwarder, OnMemory, Plan, Stage, Work, program_sizes, requests, run,
};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};
use std::{path::PathBuf, process::ExitCode, thread};

/// Parts of the benchmark.
#[derive(Parser)]
#[command(name = "flowlane-bench")]
enum Part {
    /// The userspace pipeline on frames in memory: nanoseconds for each.
    Memory(MemoryOptions),
    /// One step of the userspace pipeline on frames in memory, in the function `stage_` and its name: for callgrind.
    Stage(StageOptions),
    /// Everything, with the peers that are installed. Needs root. JSON on the standard output.
    All(AllOptions),
    /// How fast a switch leases flows, asked by DHCPv6; needs root.
    Requests(RequestsOptions),
    /// Forward between two interfaces by a switch in XDP until a signal comes, for another benchmark; needs root.
    ///
    /// Says `ready`, and then nothing more. See bench/lab.
    Forward(ForwardOptions),
    /// The sizes of the kernel's programs; needs root.
    Sizes,
}

#[derive(clap::Args)]
struct ForwardOptions {
    /// Where frames come in.
    ingress: String,
    /// Where they leave.
    egress: String,
    /// How many flows: destinations 02:f1:00:00:00:00 and up.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    flows: u32,
}

#[derive(clap::Args)]
struct AllOptions {
    /// How often each contestant is measured, in turns.
    #[arg(long, default_value_t = 5)]
    repeats: u32,
    /// Only these, by name; all of them without.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(clap::Args)]
struct RequestsOptions {
    /// The program `flowlane`.
    switch: PathBuf,
}

#[derive(clap::Args)]
struct MemoryOptions {
    /// What the switch has to do: unicast, source, metered, group or flagged.
    #[arg(long, default_value = "unicast", value_parser = work)]
    work: Work,
    /// How many flows.
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// How many batches of 256 frames.
    #[arg(long, default_value_t = 20_000)]
    batches: u32,
}

#[derive(clap::Args)]
struct StageOptions {
    /// The step: parse, look_up, flag, check, resolve, meter, rewrite or replicate.
    #[arg(value_parser = stage)]
    stage: Stage,
    /// How many batches of 256 frames.
    #[arg(long, default_value_t = 40)]
    batches: u32,
}

fn main() -> ExitCode {
    let part = Part::parse();
    let mut bar = Bar::default();
    let cleanup = CleanUp::on_signals(bar.end()).and_then(|cleanup| end_with_parent().map(|()| cleanup));
    let done = cleanup.and_then(|cleanup| {
        let done = run_part(&part, &mut bar);
        cleanup.wait_for_the_end();
        done
    });
    drop(bar);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Who started this process reads what it prints: without him it is not needed.
fn end_with_parent() -> Result<(), Error> {
    set_pdeathsig(Signal::SIGTERM)
        .map_err(|source| Error::System { action: "be told when the parent ends", source: source.into() })
}

fn run_part(part: &Part, bar: &mut Bar) -> Result<(), Error> {
    match part {
        Part::Memory(options) => memory(options),
        Part::Stage(options) => print(&serde_json::json!({ "passed": options.stage.run(options.batches)? })),
        Part::All(options) => all(options, bar),
        Part::Requests(options) => print(&requests(&options.switch)?),
        Part::Forward(options) => forward(options),
        Part::Sizes => print(&program_sizes()?),
    }
}

fn all(options: &AllOptions, bar: &mut Bar) -> Result<(), Error> {
    let plan = Plan { repeats: options.repeats, ..Plan::with_peers() };
    let plan = if options.only.is_empty() { plan } else { plan.only(&options.only)? };
    print(&run(&plan, bar)?)
}

fn forward(options: &ForwardOptions) -> Result<(), Error> {
    let _forwarder = Forwarder::between(&options.ingress, &options.egress, options.flows)?;
    println!("ready");
    // The signal ends the process.
    loop {
        thread::park();
    }
}

fn print(document: &impl serde::Serialize) -> Result<(), Error> {
    println!("{:#}", serde_json::json!(document));
    Ok(())
}

fn memory(options: &MemoryOptions) -> Result<(), Error> {
    let mut memory = OnMemory::new(options.work, options.flows)?;
    let (time, sent) = memory.run(options.batches);
    let frames = u64::from(options.batches) * u64::from(BATCH);
    print(&serde_json::json!({ "frames": frames, "sent": sent, "ns": time.as_nanos() as f64 / frames as f64 }))
}

fn stage(name: &str) -> Result<Stage, String> {
    Stage::named(name).ok_or_else(|| format!("one of {}", Stage::ALL.map(Stage::name).join(", ")))
}

fn work(name: &str) -> Result<Work, String> {
    Work::named(name).ok_or_else(|| format!("one of {}", Work::ALL.map(Work::name).join(", ")))
}
