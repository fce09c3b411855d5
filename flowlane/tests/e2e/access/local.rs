//! The UNIX socket: the kernel says who calls.

use super::operations::state;
use crate::{
    daemon::{Daemon, PROGRAM},
    lab::{Lab, eventually, settings},
};
use flowlane_attacks::access::operations::{ROLES, all};
use flowlane_lab::as_user;
use hyper::Method;
use serde_json::{Value, json};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

/// Who has no role.
const NOBODY: u32 = 65_534;
/// Users with the roles, in their order; the last one by a group.
const USERS: [(u32, &[u32]); 3] = [(2_001, &[]), (2_002, &[]), (2_003, &[2_003, 3_000])];
const ACCESS: &str =
    "[access.observe]\nusers = [2001]\n[access.operate]\nusers = [2002]\n[access.admin]\ngroups = [3000]\n";

/// A switch that is asked by others than root, with a flow and a group.
struct Shared {
    lab: Lab,
    switch: Daemon,
    flow: String,
}

impl Shared {
    fn new(access: &str) -> Self {
        let lab = Lab::new();
        let switch = lab.switch_with(&format!("{}{access}", settings("tc")));
        fs::set_permissions(switch.path(""), Permissions::from_mode(0o755)).expect("open to all users");
        let flow = switch.api.open_on("pa", "test");
        let group = json!({ "port": "pb", "client": "test", "receivers": ["10.3.0.2"] });
        switch.api.call(Method::POST, "/v1/groups", Some(group)).expect("a group");
        eventually("its receiver has a way", || switch.api.get("/v1/groups")[0]["receivers"][0]["state"] == "resolved");
        Self { lab, switch, flow }
    }

    /// The program, run by nobody.
    fn as_nobody(&self, arguments: &[&str]) -> Output {
        let program = self.switch.path("program");
        // By a process of its own: what is open for writing anywhere can not be executed.
        assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().expect("cp").success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-all", "--"]);
        command.arg(program).arg("--socket").arg(self.switch.path("run/switch.sock")).args(arguments);
        command.env("NO_COLOR", "1").output().expect("setpriv is installed")
    }
}

/// Whether the answer is that the caller may not.
fn is_denied(answer: &Result<Value, Value>) -> bool {
    answer.as_ref().is_err_and(|problem| problem["code"] == "denied")
}

#[test]
fn each_operation_is_denied_to_users_without_its_role_and_nothing_changes() {
    let shared = Shared::new(ACCESS);
    let api = &shared.switch.api;
    let before = state(api);
    let operations = all().expect("the description");
    for (place, (user, groups)) in [(None, (NOBODY, &[][..]))].into_iter().chain((0..).map(Some).zip(USERS)) {
        for operation in &operations {
            let may = place.is_some_and(|place: usize| place >= operation.role);
            // Where it may, nothing that is there is touched, and the bodies say too little.
            let flow = if may { "a2:f1:ff:ff:ff:ff" } else { &shared.flow };
            let path = operation.path(flow, "10.3.0.2");
            let body = operation.body().map(|_| json!({}));
            let called = as_user(user, groups, || api.call(operation.method.clone(), &path, body)).expect("root");
            let role = place.map_or("none", |place| ROLES[place]);
            assert_eq!(is_denied(&called), !may, "{} {path} by role {role}: {called:?}", operation.method);
        }
    }
    let nowhere =
        as_user(NOBODY, &[], || [api.call(Method::GET, "/openapi.json", None), api.call(Method::GET, "/", None)]);
    assert!(nowhere.expect("root").iter().all(is_denied), "not even what there is");
    assert_eq!(state(api), before);
    api.verify();
}

#[test]
fn what_a_role_allows_is_done() {
    let shared = Shared::new(ACCESS);
    let api = &shared.switch.api;
    let [observe, operate, admin] = USERS;
    let seen = as_user(observe.0, observe.1, || api.flow(&shared.flow)).expect("root");
    assert_eq!(seen["address"], shared.flow);
    let own = as_user(operate.0, operate.1, || api.open(json!({ "port": "pa" }))).expect("root");
    as_user(operate.0, operate.1, || api.close(&own)).expect("root");
    let repair = || api.call(Method::POST, "/v1/table/verify?repair=true", None);
    assert_eq!(as_user(admin.0, admin.1, repair).expect("root").expect("repaired")["ok"], true);
    assert!(shared.lab.a.link().state().is_ok());
}

#[test]
fn a_user_without_a_role_is_told_what_to_do_with_code_4() {
    let shared = Shared::new(ACCESS);
    let code_and_text = |output: Output| (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"));
    let (code, text) = code_and_text(shared.as_nobody(&["flow", "close", &shared.flow]));
    assert_eq!(code, Some(4), "{text}");
    for said in ["FL0303", "`operate`", "user 65534", "[access]"] {
        assert!(text.contains(said), "{said} in {text}");
    }
    shared.switch.api.flow(&shared.flow);

    let shared = Shared { switch: restarted(shared.switch), ..shared };
    let (code, text) = code_and_text(shared.as_nobody(&["status"]));
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("FL0302") && text.contains("[access]"), "{text}");
}

/// The switch, where nobody but root has a role.
fn restarted(mut switch: Daemon) -> Daemon {
    switch.terminate();
    switch.configure(&settings("tc"));
    switch.start_again();
    switch
}

#[test]
fn callers_without_a_role_do_not_keep_others_out() {
    let shared = Shared::new(ACCESS);
    let socket = shared.switch.path("run/switch.sock");
    let connect = || std::os::unix::net::UnixStream::connect(&socket).expect("connected");
    let idle: Vec<_> = as_user(NOBODY, &[], || (0..300).map(|_| connect()).collect()).expect("root");
    let (observer, groups) = USERS[0];
    let seen = as_user(observer, groups, || shared.switch.api.status()).expect("root");
    assert_eq!(seen["name"], shared.switch.name.as_str());
    drop(idle);
}
