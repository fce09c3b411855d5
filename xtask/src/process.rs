//! Other programs. They get no standard input.

use crate::error::Error;
use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

/// How often it is looked whether a silent program has ended.
const GLANCE: Duration = Duration::from_millis(500);
/// How long output may still come after a program has ended: whatever it left running may hold the pipe open for ever.
const DRAIN: Duration = Duration::from_secs(5);

/// The cargo that started this program.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `cargo run` points it at this compiler's libraries, which are wrong for any other compiler.
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// Runs a program, its output passing through.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let status = status(command)?;
    succeeded(command, status)
}

/// Runs a program, its output passing through, and returns how it ended.
pub fn status(command: &mut Command) -> Result<ExitStatus, Error> {
    command.stdin(Stdio::null()).status().map_err(not_started(command))
}

/// That a program ended so, as an error.
pub fn failed(command: &Command, status: ExitStatus) -> Error {
    // Cargo goes by its name, not by its path.
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> = [program].into_iter().chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    Error::Failed { command: words.join(" "), status: status.to_string() }
}

/// Runs a program and returns its standard output; what it says on the other is lost.
pub fn output(command: &mut Command) -> Result<String, Error> {
    let output = command.stdin(Stdio::null()).output().map_err(not_started(command))?;
    succeeded(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program and hands over each line of its standard output as it comes.
pub fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<(), Error> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(not_started(command))?;
    let lines = read_lines(&mut child);
    let mut patience = GLANCE;
    let status = loop {
        match lines.recv_timeout(patience) {
            Ok(line) => each(&line),
            Err(RecvTimeoutError::Disconnected) => break child.wait(),
            // Silence: either the program is at work, or it has ended and the pipe is in other hands.
            Err(RecvTimeoutError::Timeout) => match child.try_wait() {
                Ok(None) => {}
                // What it has written last may not have been read yet.
                Ok(Some(_)) if patience < DRAIN => patience = DRAIN,
                ended => break ended.map(Option::unwrap_or_default),
            },
        }
    };
    succeeded(command, status.map_err(not_started(command))?)
}

/// Whether there is such a program on the PATH.
pub fn exists(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn read_lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        thread::spawn(move || send_lines(pipe, &sender));
    }
    receiver
}

fn send_lines(pipe: impl Read, to: &mpsc::Sender<String>) {
    // By octets: tests may print what is not UTF-8.
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
    }
}

fn not_started(command: &Command) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let program = command.get_program().to_string_lossy().into_owned();
    move |source| Error::Start { program, source }
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<(), Error> {
    if status.success() { Ok(()) } else { Err(failed(command, status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_in_order_whatever_they_hold() {
        let mut seen = Vec::new();
        let mut command = Command::new("printf");
        lines(command.arg(r"one\n\n\377two\nlast"), |line| seen.push(line.to_owned())).expect("printf");
        assert_eq!(seen, ["one", "", "\u{fffd}two", "last"]);
    }

    #[test]
    fn a_failing_program_is_named_with_its_status() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).expect_err("it failed");
        assert_eq!(error.to_string(), "`sh -c exit 3` failed (exit status: 3): see its messages above");
    }

    #[test]
    fn a_left_over_process_with_the_pipe_open_does_not_hold_up() {
        let mut pid = None;
        let mut command = Command::new("sh");
        lines(command.args(["-c", "sleep 300 2>/dev/null & echo $!; exit 0"]), |line| pid = Some(line.to_owned()))
            .expect("ended");
        let pid = pid.expect("the line before");
        run(Command::new("kill").arg(pid)).expect("still running, as meant");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program-here")).expect_err("missing");
        assert!(error.to_string().starts_with("`no-such-program-here` could not be started"), "{error}");
    }
}
