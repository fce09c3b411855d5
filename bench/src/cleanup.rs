//! What a signal must not leave behind.

use crate::{Error, huge_pages, switch::remove_pins};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::Pid,
};
use std::{
    fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Whether a signal has come.
static ENDS: AtomicBool = AtomicBool::new(false);

/// While this lives, Ctrl-C and SIGTERM end the process and leave nothing behind: no process that it has started, no pin, no
/// huge page, no file. Network namespaces go with the process. The exit code is the one that the shell has for a command
/// that a signal ends.
pub struct CleanUp(#[expect(dead_code, reason = "dropped, it takes its files away")] TempDir);

impl CleanUp {
    /// From now on. What `first` does comes before all else.
    ///
    /// # Errors
    /// [`Error::System`] where there is no place for temporary files, or no thread can be started.
    pub fn on_signals(first: impl FnOnce() + Send + 'static) -> Result<Self, Error> {
        let directory = tempfile::Builder::new().prefix("flowlane-bench-").tempdir();
        let directory = directory.map_err(Error::system("make a directory for temporary files"))?;
        let path = directory.path().to_owned();
        // Set already, all files are below that of another one of these.
        let _ = tempfile::env::override_temp_dir(&path);
        let signals = Signals::catch().map_err(Error::system("wait for signals"))?;
        let wait = move || {
            let signal = signals.wait();
            ENDS.store(true, Ordering::Relaxed);
            first();
            remove(path);
            process::exit(128 + signal as i32);
        };
        thread::Builder::new().name("signals".into()).spawn(wait).map_err(Error::system("start a thread"))?;
        Ok(Self(directory))
    }

    /// Does not come back if a signal has come: an error that the end of everything has caused is none to tell about.
    pub fn wait_for_the_end(&self) {
        while ENDS.load(Ordering::Relaxed) {
            thread::park();
        }
    }
}

/// How long the other threads may take to notice that what they pin is removed.
const WITHIN: Duration = Duration::from_secs(2);

/// Both signals. They are caught and not blocked, which programs that are started would inherit.
struct Signals {
    runtime: runtime::Runtime,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let inside = runtime.enter();
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(inside);
        Ok(Self { runtime, interrupt, terminate })
    }

    fn wait(mut self) -> Signal {
        let (interrupt, terminate) = (&mut self.interrupt, &mut self.terminate);
        self.runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => Signal::SIGINT,
                _ = terminate.recv() => Signal::SIGTERM,
            }
        })
    }
}

/// Nothing more can be done about what can not be removed.
fn remove(directory: PathBuf) {
    for child in children() {
        let _ = kill(child, Signal::SIGKILL).and_then(|()| waitpid(child, None));
    }
    // What the other threads are pinning meanwhile comes after the first time.
    let start = Instant::now();
    while remove_pins() && start.elapsed() < WITHIN {
        thread::sleep(Duration::from_millis(10));
    }
    huge_pages::give_back();
    let _ = fs::remove_dir_all(directory);
}

/// All processes that this one has started and that are not gone.
fn children() -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent(*pid) == Some(process::id())).map(Pid::from_raw).collect()
}

/// The fourth field of proc_pid_stat(5). The second one is a name in brackets, which may hold anything.
fn parent(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn processes_that_were_started_are_found() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("started");
        assert!(children().contains(&Pid::from_raw(child.id() as i32)));
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert!(!children().contains(&Pid::from_raw(child.id() as i32)));
    }
}
