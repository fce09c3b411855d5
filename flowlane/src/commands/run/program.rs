//! From this process to the program: the daemon that is asked, and what the program inherits.

use super::RunError;
use crate::{
    cli::Global,
    commands::daemon::{DaemonError, connect},
};
use flowlane_client::{Client, ClientError, socket};
use miette::Result;
use nix::{
    sys::signal::{SigHandler, Signal, signal},
    unistd::{execvp, geteuid, setsid},
};
use std::{
    env,
    ffi::{CString, OsString},
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it answers.
const INTERVAL: Duration = Duration::from_millis(5);

/// The daemon of this network namespace. Root starts one where there is none, which ends after the last run.
///
/// # Errors
/// [`DaemonError`], [`RunError`].
pub fn daemon(global: &Global) -> Result<Client> {
    match connect(global) {
        Err(DaemonError(ClientError::NoDaemon { .. })) if geteuid().is_root() => {
            start(global)?;
            Ok(connect(global)?)
        }
        done => Ok(done?),
    }
}

/// Starts a daemon by way of a process that ends when it answers: the program that this process becomes has no child that
/// it did not start.
fn start(global: &Global) -> Result<(), RunError> {
    let mut command = flowlane(global).map_err(RunError::system("start the daemon"))?;
    command.args(["host", "--transient", "--background"]);
    let done = command.stdin(Stdio::null()).output().map_err(RunError::system("start the daemon"))?;
    if done.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(RunError::Daemon { reason, log: log(global).unwrap_or_default() })
}

/// Starts a daemon in the background and waits until it answers. What it says goes to the log beside its socket.
///
/// # Errors
/// [`RunError`], with what it said if it has ended.
pub fn transient(global: &Global, arguments: &[OsString]) -> Result<(), RunError> {
    let path = log(global).map_err(RunError::system("look at the network namespace"))?;
    let mut log = open_log(&path).map_err(RunError::system("write the daemon's log"))?;
    let start = log.seek(SeekFrom::End(0)).map_err(RunError::system("write the daemon's log"))?;
    let mut child = spawn(global, arguments, &log).map_err(RunError::system("start the daemon"))?;
    wait_until_it_answers(global, &mut child).map_err(|reason| {
        let mut said = String::new();
        let read = log.seek(SeekFrom::Start(start)).and_then(|_| log.read_to_string(&mut said));
        let said = read.map(|_| said.trim().to_owned()).unwrap_or_default();
        RunError::Daemon { reason: if said.is_empty() { reason } else { said }, log: path }
    })
}

fn spawn(global: &Global, arguments: &[OsString], log: &File) -> io::Result<Child> {
    let mut command = flowlane(global)?;
    command.args(["host", "--detached"]).args(arguments).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?).spawn()
}

fn wait_until_it_answers(global: &Global, child: &mut Child) -> Result<(), String> {
    let start = Instant::now();
    while connect(global).is_err() {
        if let Ok(Some(status)) = child.try_wait() {
            // Another one was faster.
            return if connect(global).is_ok() { Ok(()) } else { Err(format!("it has ended with {status}")) };
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            return Err(format!("it did not answer within {} s", PATIENCE.as_secs()));
        }
        sleep(INTERVAL);
    }
    Ok(())
}

fn flowlane(global: &Global) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("--runtime-directory").arg(std::path::absolute(&global.runtime_directory)?);
    command.env_remove("FLOWLANE_SOCKET");
    Ok(command)
}

/// The log of a daemon without a terminal: beside its socket.
fn log(global: &Global) -> io::Result<PathBuf> {
    let socket = socket(&global.runtime_directory).map_err(io::Error::other)?;
    Ok(socket.with_file_name("log"))
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    fs::OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

/// Becomes the program: process, terminal, signals and exit code are its own.
pub fn execute(command: &[OsString]) -> RunError {
    let words: Result<Vec<CString>, _> = command.iter().map(|word| CString::new(word.as_bytes())).collect();
    let failed = match words {
        Ok(words) => match words.first() {
            Some(program) => {
                give_sigpipe_back();
                let Err(errno) = execvp(program, &words);
                errno.into()
            }
            None => io::ErrorKind::NotFound.into(),
        },
        Err(error) => error.into(),
    };
    let program = command.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    RunError::Program { program, source: failed }
}

/// Whether this process was started with SIGPIPE ignored, as services of systemd are.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Rust's runtime ignores SIGPIPE before `main`, and what was before is not to be had any more. So it is noted earlier:
/// functions in this section are called when the process begins.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

extern "C" fn note_sigpipe() {
    // SAFETY: `sigaction` is plain data, for which zeroes are valid.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and what is set is written to `before`, which lives long enough.
    let done = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &raw mut before) };
    SIGPIPE_WAS_IGNORED.store(done == 0 && before.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
}

/// Leaves SIGPIPE as this process found it.
fn give_sigpipe_back() {
    let found = if SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed) { SigHandler::SigIgn } else { SigHandler::SigDfl };
    // SAFETY: neither action runs code of ours.
    let done = unsafe { signal(Signal::SIGPIPE, found) };
    // SIGPIPE is a signal whose action may be set: this can not fail.
    let _ = done;
}

/// Leaves the session and the cgroup of whoever started this process, so that nothing that happens to his terminal or his
/// service reaches it.
pub fn leave_session() {
    // Fails where this process leads a process group, which nobody has made it do.
    let _ = setsid();
    if let Err(error) = flowlane_host::cgroup::leave() {
        tracing::warn!(%error, "a service or session that ends may take this daemon along, and its flows with it");
    }
}
