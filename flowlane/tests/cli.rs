//! The built binary, as a shell meets it.
#![allow(missing_docs)]

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/host.rs"]
mod host;
#[path = "cli/run.rs"]
mod run_command;

use flowlane_client::protocol;
use flowlane_lab::{Netns, bridge};
use serde_json::Value;
use std::{
    fs::Permissions,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The binary, without what the environment might tell it.
fn flowlane() -> Command {
    cleared(Command::new(BINARY))
}

fn cleared(mut command: Command) -> Command {
    for name in ["FLOWLANE_SOCKET", "FLOWLANE_REMOTE", "FLOWLANE_RUNTIME_DIRECTORY", "RUST_LOG", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

const BINARY: &str = env!("CARGO_BIN_EXE_flowlane");

/// What a command line comes to.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(arguments: &[&str]) -> Run {
    finish(flowlane().args(arguments).output().expect("the binary starts"))
}

fn finish(output: Output) -> Run {
    let text = |octets| String::from_utf8(octets).expect("UTF-8");
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Run {
    fn document(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {:?} {:?}", self.out, self.err))
    }

    fn error(&self) -> Value {
        let mut document: Value =
            serde_json::from_str(&self.err).unwrap_or_else(|error| panic!("{error} in {:?}", self.err));
        document["error"].take()
    }
}

fn example(name: &str) -> String {
    format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A file that goes with the directory.
fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

/// A copy of the binary, run without any capability, user or group that could help.
fn as_nobody(directory: &tempfile::TempDir) -> Command {
    let binary = directory.path().join("flowlane");
    // By a process of its own: one that another test starts meanwhile would inherit the open file, and what is open for
    // writing can not be executed.
    assert!(Command::new("cp").arg(BINARY).arg(&binary).status().expect("cp is installed").success());
    for path in [directory.path(), &binary] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("set");
    }
    let mut command = cleared(Command::new("setpriv"));
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-all", "--"]);
    command.arg(binary);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_wrong_command_line_is_code_2_on_the_error_output() {
    for arguments in [
        &["bogus"][..],
        &["flow", "open"],
        &["flow", "open", "-i", "eth0", "--port", "p1"],
        &["flow", "open", "-i", "eth0", "--lifetime", "1h"],
        &["flow", "open", "-i", "eth0", "--rate", "fast"],
        &["flow", "show", "nobody"],
        &["trace", "-i", "p1"],
        &["trace", "-i", "p1", "--pcap", "x", "--number", "0"],
        &["-s", "a/b", "status"],
        &["switch"],
    ] {
        let run = run(arguments);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(run.err.starts_with("error: "), "{arguments:?}: {}", run.err);
    }
}

#[test]
fn with_json_every_error_is_a_document_on_the_error_output() {
    let usage = run(&["--json", "bogus"]);
    assert_eq!((usage.code, usage.out.as_str()), (Some(2), ""));
    assert_eq!(usage.error()["code"], "FL0001");
    let unreachable = run(&["status", "-j", "--socket", "/nonexistent/switch.sock"]);
    assert_eq!((unreachable.code, unreachable.out.as_str()), (Some(3), ""));
    let error = unreachable.error();
    assert_eq!(error["code"], "FL0301");
    assert!(error["help"].as_str().is_some_and(|help| help.contains("flowlane switch --config")), "{error}");
}

#[test]
fn without_a_switch_every_command_that_needs_one_is_code_3() {
    let directory = tempfile::tempdir().expect("a directory");
    for arguments in [
        &[][..],
        &["status"],
        &["flow", "ls"],
        &["fl", "sh", "a2:f1:00:00:00:01"],
        &["flow", "open", "--port", "p1"],
        &["flow", "close", "a2:f1:00:00:00:01"],
        &["table", "dump"],
        &["table", "verify"],
        &["trace", "-i", "p1", "--frame", "00"],
    ] {
        let run = finish(
            flowlane().env("FLOWLANE_RUNTIME_DIRECTORY", directory.path()).args(arguments).output().expect("starts"),
        );
        assert_eq!((run.code, run.out.as_str()), (Some(3), ""), "{arguments:?}: {}", run.err);
        assert!(run.err.starts_with("error[FL0301]: no switch answers on "), "{}", run.err);
        assert!(!run.err.contains('\x1b'), "no colours where there is no terminal: {}", run.err);
    }
}

#[test]
fn where_no_switch_answers_the_help_names_those_that_have_a_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["left", "right"] {
        std::fs::create_dir(directory.path().join(name)).expect("made");
        std::fs::write(directory.path().join(name).join("switch.sock"), "").expect("written");
    }
    let run = run(&["--runtime-directory", text(directory.path())]);
    assert_eq!(run.code, Some(3));
    assert!(run.err.contains("--switch: left, right"), "{}", run.err);
}

#[test]
fn a_switch_of_another_user_is_code_4() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("switch.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    std::fs::set_permissions(&socket, Permissions::from_mode(0o660)).expect("set");
    let run = finish(as_nobody(&directory).arg("--socket").arg(&socket).output().expect("setpriv is installed"));
    assert_eq!((run.code, run.out.as_str()), (Some(4), ""));
    assert!(run.err.starts_with("error[FL0302]"), "{}", run.err);
}

#[test]
fn a_good_configuration_is_shown_as_the_switch_it_would_be() {
    let run = run(&["switch", "--check-config", "--config", &example("replay.toml"), "--json"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let document = run.document();
    assert_eq!(document["block"], "a2:f1:00:00:00:00/16");
    assert_eq!(document["socket"], "/run/flowlane/switch/switch.sock");
    assert_eq!(document["ports"][1]["interface"], "p2");
    assert_eq!(document["routes"][0]["port"], "p2");
    assert_eq!(document["flows"][0]["next"]["mac"], "02:00:00:00:02:02");
    let lines = self::run(&["switch", "--check-config", "--config", &example("replay.toml")]).out;
    assert!(lines.starts_with("switch switch: block a2:f1:00:00:00:00/16, 65536 slots"), "{lines}");
}

#[test]
fn a_wrong_configuration_is_code_2_and_the_error_points_at_the_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = file(&directory, "switch.toml", "name = \"x\"\n\n[[port]]\ninterface = \"p1\"\nmtu = 12\n");
    let run = run(&["switch", "--check-config", "--config", text(&config)]);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""));
    assert!(run.err.contains(&format!("at {}:5:", config.display())), "{}", run.err);
    assert!(run.err.contains("68 to 65535"), "{}", run.err);
    let error = self::run(&["-j", "switch", "--check-config", "--config", text(&config)]).error();
    assert_eq!((&error["code"], &error["line"]), (&"FL0102".into(), &5.into()));
    let missing = self::run(&["switch", "--config", "/nonexistent.toml"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.starts_with("error[FL0101]: can not read /nonexistent.toml"), "{}", missing.err);
}

#[test]
fn a_replay_counts_every_frame_once() {
    let run = run(&["replay", "--json", "--config", &example("replay.toml"), &example("replay.pcapng")]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let document = run.document();
    let verdicts = document["verdicts"].as_object().expect("counts");
    assert_eq!(verdicts.values().filter_map(Value::as_u64).sum::<u64>(), document["frames"]);
    assert_eq!(verdicts.len(), flowlane_tables::End::ALL.len() + 1);
    assert_eq!((&verdicts["forward"], &verdicts["wrong-port"]), (&3.into(), &1.into()));
    assert_eq!(document["sent"]["p2"], 3);
    assert_eq!(document["flows"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_replay_needs_no_privileges_and_reads_the_standard_input() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = std::fs::read_to_string(example("replay.toml")).expect("the example");
    let config = file(&directory, "replay.toml", &config);
    let capture = std::fs::File::open(example("replay.pcapng")).expect("the example");
    let mut command = as_nobody(&directory);
    command.args(["replay", "--port", "p1", "--config", text(&config), "-"]).stdin(capture);
    let run = finish(command.output().expect("setpriv is installed"));
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.out.starts_with("8 frames, 0 of them cut by the capture, 2 first packets\n"), "{}", run.out);
}

#[test]
fn what_was_read_of_a_damaged_capture_is_reported_before_the_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = std::fs::read(example("replay.pcapng")).expect("the example");
    let damaged = directory.path().join("damaged.pcapng");
    std::fs::write(&damaged, &whole[..whole.len() - 10]).expect("written");
    let run = run(&["replay", "-j", "--config", &example("replay.toml"), text(&damaged)]);
    assert_eq!((run.code, &run.document()["frames"]), (Some(1), &7.into()));
    assert_eq!(run.error()["code"], "FL0501");
    let none = self::run(&["replay", "--config", &example("replay.toml"), &example("replay.toml")]);
    assert_eq!(none.code, Some(1));
    assert!(none.err.contains("neither a pcap nor a pcapng"), "{}", none.err);
    let port = self::run(&["replay", "--config", &example("replay.toml"), "--port", "p9", &example("replay.pcapng")]);
    assert_eq!(port.code, Some(2));
    assert!(port.err.starts_with("error[FL0503]"), "{}", port.err);
}

#[test]
fn a_reader_that_has_gone_ends_the_command_in_silence() {
    let mut command = flowlane();
    command.args(["replay", "--config", &example("replay.toml"), &example("replay.pcapng")]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command.stdout(writer).output().expect("ends");
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
    assert!(output.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_doctor_finds_the_kernel_fit_and_an_address_of_the_block_in_use() {
    let netns = Netns::new("doctor").expect("root");
    let doctor = |arguments: &[&str]| {
        let mut command = cleared(netns.command(BINARY));
        finish(command.arg("doctor").args(arguments).output().expect("starts"))
    };
    let healthy = doctor(&["--json"]);
    assert_eq!(healthy.code, Some(0), "{} {}", healthy.out, healthy.err);
    let findings = healthy.document();
    let level_of = |check: &str| {
        let found = findings.as_array().expect("findings").iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("{check} is missing in {findings}"))["level"].clone()
    };
    let fit =
        ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "tc programs", "XDP programs", "block", "cgroup v2", "nftables"];
    for check in fit {
        assert_eq!(level_of(check), "ok", "{check}");
    }
    assert_eq!(level_of("forwarding ipv4"), "warn", "a new namespace does not forward");

    let theirs = bridge(&netns, "d1").expect("an interface");
    theirs.set_mac(flowlane_lab::Mac([0xa2, 0xf1, 0, 0, 0, 1])).expect("set");
    let ill = doctor(&[]);
    assert_eq!(ill.code, Some(1), "{}", ill.out);
    assert!(ill.out.contains("FAIL  block: interface d1 has the address a2:f1:00:00:00:01"), "{}", ill.out);
    assert!(!ill.out.contains('\x1b'), "no colours where there is no terminal");
}

#[test]
fn the_doctor_says_whether_the_daemon_of_its_network_namespace_answers() {
    let (netns, directory) = (Netns::new("doctor").expect("root"), tempfile::tempdir().expect("a directory"));
    let doctor = || {
        let mut command = cleared(netns.command(BINARY));
        finish(command.arg("--runtime-directory").arg(directory.path()).arg("doctor").output().expect("starts"))
    };
    let without = doctor().out;
    assert!(without.contains("host daemon: none in this network namespace"), "{without}");
    assert!(without.contains("-> start it, for users who may: flowlane host"), "{without}");
    let namespace = netns.run(|| std::fs::metadata("/proc/thread-self/ns/net")).expect("runs").expect("a namespace");
    let socket = protocol::socket(directory.path(), namespace.ino());
    std::fs::create_dir_all(socket.parent().expect("a directory")).expect("made");
    let _listener = UnixListener::bind(&socket).expect("listens");
    let with = doctor().out;
    assert!(with.contains(&format!("ok    host daemon: listens on {}", socket.display())), "{with}");
}

#[test]
fn the_doctor_says_what_a_user_without_privileges_lacks() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = finish(as_nobody(&directory).arg("doctor").output().expect("setpriv is installed"));
    assert_eq!(run.code, Some(1), "{} {}", run.out, run.err);
    assert!(run.out.contains("FAIL  CAP_NET_ADMIN: missing"), "{}", run.out);
    assert!(run.out.contains("-> run as root: sudo flowlane"), "{}", run.out);
}
