//! The interface for other machines: certificates on both sides.

use super::operations::state;
use crate::{
    daemon::{Daemon, PROGRAM},
    lab::{Lab, eventually, settings},
};
use flowlane_attacks::access::{
    certificates::{Authority, Identity},
    operations::{ROLES, all},
    remote::{self, ADDRESS, Caller, record},
};
use hyper::Method;
use serde_json::{Value, json};
use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::Output,
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// A switch that other machines may ask, with a flow; and who asks.
struct Remote {
    lab: Lab,
    switch: Daemon,
    authority: Authority,
    directory: TempDir,
    /// With the roles, in their order.
    callers: [Identity; 3],
    flow: String,
}

impl Remote {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let authority = Authority::new(directory.path(), "authority").expect("an authority");
        let (settings, callers) = configuration(&authority);
        let lab = Lab::new();
        let switch = lab.switch_with(&settings);
        let flow = switch.api.open_on("pa", "test");
        let remote = Self { lab, switch, authority, directory, callers, flow };
        eventually("the switch listens", || remote.connect(ADDRESS).is_ok());
        remote
    }

    fn caller<'a>(&'a self, identity: Option<&'a Identity>) -> Caller<'a> {
        Caller { netns: &self.lab.netns, authority: &self.authority, identity }
    }

    fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        self.caller(None).connect(to)
    }

    /// The status and the body of the answer, or why there is none.
    fn call(&self, with: Option<&Identity>, method: &Method, path: &str) -> Result<(u16, Value), String> {
        self.call_at(ADDRESS, with, method, path)
    }

    fn call_at(
        &self,
        address: &str,
        with: Option<&Identity>,
        method: &Method,
        path: &str,
    ) -> Result<(u16, Value), String> {
        let body = if *method == Method::POST { "{}" } else { "" };
        self.caller(with).call(address, method, path, body)
    }

    /// The program, with these certificates.
    fn command(&self, with: &Identity, authority: &Authority, arguments: &[&str]) -> Output {
        let mut command = self.lab.netns.command(PROGRAM);
        command.args(["--remote", &format!("https://{ADDRESS}"), "--cert"]).arg(&with.certificate).arg("--key");
        command.arg(&with.key).arg("--cacert").arg(&authority.file).args(arguments).env("NO_COLOR", "1");
        command.output().expect("the program runs")
    }

    /// An authority that the switch does not know.
    fn other_authority(&self) -> Authority {
        let directory = self.directory.path().join("other");
        fs::create_dir_all(&directory).expect("made");
        Authority::new(&directory, "other").expect("an authority")
    }
}

/// The settings of a switch that other machines may ask, and who may.
fn configuration(authority: &Authority) -> (String, [Identity; 3]) {
    let sign = |file: &str, name: &str| authority.sign(file, name).expect("signed");
    let callers = ROLES.map(|role| sign(role, &format!("{role}.test")));
    let remote = remote::settings(&sign("switch", "127.0.0.1"), authority, &callers);
    (format!("{}{remote}", settings("tc")), callers)
}

#[test]
fn each_operation_is_denied_without_a_good_certificate_of_the_role_and_nothing_changes() {
    let remote = Remote::new();
    let stranger = remote.authority.sign("stranger", "stranger.test").expect("signed");
    let expired = remote.authority.sign_expired("expired", "admin.test").expect("signed");
    let forged = remote.other_authority().sign("forged", "admin.test").expect("signed");
    let no_session =
        [(None, "CertificateRequired"), (Some(&expired), "CertificateExpired"), (Some(&forged), "UnknownCA")];
    let before = state(&remote.switch.api);
    for operation in all().expect("the description") {
        let (method, path) = (&operation.method, operation.path(&remote.flow, "10.3.0.2"));
        for (with, alert) in no_session {
            let error = remote.call(with, method, &path).expect_err("no answer");
            assert!(error.contains(alert), "{method} {path}: {error}, not {alert}");
        }
        let (status, problem) = remote.call(Some(&stranger), method, &path).expect("an answer");
        assert_eq!((status, &problem["code"]), (403, &json!("denied")), "{method} {path} without a role");
        for (place, caller) in remote.callers.iter().enumerate() {
            let may = place >= operation.role;
            // Where it may, nothing that is there is touched, and the bodies say too little.
            let path = if may { operation.path("a2:f1:ff:ff:ff:ff", "10.3.0.2") } else { path.clone() };
            let (status, answer) = remote.call(Some(caller), method, &path).expect("an answer");
            assert_eq!(status == 403, !may, "{method} {path} by role {}: {answer}", ROLES[place]);
        }
    }
    assert_eq!(state(&remote.switch.api), before);
    remote.switch.api.verify();
}

#[test]
fn the_command_asks_a_switch_at_another_machine() {
    let remote = Remote::new();
    let [observe, operate, _] = &remote.callers;
    let run = |with, authority, arguments: &[&str]| {
        let output = remote.command(with, authority, arguments);
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8"))
    };
    let (code, text) = run(observe, &remote.authority, &["flow", "ls"]);
    assert!(code == Some(0) && text.contains(&remote.flow), "{text}");
    let (code, text) = run(observe, &remote.authority, &["flow", "close", &remote.flow]);
    assert!(code == Some(4) && text.contains("FL0303") && text.contains("certificate observe.test"), "{text}");
    let expired = remote.authority.sign_expired("expired", "admin.test").expect("signed");
    let (code, text) = run(&expired, &remote.authority, &["status"]);
    assert!(code == Some(4) && text.contains("FL0306") && text.contains("Expired"), "{text}");
    let other = remote.other_authority();
    let (code, text) = run(operate, &other, &["status"]);
    assert!(code == Some(4) && text.contains("FL0307"), "{text}");
    let (code, text) = run(operate, &remote.authority, &["flow", "close", &remote.flow]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_recorded_session_can_not_be_played_again() {
    let remote = Remote::new();
    let listener =
        remote.lab.netns.run(|| TcpListener::bind("127.0.0.1:7444").expect("free")).expect("in the namespace");
    let to_switch = remote.connect(ADDRESS).expect("it listens");
    let recording = thread::spawn(move || record(&listener, to_switch));
    let path = format!("/v1/flows/{}", remote.flow);
    let closed = remote.call_at("127.0.0.1:7444", Some(&remote.callers[1]), &Method::DELETE, &path).expect("closed");
    assert_eq!(closed.0, 200, "{}", closed.1);
    let recorded = recording.join().expect("ran").expect("recorded");
    assert!(!recorded.is_empty());

    let again = remote.switch.api.open_on("pa", "test");
    let before = state(&remote.switch.api);
    let mut stream = remote.connect(ADDRESS).expect("it listens");
    stream.write_all(&recorded).expect("sent");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let mut answer = Vec::new();
    // An end or a reset: either way nothing more comes.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(state(&remote.switch.api), before, "{again} is as it was");
}

#[test]
fn a_flood_of_silent_connections_does_not_keep_local_callers_out() {
    let remote = Remote::new();
    let silent: Vec<_> = (0..200).map(|_| remote.connect(ADDRESS).expect("connected")).collect();
    assert_eq!(remote.switch.api.status()["name"], remote.switch.name.as_str());
    drop(silent);
    eventually("others are listened to again", || {
        remote.call(Some(&remote.callers[0]), &Method::GET, "/v1/status").is_ok_and(|(status, _)| status == 200)
    });
}

#[test]
fn a_switch_does_not_start_with_a_key_that_all_users_can_read() {
    let lab = Lab::new();
    let directory = TempDir::new().expect("a directory");
    let authority = Authority::new(directory.path(), "authority").expect("an authority");
    let (settings, _) = configuration(&authority);
    fs::set_permissions(directory.path().join("switch.key"), Permissions::from_mode(0o644)).expect("set");
    let switch = Daemon::stopped(&lab.netns, &settings);
    let output = switch.fails();
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("FL0215") && text.contains("chmod 600"), "{text}");
}
