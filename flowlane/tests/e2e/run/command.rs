//! The program that is run is itself: process, terminal, signals, streams, exit code.

use super::{
    host::{FlowHost, Going, output, text},
    services::Services,
    site::Site,
};
use nix::sys::signal::Signal;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, Output, Stdio},
    thread,
};

/// A shell can not trap what whoever has started the tests ignores, as a job in the background does SIGINT.
const INTERRUPTIBLE: [&str; 2] = ["env", "--default-signal=INT"];

/// The same command, started plainly and by `flowlane run`.
fn both(host: &FlowHost, command: &[&str]) -> [Output; 2] {
    let plain = output(host.command(command[0]).args(&command[1..]));
    [plain, output(&mut host.run(&[&["--"], command].concat()))]
}

#[test]
fn a_program_is_run_as_the_shell_would() {
    let site = Site::new("tc", |services| services);
    output_and_exit_code_are_its_own(&site.host);
    it_inherits_what_the_shell_gives(&site.host);
    it_is_the_process_that_was_started(&site.host);
    standard_input_passes(&site.host);
    signals_reach_it(&site.host);
    what_can_not_be_run_is_told_as_env_does(&site.host);
    it_has_the_terminal(&site.host);
    site.is_clean();
}

fn output_and_exit_code_are_its_own(host: &FlowHost) {
    for script in
        ["exit 0", "printf 'a\\000b\\n'; printf error >&2; exit 37", "kill -9 $$", "kill -TERM $$", "false | true"]
    {
        let [plain, run] = both(host, &["sh", "-c", script]);
        assert_eq!((plain.status, plain.stdout, plain.stderr), (run.status, run.stdout, run.stderr), "{script}");
    }
    let options_of_its_own = both(host, &["printf", "%s\n", "--json", "-n", "--to", "--"]);
    assert_eq!(options_of_its_own[0], options_of_its_own[1]);
}

fn it_inherits_what_the_shell_gives(host: &FlowHost) {
    let shown = "pwd; umask; ulimit -a; env; ls -l /proc/self/fd | wc -l; grep -E '^(Sig(Blk|Ign)|Cap|Uid|Gid|Groups)' /proc/self/status";
    let [plain, run] = both(host, &["sh", "-c", shown]);
    assert_eq!(text(&plain), text(&run));
}

fn it_is_the_process_that_was_started(host: &FlowHost) {
    let mut command = host.run(&["--", "sh", "-c", "echo $$"]);
    let child = command.stdout(Stdio::piped()).spawn().expect("the program runs");
    let pid = child.id().to_string();
    assert_eq!(text(&child.wait_with_output().expect("its output")).trim_end(), pid, "nothing stays between");
}

fn standard_input_passes(host: &FlowHost) {
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    let mut child =
        host.run(&["--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut input = child.stdin.take().expect("a pipe");
    let returned = thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&sent).expect("it reads");
            drop(input);
        });
        child.wait_with_output().expect("its output")
    });
    assert!(returned.status.success() && returned.stdout == sent);
}

fn signals_reach_it(host: &FlowHost) {
    let script = "trap 'exit 41' INT; trap 'exit 42' TERM; echo ready; while :; do sleep 0.01; done";
    for (signal, code) in [(Signal::SIGINT, Some(41)), (Signal::SIGTERM, Some(42)), (Signal::SIGKILL, None)] {
        let mut command = host.run(&[&["--"], &INTERRUPTIBLE[..], &["sh", "-c", script]].concat());
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("it is ready");
        let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::killpg(group, signal).expect("it is there");
        let status = child.wait().expect("a child");
        assert_eq!(status.code(), code, "{signal}: {status}");
        assert_eq!(status.signal().is_some(), code.is_none(), "{signal}: {status}");
    }
}

fn what_can_not_be_run_is_told_as_env_does(host: &FlowHost) {
    for (program, code) in [("/no/such/program", 127), ("no-such-program", 127), ("/etc/passwd", 126)] {
        let told = output(&mut host.run(&["--", program]));
        assert_eq!((told.status.code(), told.stdout.is_empty()), (Some(code), true), "{told:?}");
        assert!(String::from_utf8_lossy(&told.stderr).contains(program), "{told:?}");
    }
}

/// `script` gives it a terminal, and types into it.
fn it_has_the_terminal(host: &FlowHost) {
    let typed = |line: &str, keys: &'static [u8]| {
        let run = host.run(&[&["--"], &INTERRUPTIBLE[..], &["sh", "-c", line]].concat());
        let words = std::iter::once(run.get_program()).chain(run.get_args());
        let quoted: Vec<String> =
            words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))).collect();
        let mut command: Command = host.command("script");
        // `exec`: a shell between would end by the same SIGINT, and its status would be seen.
        let line = format!("exec {}", quoted.join(" "));
        command.env("SHELL", "/bin/sh").args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script is installed");
        let mut output = child.stdout.take().expect("a pipe");
        let mut shown = vec![0; 64];
        let len = output.read(&mut shown).expect("it shows something");
        shown.truncate(len);
        child.stdin.as_mut().expect("a pipe").write_all(keys).expect("typed");
        output.read_to_end(&mut shown).expect("the rest");
        let status = child.wait().expect("a child");
        (status.code(), String::from_utf8_lossy(&shown).into_owned())
    };
    let (code, shown) = typed("tty -s && echo a terminal; read word; echo got $word; exit 3", b"typed\n");
    assert_eq!(code, Some(3), "{shown}");
    assert!(shown.contains("a terminal\r\n") && shown.contains("got typed\r\n"), "{shown:?}");
    let (code, shown) = typed("trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.01; done", b"\x03");
    assert_eq!(code, Some(7), "{shown}");
    assert!(shown.contains("interrupted"), "{shown:?}");
}

/// Ctrl-Z and `fg`: nothing stays between that would have to be stopped too.
#[test]
fn a_stopped_program_keeps_its_flow() {
    let site = Site::new("tc", Services::nginx);
    let going = Going::ping(&site.host, &[], "10.2.0.2");
    let flow = site.host.open_flow("10.2.0.2");
    going.signal(Signal::SIGTSTP);
    let stopped = format!("/proc/{}/stat", going.pid());
    crate::lab::eventually("it stops", || std::fs::read_to_string(&stopped).expect("/proc").contains(") T "));
    assert_eq!(site.host.open_flow("10.2.0.2").address, flow.address);
    going.signal(Signal::SIGCONT);
    let packets = site.host.open_flow("10.2.0.2").packets;
    crate::lab::eventually("it goes on", || site.host.open_flow("10.2.0.2").packets > packets);
    assert_eq!(going.lost().1, 0);
    site.is_clean();
}
