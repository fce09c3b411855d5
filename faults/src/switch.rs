//! A `flowlane switch` process that comes to harm.

use crate::{Error, api::Api};
use flowlane_lab::Netns;
use flowlane_program::{Kernel, bpffs};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{self, Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a switch may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A switch, running or not. Dropped, it takes with it what it has left in the kernel.
pub(crate) struct Switch {
    pub api: Api,
    program: PathBuf,
    name: String,
    netns: Netns,
    directory: TempDir,
    process: Option<Child>,
}

impl Switch {
    /// Starts a switch with these settings in a namespace, and waits until it answers.
    pub(crate) fn start(program: &Path, netns: &Netns, settings: &str) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("faults-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = TempDir::new().map_err(Error::system("make a directory for the switch"))?;
        let api = Api::new(&directory.path().join("run/switch.sock"))?;
        let (program, netns) = (program.to_owned(), netns.clone());
        let mut switch = Self { api, program, name, netns, directory, process: None };
        switch.configure(settings)?;
        switch.spawn()?;
        switch.wait_until_it_answers()?;
        Ok(switch)
    }

    /// Writes the configuration: name, directories, and these settings.
    pub(crate) fn configure(&self, settings: &str) -> Result<(), Error> {
        let directory = self.directory.path().display();
        let text = format!(
            "name = \"{}\"\nstate_directory = \"{directory}/state\"\nruntime_directory = \"{directory}/run\"\n{settings}",
            self.name
        );
        let path = self.path("switch.toml");
        fs::write(&path, text).map_err(Error::file(path))
    }

    /// Who is started from now on.
    pub(crate) fn set_program(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// A path in the directory of this switch.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its local interface's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/switch.sock")
    }

    /// Where its maps and links are pinned.
    pub(crate) fn pins(&self) -> Result<PathBuf, Error> {
        let root = bpffs::find().ok_or(std::io::ErrorKind::NotFound);
        Ok(root.map_err(Error::system("find the BPF file system"))?.join("flowlane").join(&self.name))
    }

    /// The directory of its tables among the pins.
    pub(crate) fn tables(&self) -> Result<PathBuf, Error> {
        let pins = self.pins()?;
        let entries = fs::read_dir(&pins).map_err(Error::file(&pins))?.flatten().map(|entry| entry.path());
        let mut tables: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        match (tables.pop(), tables.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err(Error::Refused { request: "one directory of tables".into(), answer: pins.display().to_string() }),
        }
    }

    pub(crate) fn spawn(&mut self) -> Result<(), Error> {
        let log = self.path("log");
        let log = File::options().create(true).append(true).open(&log).map_err(Error::file(log))?;
        let mut command = self.netns.command(&self.program);
        command.args(["switch", "--config"]).arg(self.path("switch.toml")).env("NO_COLOR", "1");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.map_err(Error::file(&self.program))?);
        Ok(())
    }

    /// Waits until it answers. How long that took.
    pub(crate) fn wait_until_it_answers(&mut self) -> Result<Duration, Error> {
        let start = Instant::now();
        while !self.api.answers() {
            let ended = self.process.as_mut().map(Child::try_wait).transpose().map_err(Error::system("wait for it"))?;
            if ended.flatten().is_some() {
                return Err(Error::Ended(self.last_words()));
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::Silent(self.last_words()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(start.elapsed())
    }

    /// Ends it between two instructions: SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<(), Error> {
        self.end(Signal::SIGKILL)
    }

    /// Ends it as a service manager does: SIGTERM.
    pub(crate) fn terminate(&mut self) -> Result<(), Error> {
        self.end(Signal::SIGTERM)
    }

    fn end(&mut self, signal: Signal) -> Result<(), Error> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let pid = Pid::from_raw(process.id().cast_signed());
        // It may have ended by itself, which its successor will show.
        let _ = kill(pid, signal);
        process.wait().map(drop).map_err(Error::system("wait for the switch"))
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // What can not be removed stays, under the name of this process.
        let _ = self.end(Signal::SIGKILL);
        let _ = Kernel::remove(&self.name);
    }
}
