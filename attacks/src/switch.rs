//! The switch that is attacked: a `flowlane switch` process with a name and directories of its own.

use crate::Error;
use flowlane_lab::{Mac, Netns};
use flowlane_program::Kernel;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a switch may take to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A switch. Dropping it removes everything that it has left in the kernel.
pub(crate) struct Switch {
    pub name: String,
    program: PathBuf,
    directory: TempDir,
    netns: Netns,
    process: Option<Child>,
}

/// How long what a switch does at once may take on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Waits for something that a switch does, and says whether it came.
pub(crate) fn wait(mut is_so: impl FnMut() -> Result<bool, Error>) -> Result<bool, Error> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > SOON {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

/// What the local interface answers: what was asked for, or the problem.
pub(crate) type Answer = Result<Value, Value>;

impl Switch {
    /// Starts a switch with these settings in a namespace, and waits until it answers.
    pub(crate) fn start(program: &Path, netns: &Netns, settings: &str) -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("attacked-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = TempDir::new().map_err(Error::system("make a directory for the switch"))?;
        let mut switch = Self { name, program: program.to_owned(), directory, netns: netns.clone(), process: None };
        let (state, run) = (switch.path("state"), switch.path("run"));
        let text = format!(
            "name = \"{}\"\nstate_directory = \"{}\"\nruntime_directory = \"{}\"\n{settings}",
            switch.name,
            state.display(),
            run.display()
        );
        fs::write(switch.path("switch.toml"), text).map_err(Error::system("write the switch's configuration"))?;
        switch.start_again()?;
        Ok(switch)
    }

    /// Starts a switch that was ended.
    pub(crate) fn start_again(&mut self) -> Result<(), Error> {
        let log = File::options().create(true).append(true).open(self.path("log"));
        let mut command = self.netns.command(&self.program);
        command.arg("switch").arg("--config").arg(self.path("switch.toml")).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.map_err(Error::system("write a log"))?);
        self.process = Some(command.spawn().map_err(Error::system("start the switch"))?);
        let start = Instant::now();
        while self.call("GET", "/v1/status", None).is_err() {
            if start.elapsed() > PATIENCE || !self.is_running() {
                return Err(Error::Switch(format!("it does not start: {}", self.log())));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the process as a service manager does. What it has put into the kernel stays.
    pub(crate) fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM);
            let _ = process.wait();
        }
    }

    /// Whether the process that was started still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// A path in the switch's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Asks by the local interface.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Answer, Error> {
        let socket = UnixStream::connect(self.path("run/switch.sock"));
        let mut socket = socket.map_err(Error::system("reach the switch"))?;
        let body = body.unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: switch\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let mut text = Vec::new();
        let exchanged = socket
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| socket.write_all(&[head.as_bytes(), body].concat()))
            .and_then(|()| socket.read_to_end(&mut text));
        exchanged.map_err(Error::system("talk to the switch"))?;
        let text = String::from_utf8_lossy(&text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let is_done = head.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
        let value = serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()));
        Ok(if is_done { Ok(value) } else { Err(value) })
    }

    /// What is at a path.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Error> {
        self.call("GET", path, None)?.map_err(|problem| Error::Switch(format!("GET {path}: {problem}")))
    }

    /// Asks for flows; the first address.
    pub(crate) fn open(&self, request: &Value) -> Result<Mac, Error> {
        let lease = self.call("POST", "/v1/flows", Some(request.to_string().as_bytes()))?;
        let lease = lease.map_err(|problem| Error::Switch(format!("{request}: {problem}")))?;
        address(&lease["addresses"][0])
    }

    /// Asks for a flow of a client by its port.
    pub(crate) fn open_on(&self, port: &str, client: &str) -> Result<Mac, Error> {
        self.open(&json!({ "port": port, "client": client }))
    }

    /// Frames that came in by a port, by end.
    pub(crate) fn counts(&self, interface: &str) -> Result<Counts, Error> {
        let count = |(end, count): (&String, &Value)| (end.clone(), count.as_u64().unwrap_or(0));
        Ok(Counts(self.port(interface)?["counts"].as_object().into_iter().flatten().map(count).collect()))
    }

    /// What the switch says of a port.
    pub(crate) fn port(&self, interface: &str) -> Result<Value, Error> {
        let status = self.get("/v1/status")?;
        let port = status["ports"].as_array().into_iter().flatten().find(|port| port["interface"] == interface);
        port.cloned().ok_or_else(|| Error::Switch(format!("it has no port {interface}")))
    }

    /// Differences between leases and table.
    pub(crate) fn differences(&self) -> Result<Vec<Value>, Error> {
        let found = self.call("POST", "/v1/table/verify", None)?;
        let found = found.map_err(|problem| Error::Switch(problem.to_string()))?;
        Ok(found["differences"].as_array().cloned().unwrap_or_default())
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.end();
        // Nobody is left to hear of a failure; the pins are in a directory of this switch's name.
        let _ = Kernel::remove(&self.name);
    }
}

/// Frames by end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// How many frames came to this end.
    pub(crate) fn of(&self, end: &str) -> u64 {
        self.0.get(end).copied().unwrap_or(0)
    }

    /// What has come since.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let grown = |(end, count): (&String, &u64)| (end.clone(), count.wrapping_sub(before.of(end)));
        Self(self.0.iter().map(grown).filter(|(_, count)| *count > 0).collect())
    }

    /// All frames.
    pub(crate) fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    /// How many frames came to one of these ends.
    pub(crate) fn of_all(&self, ends: &[&str]) -> u64 {
        ends.iter().map(|end| self.of(end)).sum()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut between = "";
        for (end, count) in &self.0 {
            write!(f, "{between}{count} {end}")?;
            between = ", ";
        }
        if self.0.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

/// An address, as the local interface writes it.
pub(crate) fn address(value: &Value) -> Result<Mac, Error> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Error::Switch(format!("{value} is no address")))
}
