//! Who may run programs in flows.

use super::{
    host::{FlowHost, Going, output, text},
    packets::assert_in_flows,
    services::{HTTP, PAGE, Services},
    site::Site,
};
use crate::daemon::PROGRAM;
use nix::sys::signal::Signal;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

/// Users that every Debian has.
const NOBODY: u32 = 65_534;
const GAMES: u32 = 5;

/// A copy of the program that any user can run, wherever this one stands.
fn for_everybody(host: &FlowHost) -> PathBuf {
    let copy = host.path("flowlane");
    fs::copy(PROGRAM, &copy).expect("a copy");
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("permissions");
    copy
}

const REQUEST: [&str; 4] = ["--", "curl", "-sSf", "http://10.2.0.2:8080/"];
const IN_A_FLOW: [&str; 5] = ["--require", "--", "curl", "-sSf", "http://10.2.0.2:8080/"];

#[test]
fn a_user_whom_the_policy_allows_needs_no_root_and_another_is_refused() {
    let mut site = Site::with("tc", "", "allow_users = [\"nobody\"]\n", Services::nginx);
    let program = for_everybody(&site.host);
    let watch = site.watch("tc");
    let page = output(&mut site.host.run_as(NOBODY, &program, &IN_A_FLOW));
    assert_eq!((text(&page), page.stderr), (PAGE.to_owned(), Vec::new()));
    assert_eq!(text(&output(&mut site.host.run_as(NOBODY, &program, &["--", "id", "-u"]))), "65534\n");
    let packets = watch.stop(|packet| packet.to_port == HTTP);
    assert!(packets.len() >= 3, "{packets:?}");
    assert_in_flows(&packets);

    for arguments in [&REQUEST[..], &["--require", "--", "true"]] {
        let refused = output(&mut site.host.run_as(GAMES, &program, arguments));
        assert_eq!((refused.status.code(), refused.stdout.is_empty()), (Some(4), true), "{refused:?}");
        let said = String::from_utf8(refused.stderr).expect("UTF-8");
        assert!(said.contains("allow_users") || said.contains("allow"), "it says who can allow it: {said}");
    }
    site.is_clean();
    a_user_sees_and_closes_what_is_his(&site, &program);
    site.is_clean();

    // Without a daemon nobody else can start one for him: his program runs, with a word about it.
    assert!(site.host.end(Signal::SIGINT).success());
    let page = output(&mut site.host.run_as(NOBODY, &program, &REQUEST));
    assert_eq!(text(&page), PAGE);
    assert_eq!(String::from_utf8_lossy(&page.stderr).lines().count(), 1, "{page:?}");
    let refused = output(&mut site.host.run_as(NOBODY, &program, &["--require", "--", "echo", "run"]));
    assert_eq!((refused.status.code(), refused.stdout.is_empty()), (Some(3), true), "{refused:?}");
    site.is_untouched();
}

fn a_user_sees_and_closes_what_is_his(site: &Site, program: &std::path::Path) {
    let of_root = Going::ping(&site.host, &[], "10.2.0.2");
    let of_nobody = Going::start(&mut site.host.run_as(NOBODY, program, &["--", "sleep", "60"]));
    let address = site.host.open_flow("10.2.0.2").address.expect("an address").to_string();
    let as_nobody = |arguments: &[&str]| {
        let mut command = site.host.command("setpriv");
        command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "--"]);
        command.arg(program).arg("--runtime-directory").arg(site.host.path("")).args(arguments);
        output(&mut command)
    };
    let seen = text(&as_nobody(&["--json", "flow", "ls", "--host"]));
    assert!(!seen.contains(&address), "{seen}");
    let refused = as_nobody(&["flow", "close", "--host", &address]);
    assert_ne!(refused.status.code(), Some(0), "{refused:?}");
    assert_eq!(of_root.lost().1, 0);
    of_nobody.end(Signal::SIGTERM);
}

#[test]
fn an_unprivileged_program_can_not_ask_for_more_than_the_policy_grants() {
    let policy = "allow_users = [\"nobody\"]\nmax_rate = \"10M\"\n";
    let site = Site::with("tc", "", policy, Services::nginx);
    let program = for_everybody(&site.host);
    let refused = output(&mut site.host.run_as(NOBODY, &program, &["--rate", "1G", "--", "echo", "run"]));
    assert_eq!((refused.status.code(), refused.stdout.is_empty()), (Some(4), true), "{refused:?}");
    assert_eq!(text(&output(&mut site.host.run_as(NOBODY, &program, &["--rate", "5M", "--", "echo", "run"]))), "run\n");
    let cgroup = site.host.cgroup.path().display().to_string();
    let of_root = output(&mut site.host.run_as(NOBODY, &program, &["--cgroup", &cgroup]));
    assert_eq!(of_root.status.code(), Some(4), "{of_root:?}");
    site.is_clean();
}
