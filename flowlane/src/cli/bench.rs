//! What `flowlane bench` is told.

use clap::Args;

/// What `bench` is told.
#[derive(Clone, Debug, Args)]
pub struct BenchOptions {
    /// In less than a minute: XDP, a BPF hash map and the Linux bridge, 1 flow and 1 million, against the bare redirect.
    #[arg(long)]
    pub quick: bool,
    /// How often each contestant is measured, in turns.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// Measure only these, and what they are measured against: contestants as the table names them, or tcp.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<String>,
}
