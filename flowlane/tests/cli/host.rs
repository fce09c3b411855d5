//! `flowlane flow` from a host, against a running switch, over real interfaces.

use crate::{BINARY, Run, cleared, file, finish};
use flowlane_lab::{Host, IpNet, Netns, traffic};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(10);

/// Two hosts at a switch, each in a namespace of its own. What they keep goes with the directory.
struct Lab {
    directory: tempfile::TempDir,
    netns: Netns,
    left: Host,
    right: Host,
    switch: Child,
}

impl Lab {
    fn start() -> Self {
        let netns = Netns::new("switch").expect("root");
        netns.sysctl("net/ipv4/ip_forward", "1").expect("set");
        let host = |name: &str, port: &str, number: u8| {
            let own = net(&format!("10.0.{number}.2/24"));
            let host = Host::new(name, &netns, port, None, &[own]).expect("a host");
            host.port().add_address(net(&format!("10.0.{number}.1/24"))).expect("an address");
            host.netns().add_default_route(format!("10.0.{number}.1").parse().expect("an address")).expect("a route");
            host
        };
        let (left, right) = (host("left", "p1", 1), host("right", "p2", 2));
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().display();
        let name = format!("cli-{}", directory.path().file_name().expect("a name").to_string_lossy().replace('.', ""));
        let text = format!(
            "name = \"{name}\"\nexecutor = \"af-packet\"\nstate_directory = \"{root}/state\"\n\
             runtime_directory = \"{root}/run/{name}\"\n[[port]]\ninterface = \"p1\"\n[[port]]\ninterface = \"p2\"\n"
        );
        let config = file(&directory, "switch.toml", &text);
        let mut command = cleared(netns.command(BINARY));
        command.args(["switch", "--config"]).arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let lab = Self { switch: command.spawn().expect("starts"), directory, netns, left, right };
        lab.eventually("the switch is ready", || lab.at_switch(&["status"]).code == Some(0));
        lab
    }

    /// A command in a namespace. Hosts keep their leases apart from the switch's socket.
    fn command(&self, netns: &Netns, part: &str, arguments: &[&str]) -> Command {
        let mut command = cleared(netns.command(BINARY));
        command.env("FLOWLANE_RUNTIME_DIRECTORY", self.directory.path().join(part)).args(arguments);
        command
    }

    fn at_switch(&self, arguments: &[&str]) -> Run {
        finish(self.command(&self.netns, "run", arguments).output().expect("starts"))
    }

    fn at_left(&self, arguments: &[&str]) -> Run {
        finish(self.command(self.left.netns(), "left", arguments).output().expect("starts"))
    }

    fn flows(&self) -> Vec<Value> {
        self.at_switch(&["flow", "ls", "--json"]).document().as_array().expect("flows").clone()
    }

    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < SOON, "{what}: not within {SOON:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Gone already, where a test has failed early.
        let _ = self.switch.kill();
        let _ = self.switch.wait();
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

/// A command that stays, until SIGINT.
struct Held {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Held {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    /// Exit code and what was said.
    fn interrupt(mut self) -> (Option<i32>, String) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
        (self.child.wait().expect("ends").code(), said)
    }
}

#[test]
fn a_host_opens_a_flow_uses_it_as_told_and_closes_it() {
    let lab = Lab::start();
    let opened =
        lab.at_left(&["flow", "open", "-i", "eth0", "--to", "10.0.2.2", "--rate", "10M", "--name", "film", "-j"]);
    assert_eq!(opened.code, Some(0), "{}", opened.err);
    let lease = opened.document();
    let address = lease["addresses"][0].as_str().expect("an address").to_owned();
    assert_eq!((&lease["rate"], &lease["name"]), (&10_000_000.into(), &"film".into()));
    assert_eq!(lab.flows()[0]["address"], address.as_str());
    for line in lease["use"].as_array().expect("commands") {
        let mut words = line.as_str().expect("a command").split(' ');
        let mut command = lab.left.netns().command(words.next().expect("a program"));
        assert!(command.args(words).status().expect("ip is installed").success(), "{line}");
    }
    let to = "10.0.2.2".parse().expect("an address");
    let report = traffic::ping(lab.left.netns(), to, 3, None, SOON).expect("sent");
    assert_eq!(report.received, 3);
    lab.eventually("the flow has counted", || lab.flows()[0]["packets"] == 3);

    let shown = lab.at_switch(&["flow", "show", &address]);
    assert!(shown.out.contains("film") && shown.out.contains("10Mbit/s"), "{}", shown.out);
    let closed = lab.at_left(&["flow", "close", &address]);
    assert_eq!(closed.code, Some(0), "{}", closed.err);
    assert!(lab.flows().is_empty());
    let again = lab.at_left(&["flow", "close", &address, "-i", "eth0"]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("this host holds no lease"), "{}", again.err);
}

#[test]
fn held_flows_of_one_interface_live_side_by_side_and_end_on_ctrl_c() {
    let lab = Lab::start();
    let hold = |count: &str| {
        Held::start(lab.command(lab.left.netns(), "left", &["flow", "open", "-i", "eth0", "--hold", "--count", count]))
    };
    let (mut one, mut two) = (hold("1"), hold("2"));
    let held = [one.line(), two.line(), two.line()];
    let leased: Vec<_> = lab.flows().iter().map(|flow| flow["address"].as_str().expect("text").to_owned()).collect();
    assert_eq!(leased.len(), 3);
    assert!(held.iter().all(|address| leased.contains(address)), "{held:?} {leased:?}");
    for (command, flows_left) in [(one, 2), (two, 0)] {
        let (code, said) = command.interrupt();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.ends_with("given back\n"), "{said}");
        assert_eq!(lab.flows().len(), flows_left);
    }
    let kept = std::fs::read_dir(lab.directory.path().join("left/host")).expect("a directory").count();
    assert_eq!(kept, 0);
}

#[test]
fn the_switch_itself_opens_renews_traces_and_closes() {
    let lab = Lab::start();
    let opened = lab.at_switch(&["flow", "open", "-p", "p1", "--to", "10.0.2.2", "--lifetime", "5m", "-j"]);
    assert_eq!(opened.code, Some(0), "{}", opened.err);
    assert_eq!(opened.document()["lifetime"], 300);
    let address = opened.document()["addresses"][0].as_str().expect("an address").to_owned();
    let renewed = lab.at_switch(&["-j", "flow", "renew", &address, "--lifetime", "10m"]);
    assert_eq!(renewed.document()["lifetime"], 600, "{}", renewed.err);
    lab.eventually("the flow is resolved", || lab.flows()[0]["state"] == "resolved");
    let frame = format!("{address}0200000000010800 4500001c 00000000 4011 0000 0a000102 0a000202 0000000000000000");
    let traced = lab.at_switch(&["trace", "-i", "p1", "--frame", &frame]);
    assert_eq!(traced.code, Some(0), "{}", traced.err);
    let last = traced.out.lines().last().expect("a verdict").to_owned();
    assert!(last.starts_with("forward by p2: "), "{}", traced.out);
    let before = format!("to {address} from 02:00:00:00:00:01 type 0x0800");
    assert!(traced.out.contains(&before) && traced.out.contains("after"), "{}", traced.out);
    assert_eq!(lab.at_switch(&["table", "verify"]).code, Some(0));
    let dumped = lab.at_switch(&["table", "dump", "--json"]).document();
    assert_eq!(dumped[0]["address"], address.as_str());
    let names = lab.at_switch(&["flow", "ls", "-o", "name"]);
    assert_eq!(names.out.trim(), address);
    assert_eq!(lab.at_switch(&["flow", "close", &address]).code, Some(0));
    let gone = lab.at_switch(&["flow", "close", &address, "--json"]);
    assert_eq!((gone.code, gone.error()["code"].as_str()), (Some(5), Some("FL0303")));
    let port = lab.at_switch(&["flow", "open", "--port", "p9"]);
    assert_eq!(port.code, Some(2), "{}", port.err);
}

#[test]
fn the_status_shows_ports_and_rejected_frames() {
    let lab = Lab::start();
    let to = "10.0.2.2".parse().expect("an address");
    let stranger = "a2:f1:00:99:00:01".parse().expect("an address");
    // Nobody has this flow.
    lab.left.link().set_neighbour("10.0.1.1".parse().expect("an address"), stranger).expect("set");
    let _ = traffic::ping(lab.left.netns(), to, 2, None, Duration::from_millis(300));
    lab.eventually("the frames are counted", || lab.at_switch(&[]).out.contains("unknown-flow 2"));
    let status = lab.at_switch(&["status", "--json"]).document();
    assert_eq!(status["ports"][0]["executor"], "af-packet");
    assert_eq!(status["ports"][0]["counts"]["unknown-flow"], 2);
}

#[test]
fn a_host_that_can_not_ask_is_told_why() {
    let lab = Lab::start();
    let none = lab.at_left(&["flow", "open", "-i", "eth7"]);
    assert_eq!(none.code, Some(2), "{}", none.err);
    assert!(none.err.starts_with("error[FL0401]: there is no interface eth7"), "{}", none.err);
    lab.right.link().down().expect("down");
    let ask = |arguments: &[&str]| finish(lab.command(lab.right.netns(), "right", arguments).output().expect("starts"));
    let down = ask(&["flow", "open", "-i", "eth0"]);
    assert_eq!(down.code, Some(1));
    assert!(down.err.contains("help: ip link set dev eth0 up"), "{}", down.err);
    let lo = ask(&["flow", "open", "-i", "lo", "--timeout", "1s"]);
    assert!(lo.err.starts_with("error[FL0403]"), "{}", lo.err);
}

#[test]
fn where_nobody_answers_the_command_ends_with_code_6_in_time() {
    let netns = Netns::new("no switch").expect("root");
    let host = Host::new("host", &netns, "p1", None, &[]).expect("a host");
    let start = Instant::now();
    let mut command = cleared(host.netns().command(BINARY));
    let run = finish(command.args(["-j", "flow", "open", "-i", "eth0", "--timeout", "3s"]).output().expect("starts"));
    assert_eq!((run.code, run.error()["code"].as_str()), (Some(6), Some("FL0406")), "{}", run.err);
    assert!(start.elapsed() < Duration::from_secs(10));
}
