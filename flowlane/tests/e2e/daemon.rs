//! A `flowlane switch` process, with a name and directories of its own.

use crate::api::Api;
use flowlane_lab::Netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The built program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_flowlane");
/// How long a switch may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A switch, running or not. Dropping it removes everything that it has left in the kernel.
pub struct Daemon {
    pub name: String,
    pub api: Api,
    directory: TempDir,
    netns: Netns,
    process: Option<Child>,
}

impl Daemon {
    /// Starts a switch in a namespace, and waits until it answers.
    pub fn start(netns: &Netns, settings: &str) -> Self {
        let mut daemon = Self::stopped(netns, settings);
        daemon.start_again();
        daemon
    }

    /// A switch that is not started yet.
    pub fn stopped(netns: &Netns, settings: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = TempDir::new().expect("a directory");
        let api = Api::new(&directory.path().join("run/switch.sock"));
        let daemon = Self { name, api, directory, netns: netns.clone(), process: None };
        daemon.configure(settings);
        daemon
    }

    /// Writes the configuration: name, directories, and these settings.
    pub fn configure(&self, settings: &str) {
        let text = format!(
            "name = \"{}\"\nstate_directory = \"{}\"\nruntime_directory = \"{}\"\n{settings}",
            self.name,
            self.path("state").display(),
            self.path("run").display(),
        );
        fs::write(self.config(), text).expect("the configuration is written");
    }

    /// A path in the directory of this switch.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("switch.toml")
    }

    /// The command that runs this switch.
    pub fn command(&self) -> Command {
        let mut command = self.netns.command(PROGRAM);
        command.args(["switch", "--config"]).arg(self.config()).env("NO_COLOR", "1");
        command
    }

    /// Starts the switch, and waits until it answers.
    pub fn start_again(&mut self) {
        self.spawn();
        self.wait_until_it_answers();
    }

    /// Starts the switch.
    pub fn spawn(&mut self) {
        self.spawn_by(self.command());
    }

    /// Starts the switch by a command that does more than [`Daemon::command`].
    pub fn spawn_by(&mut self, mut command: Command) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.expect("the program runs"));
    }

    pub fn wait_until_it_answers(&mut self) {
        let start = Instant::now();
        while let Err(error) = self.api.answers() {
            let process = self.process.as_mut().expect("a process");
            if let Some(status) = process.try_wait().expect("a child") {
                self.process = None;
                panic!("the switch ended with {status}:\n{}", self.log());
            }
            assert!(start.elapsed() < PATIENCE, "the switch does not answer ({error}):\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the switch as a power cut would: SIGKILL.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends the switch as a service manager would: SIGTERM. It must end well.
    pub fn terminate(&mut self) {
        let status = self.end(Signal::SIGTERM);
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// Runs the switch, which is expected to end by itself with an error.
    pub fn fails(&self) -> Output {
        ends(self.command())
    }

    /// What the switch has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Where its pins are, if there are any.
    pub fn pins(&self) -> Option<PathBuf> {
        let path = flowlane_program::bpffs::find()?.join("flowlane").join(&self.name);
        path.exists().then_some(path)
    }

    /// `flowlane switch --remove`.
    pub fn remove(&self) -> Output {
        self.command().arg("--remove").output().expect("the program runs")
    }

    /// Sends the switch a signal that does not end it, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill(Pid::from_raw(process.id().cast_signed()), signal).expect("the process is there");
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.process.take().expect("it runs").wait().expect("a child")
    }
}

/// Runs a command that is expected to end by itself.
pub fn ends(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it does not end: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.end(Signal::SIGKILL);
        }
        let removed = self.remove();
        if thread::panicking() {
            eprintln!("{}", self.log());
            return;
        }
        assert!(removed.status.success(), "{removed:?}");
        assert_eq!(self.pins(), None, "pins are left");
    }
}
