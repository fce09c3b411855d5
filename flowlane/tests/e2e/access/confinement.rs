//! What the running switch has given up.

use crate::lab::{Lab, eventually, host, settings};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The bits of what a switch keeps: network administration and raw sockets, BPF, performance monitoring, locked memory.
const KEPT: u64 = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 38 | 1 << 39;

#[test]
fn no_thread_of_a_switch_has_more_than_it_needs() {
    // af-packet and DHCPv6 have threads of their own.
    let lab = Lab::new();
    for executor in ["tc", "af-packet"] {
        let switch = lab.switch(executor);
        let status = switch.api.status();
        let confinement = &status["confinement"];
        assert_eq!(
            (&confinement["no_new_privileges"], &confinement["seccomp"]),
            (&json!(true), &json!(true)),
            "{confinement}"
        );
        let tasks: Vec<PathBuf> = fs::read_dir(format!("/proc/{}/task", status["pid"]))
            .expect("it runs")
            .map(|task| task.expect("a thread").path())
            .collect();
        assert!(tasks.len() > 2, "{} threads", tasks.len());
        for task in tasks {
            let text = fs::read_to_string(task.join("status")).expect("a thread");
            let field =
                |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim().to_owned();
            for set in ["CapEff:", "CapPrm:"] {
                let held = u64::from_str_radix(&field(set), 16).expect("a set");
                assert_eq!(held & !KEPT, 0, "{set} {held:x} of {}", field("Name:"));
            }
            assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()), "{}", field("Name:"));
        }
    }
}

#[test]
fn a_confined_switch_attaches_ports_that_come_later() {
    for executor in ["tc", "xdp", "af-xdp", "af-packet"] {
        let lab = Lab::new();
        let later = "[[port]]\ninterface = \"pd\"\n";
        let switch = lab.switch_with(&format!("{}{later}", settings(executor)));
        let _host = host(&lab.netns, 4, "d");
        eventually("the port has an executor", || switch.api.port("pd")["executor"] == executor);
        assert_eq!(switch.api.port("pd")["problem"], json!(null));
    }
}

#[test]
fn state_and_pins_are_their_owner_s_alone() {
    let (_lab, switch) = Lab::with_switch("tc");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let pins = switch.pins().expect("pins");
    let directories = [switch.path("state"), pins.clone(), pins.parent().expect("a parent").to_owned()];
    let modes: BTreeSet<u32> = directories.iter().map(|path| mode(path)).collect();
    assert_eq!(modes, [0o700].into());
}
