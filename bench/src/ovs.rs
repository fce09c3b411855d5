//! Open vSwitch's userspace datapath, with an OpenFlow rule for each flow: a switch of its own, with its own database.

mod null_ports;

use crate::{
    Error,
    contestant::SetUp,
    frame::{NEXT_HOP, addresses},
    package::{self, Package},
    path::Path,
    processor::{Priority, Processor},
};
use flowlane_lab::Netns;
use std::{
    fmt::Write as _,
    fs,
    path::Path as File,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub(crate) use null_ports::ns_between_null_ports;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// It forgets no flow while others are measured: milliseconds.
const KEEP: &str = "other_config:max-idle=3600000";
const PATIENCE: Duration = Duration::from_secs(10);

/// How its ports get their frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// By packet sockets.
    AfPacket,
    /// By AF_XDP sockets, which a thread polls without end.
    AfXdp,
    /// By DPDK, without interfaces, which a thread polls without end.
    Null,
}

/// A database, a switch, and what they keep. The processes are killed when this is dropped.
struct Ovs {
    switch: Daemon,
    _database: Daemon,
    directory: TempDir,
}

/// A process that is killed when this is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // What it has goes with the directory and the namespace.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Joins ingress and egress by a switch that rewrites both addresses.
pub(crate) fn set_up(path: &Path, ports: Ports, flows: u32, on: &Processor) -> Result<SetUp, Error> {
    let ovs = Ovs::start(&path.switch, ports, on)?;
    ovs.add_bridge()?;
    ovs.add_flows(flows)?;
    for (port, number) in [(&path.ingress, 1), (&path.egress, 2)] {
        let options: &[&str] = if ports == Ports::AfXdp { &["type=afxdp", "options:xdp-mode=native"] } else { &[] };
        ovs.add_port(port.name(), number, options)?;
    }
    let process = ovs.process();
    Ok(SetUp::of(ovs).with_process(process))
}

impl Ports {
    fn package(self) -> Package {
        match self {
            // The one with DPDK has no AF_XDP ports.
            Self::AfPacket | Self::AfXdp => package::OVS,
            Self::Null => package::OVS_DPDK,
        }
    }

    /// What the switch has to know before it starts.
    fn settings(self, on: &Processor) -> Vec<String> {
        let mut settings = vec![KEEP.to_owned()];
        if self != Self::AfPacket {
            settings.push(format!("other_config:pmd-cpu-mask={:#x}", on.mask()));
        }
        if self == Self::Null {
            settings.extend(null_ports::SETTINGS.map(str::to_owned));
        }
        settings
    }

    /// Where its threads begin. One that polls without end would let no other have the processor if it went ahead.
    fn keep(self, on: &Processor) -> Result<(), Error> {
        match self {
            Self::AfPacket => on.keep_with(Priority::Ahead),
            Self::AfXdp => on.keep(),
            Self::Null => Ok(()),
        }
    }
}

impl Ovs {
    fn start(netns: &Netns, ports: Ports, on: &Processor) -> Result<Self, Error> {
        let program = ports.package().program()?;
        let directory = tempfile::tempdir().map_err(Error::system("make a directory for Open vSwitch"))?;
        let at = |name: &str| directory.path().join(name).display().to_string();
        done(command(directory.path(), "ovsdb-tool").args(["create", &at("conf.db"), SCHEMA]))?;
        let remote = format!("--remote=punix:{}", at("db.sock"));
        let unixctl = format!("--unixctl={}", at("db.ctl"));
        let database = daemon(command(directory.path(), "ovsdb-server").args([&at("conf.db"), &remote, &unixctl]))?;
        wait_for(&directory.path().join("db.sock"))?;
        done(vsctl(directory.path()).args(["--no-wait", "init"]))?;
        for setting in ports.settings(on) {
            done(vsctl(directory.path()).args(["--no-wait", "set", "Open_vSwitch", ".", &setting]))?;
        }
        let mut switch = netns.command(program);
        environment(&mut switch, directory.path());
        switch.args([format!("unix:{}", at("db.sock")), format!("--unixctl={}", at("switch.ctl"))]);
        // A program begins where the thread is that starts it, with its priority.
        let switch = netns.run(|| ports.keep(on).and_then(|()| daemon(&mut switch)))??;
        Ok(Self { switch, _database: database, directory })
    }

    fn process(&self) -> u32 {
        self.switch.0.id()
    }

    /// A bridge that drops what it has no rule for.
    fn add_bridge(&self) -> Result<(), Error> {
        let mut vsctl = vsctl(self.directory.path());
        vsctl.args(["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure"]);
        done(&mut vsctl)
    }

    fn add_port(&self, name: &str, number: u32, options: &[&str]) -> Result<(), Error> {
        let mut vsctl = vsctl(self.directory.path());
        vsctl.args(["add-port", "br0", name, "--", "set", "interface", name]);
        done(vsctl.arg(format!("ofport_request={number}")).args(options))
    }

    /// One rule for each flow: source := the flow's address, destination := the next hop.
    fn add_flows(&self, flows: u32) -> Result<(), Error> {
        let mut rules = String::new();
        for address in addresses(flows) {
            let actions = format!("mod_dl_src:{address},mod_dl_dst:{NEXT_HOP},output:2");
            // Writing to a string does not fail.
            let _ = writeln!(rules, "priority=10,dl_dst={address},actions={actions}");
        }
        let file = self.directory.path().join("flows");
        fs::write(&file, rules).map_err(Error::system("write Open vSwitch's flows"))?;
        done(self.ofctl("add-flows").arg(file)).map(drop)
    }

    /// A command for the bridge.
    fn ofctl(&self, what: &str) -> Command {
        let mut ofctl = command(self.directory.path(), "ovs-ofctl");
        ofctl.arg(what).arg(format!("unix:{}", self.directory.path().join("br0.mgmt").display()));
        ofctl
    }
}

fn vsctl(directory: &File) -> Command {
    let mut vsctl = command(directory, "ovs-vsctl");
    vsctl.arg("--timeout=20").arg(format!("--db=unix:{}", directory.join("db.sock").display()));
    vsctl
}

fn command(directory: &File, program: &str) -> Command {
    let mut command = Command::new(program);
    environment(&mut command, directory);
    command
}

/// Everything is kept in one directory, beside a switch that the machine may have.
fn environment(command: &mut Command, directory: &File) {
    for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(name, directory);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
}

fn daemon(command: &mut Command) -> Result<Daemon, Error> {
    command.spawn().map(Daemon).map_err(Error::system("start Open vSwitch"))
}

/// Runs a tool to its end. It may succeed and complain nevertheless, as about a port that can not be opened.
fn done(command: &mut Command) -> Result<(), Error> {
    said(command).map(drop)
}

/// The same. What it says.
fn said(command: &mut Command) -> Result<String, Error> {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = piped.output().map_err(Error::system("start a tool of Open vSwitch"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && !complaint.contains("Error detected") {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Ovs(complaint.trim().to_owned()))
}

fn wait_for(socket: &File) -> Result<(), Error> {
    let start = Instant::now();
    while !socket.exists() {
        if start.elapsed() > PATIENCE {
            return Err(Error::Ovs("its database does not answer".to_owned()));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
