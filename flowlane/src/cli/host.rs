//! What `flowlane host` is told.

use clap::Args;
use std::path::PathBuf;

/// What `host` is told.
#[derive(Debug, Args)]
pub struct HostOptions {
    /// The configuration, a TOML file; by default /etc/flowlane/host.toml, where there is one.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say what the daemon would do, and start nothing.
    #[arg(long)]
    pub check_config: bool,
    /// End when the last run has ended.
    #[arg(long)]
    pub transient: bool,
    /// Return when the daemon answers; it goes on by itself.
    #[arg(long, conflicts_with = "check_config")]
    pub background: bool,
    /// Leave the session and its terminal: what is started by --background does.
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Wait for the end of the standard input, and undo what a daemon that was killed has left: it starts this by itself.
    #[arg(long, hide = true)]
    pub guard: bool,
}
