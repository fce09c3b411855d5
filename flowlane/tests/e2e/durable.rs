//! What leases survive, seen from outside: a full disk, and clocks that are years wrong.

use crate::{
    daemon::{Daemon, PROGRAM},
    lab::{Lab, eventually, flow_from_a, ip, ping, settings},
    stream::Stream,
};
use hyper::Method;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// A file system of its own, with little space.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("a directory");
        mount(Some("small"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=8m,mode=700")).expect("root");
        Self(path)
    }

    /// Writes a file until nothing more goes onto the disk.
    fn fill(&self) {
        fs::write(self.0.join("ballast"), vec![1; 16 << 20]).expect_err("more than there is room for");
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Opens flows until the switch refuses for want of space.
fn open_until_refused(switch: &Daemon, batch: &str) -> Value {
    let client = |number| format!("{batch} {number} {}", "x".repeat(100));
    let mut open = |number: u32| {
        let request = json!({ "port": "pc", "client": client(number), "name": "x".repeat(60) });
        switch.api.call(Method::POST, "/v1/flows", Some(request)).err()
    };
    (0..5_000).find_map(&mut open).expect("the disk is full")
}

fn renew(switch: &Daemon, flow: &str) -> Value {
    let renewed = switch.api.call(Method::POST, &format!("/v1/flows/{flow}/renew"), Some(json!({})));
    renewed.expect("leases are renewed while the disk is full")
}

/// A lease of 6 s is renewed for three times as long; no frame is lost; others wait for space.
#[test]
fn on_a_full_disk_leases_are_renewed_and_flows_forward() {
    let lab = Lab::new();
    let lease = "[lease]\nmin = \"6s\"\ndefault = \"6s\"\nreserve = \"30s\"\n";
    let mut switch = Daemon::stopped(&lab.netns, &(settings("tc").replace("1024", "65536") + lease));
    let disk = SmallDisk::at(switch.path("state"));
    switch.start_again();
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");
    ping(&lab.a, "10.2.0.2", 1);
    let stream = Stream::start(lab.a.netns(), lab.b.netns(), ip("10.2.0.2"), 500);
    eventually("B receives", || stream.flows());
    disk.fill();
    let renewed = || {
        let renewed = renew(&switch, &flow);
        assert_eq!((&renewed["lifetime"], &renewed["addresses"][0]), (&json!(6), &json!(flow)), "{renewed}");
    };
    let start = Instant::now();
    let mut refused = 0;
    while start.elapsed() < Duration::from_secs(18) {
        renewed();
        eventually("new ones are refused, and the switch says why", || {
            let error = open_until_refused(&switch, &format!("while full {refused}"));
            assert_eq!(error["code"], "store", "{error}");
            assert!(error["message"].to_string().contains("no space left"), "{error}");
            refused += 1;
            renewed();
            switch.api.status()["problems"].to_string().contains("no space left")
        });
        thread::sleep(Duration::from_millis(300));
    }
    assert!(refused > 3, "{refused}");
    disk.free();
    eventually("it heals by itself", || switch.api.status()["problems"].as_array().is_some_and(Vec::is_empty));
    switch.api.open_on("pc", "there is space");
    renew(&switch, &flow);
    let outcome = stream.stop();
    assert!(outcome.is_perfect(), "{outcome:?}");
    switch.api.verify();
    switch.terminate();
}

/// Its process is killed and started anew while there is no space.
#[test]
fn a_switch_starts_on_a_full_disk() {
    let (lab, lease) = (Lab::new(), "[lease]\nreserve = \"2h\"\n");
    let mut switch = Daemon::stopped(&lab.netns, &(settings("tc").replace("1024", "65536") + lease));
    let disk = SmallDisk::at(switch.path("state"));
    switch.start_again();
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");
    disk.fill();
    open_until_refused(&switch, "before");
    for end in [Daemon::kill, Daemon::terminate] {
        end(&mut switch);
        switch.start_again();
        assert_eq!(renew(&switch, &flow)["lifetime"], 3_600);
        switch.api.verify();
    }
    disk.free();
    eventually("there is space", || {
        switch.api.call(Method::POST, "/v1/flows", Some(json!({ "port": "pc", "client": "after" }))).is_ok()
    });
    switch.terminate();
}

/// Starts a switch whose wall clock is wrong, as if the machine had just booted if `boot` is named.
fn start_with_clock(switch: &mut Daemon, lab: &Lab, clock: &str, boot: Option<&Path>) {
    let library = fs::read_dir("/usr/lib").expect("libraries").flatten();
    let library = library.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    let library = library.expect("the package libfaketime is installed");
    let mut command: Command = lab.netns.command("unshare");
    let script = "[ -z \"$BOOT\" ] || mount --bind \"$BOOT\" /proc/sys/kernel/random/boot_id || exit; \
                  exec env LD_PRELOAD=\"$FAKETIME_LIBRARY\" \"$@\"";
    if boot.is_some() {
        let uptime = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("a clock").tv_sec();
        command.args(["--time", "--boottime", &(1 - uptime).to_string()]);
    }
    command.args(["--mount", "sh", "-c", script, "sh", PROGRAM, "switch", "--config"]).arg(switch.config());
    command.env("BOOT", boot.unwrap_or(Path::new(""))).env("FAKETIME_LIBRARY", library).env("FAKETIME", clock);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").env("NO_COLOR", "1");
    switch.spawn_by(command);
    switch.wait_until_it_answers();
}

#[test]
fn no_clock_that_is_ten_years_wrong_ends_a_lease() {
    let (lab, mut switch) = Lab::with_switch("af-packet");
    let kept = switch.api.open_on("pa", "kept");
    let closed = switch.api.open_on("pa", "closed");
    switch.api.close(&closed);
    let counts = |switch: &Daemon| ["leased", "quarantined"].map(|what| switch.api.status()[what].clone());
    let boot = switch.path("boot_id");
    for (number, (clock, boots)) in
        [("+10y", false), ("-10y", false), ("+10y", true), ("-10y", true)].iter().enumerate()
    {
        switch.terminate();
        fs::write(&boot, format!("00000000-0000-0000-0000-{number:012}\n")).expect("written");
        start_with_clock(&mut switch, &lab, clock, boots.then_some(&boot));
        eventually("the clock is seen", || switch.api.status()["clock_steps"] != 0 || (*boots && *clock == "+10y"));
        assert_eq!(counts(&switch), [1, 1], "{clock}");
        let lease = switch.api.call(Method::POST, "/v1/flows", Some(json!({ "port": "pa", "client": "kept" })));
        let lease = lease.expect("it is the same");
        assert_eq!((&lease["addresses"][0], &lease["lifetime"]), (&json!(kept), &json!(3_600)), "{clock}");
    }
    assert!(switch.log().contains("the wall clock was set"), "{}", switch.log());
    switch.terminate();
}
