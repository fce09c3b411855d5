//! The switch of the demo: this very program, started as anybody would start it.

use super::network::Network;
use crate::{
    api::{
        FlowView, PortView, Status,
        client::{Address, Client},
        groups::{GroupView, OpenGroup},
    },
    config::{Config, Executor},
};
use flowlane_program::Kernel;
use flowlane_wire::Mac;
use miette::{IntoDiagnostic as _, Report, WrapErr as _, miette};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A running switch. Dropping it ends it, and leaves nothing in the kernel or on the disk.
pub struct Switch {
    child: Child,
    config: Config,
    _directory: TempDir,
    runtime: tokio::runtime::Runtime,
}

/// How long the switch may take to start.
const PATIENCE: Duration = Duration::from_secs(15);

impl Switch {
    /// Starts the switch on the network's ports, and waits until it is ready.
    pub fn start(network: &Network, executor: Executor, capture: &Path) -> Result<Self, Report> {
        let directory = tempfile::Builder::new().prefix("flowlane-demo-").tempdir().into_diagnostic()?;
        let (path, log) = (directory.path().join("switch.toml"), directory.path().join("switch.log"));
        fs::write(&path, configuration(directory.path(), network, executor, capture)).into_diagnostic()?;
        let config = Config::read(&path)?;
        let program = std::env::current_exe().into_diagnostic()?;
        let mut command = network.switch.command(program);
        command.arg("switch").arg("--config").arg(&path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).into_diagnostic()?);
        let child = command.spawn().into_diagnostic().wrap_err("the switch can not be started")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
        let mut switch = Self { child, config, _directory: directory, runtime };
        switch.wait(&log)?;
        Ok(switch)
    }

    fn wait(&mut self, log: &Path) -> Result<(), Report> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.status().is_ok_and(|status| status.ports.iter().all(|port| port.executor.is_some() && port.up)) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().into_diagnostic()? {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(miette!(
                    code = "FL0702",
                    help = "see: flowlane doctor",
                    "the switch ended ({status}):\n{said}"
                ));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(miette!(code = "FL0703", help = "see: flowlane doctor", "the switch was not ready in {PATIENCE:?}"))
    }

    /// The switch as it is.
    pub fn status(&self) -> Result<Status, Report> {
        let switch = Address::Socket(self.config.socket());
        self.runtime.block_on(async { Client::connect(&switch).await?.status().await }).into_diagnostic()
    }

    /// All flows.
    pub fn flows(&self) -> Result<Vec<FlowView>, Report> {
        let switch = Address::Socket(self.config.socket());
        self.runtime.block_on(async { Client::connect(&switch).await?.flows().await }).into_diagnostic()
    }

    /// One flow.
    pub fn flow(&self, address: Mac) -> Result<FlowView, Report> {
        let switch = Address::Socket(self.config.socket());
        self.runtime.block_on(async { Client::connect(&switch).await?.flow(address).await }).into_diagnostic()
    }

    /// Leases the address of a group.
    pub fn open_group(&self, request: &OpenGroup) -> Result<GroupView, Report> {
        let switch = Address::Socket(self.config.socket());
        self.runtime.block_on(async { Client::connect(&switch).await?.open_group(request).await }).into_diagnostic()
    }

    /// One group.
    pub fn group(&self, address: &str) -> Result<GroupView, Report> {
        let (switch, address) = (Address::Socket(self.config.socket()), address.parse().into_diagnostic()?);
        self.runtime.block_on(async { Client::connect(&switch).await?.group(address).await }).into_diagnostic()
    }

    /// One port.
    pub fn port(&self, interface: &str) -> Result<PortView, Report> {
        let found = self.status()?.ports.into_iter().find(|port| port.interface == interface);
        found.ok_or_else(|| miette!("the switch has no port {interface}"))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
        // A switch leaves its programs for a successor; here there will be none.
        let _ = Kernel::remove(&self.config.name);
    }
}

fn configuration(directory: &Path, network: &Network, executor: Executor, capture: &Path) -> String {
    let quoted = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    let mut text = format!(
        "name = \"demo-{}\"\nexecutor = \"{}\"\nslots = 1024\nstate_directory = {}\nruntime_directory = {}\ncapture = {}\n",
        std::process::id(),
        executor.name(),
        quoted(&directory.join("state")),
        quoted(&directory.join("run")),
        quoted(capture),
    );
    for port in network.ports() {
        text.push_str(&format!("\n[[port]]\ninterface = \"{port}\"\n"));
    }
    text
}
