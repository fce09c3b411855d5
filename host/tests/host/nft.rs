//! The daemon where nftables are used instead of BPF.

use crate::setup::{Program, REAL, eventually, ip, is_quiet, mac_at, open_address, setup};
use flowlane_client::protocol::{FlowView, Wishes};
use flowlane_host::{command::Command, daemon::Ended, mechanism::MechanismChoice};
use flowlane_lab::Frame;
use std::{
    thread,
    time::{Duration, SystemTime},
};

#[test]
fn by_nftables_a_program_is_in_its_flow_until_it_ends_and_nothing_is_left() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    assert_eq!(daemon.status().mechanism, "nft");
    let mut program = Program::pings_on(&setup.host);
    let other = Program::new(&setup.host, "exec ping -q -c 1 -W 1 10.1.0.3");
    daemon.run(&program, Wishes::default()).expect("a run");
    program.go();
    let address = open_address(&daemon);
    thread::sleep(Duration::from_millis(100));
    setup.go_to(address);
    eventually("it is counted", || daemon.flows()[0].packets >= 5);
    other.finish();
    let is_its = |frame: &Frame| frame.bytes[30..34] == [10, 1, 0, 3];
    let of_other = || setup.tap.frames().into_iter().filter(is_its).map(|frame| mac_at(&frame, 0)).collect::<Vec<_>>();
    eventually("that of the other is seen", || !of_other().is_empty());
    assert_eq!(of_other(), [REAL]);
    drop(program);
    setup.switch.wait_for_leases(0);
    assert_eq!((daemon.stop(), setup.tables()), (Ended::Undone, 0));
}

#[test]
fn by_nftables_what_requires_flows_sends_nothing_without() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let pings = "ping -q -n -i 0.05 -W 1 -c 2 10.1.0.2; ping -c 1 -W 1 -q 10.1.0.3";
    let mut program = Program::new(&setup.host, &format!("{pings}; exec sleep 60"));
    let wishes = Wishes { require: true, to: vec![ip("10.1.0.3")], ..Wishes::default() };
    daemon.run_with_a_switch(&program, &wishes).expect("a run");
    setup.switch.set_refusing(true);
    program.go();
    let cut = |flow: &FlowView| flow.state == "cut" && flow.destination == ip("10.1.0.2");
    eventually("it is cut off", || daemon.flows().iter().any(cut));
    let open = daemon.flows().into_iter().find_map(|flow| flow.address).expect("the one that was opened before");
    assert_eq!(setup.destinations(1), [open]);
    daemon.stop();
}

#[test]
fn by_nftables_a_flow_that_is_closed_is_cut_off() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let (_program, address) = setup.program_in_a_flow(&daemon);
    daemon.ask(|reply| Command::Close(None, address, reply)).expect("closed");
    setup.switch.wait_for_leases(0);
    thread::sleep(Duration::from_millis(100));
    is_quiet(setup.tap);
    daemon.stop();
}

/// It is not asked again whether the kernel takes BPF programs: who began with nftables is followed by nftables.
#[test]
fn a_successor_uses_the_same_rules_and_no_packet_leaves_them() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let (program, address) = setup.program_in_a_flow(&daemon);
    setup.until_written(address);
    // The rules are there by then: what is sent from now on is in the flow.
    setup.until_seen(address, SystemTime::UNIX_EPOCH);
    let killed = SystemTime::now();
    daemon.kill();
    let daemon = setup.start();
    assert_eq!(daemon.status().mechanism, "nft");
    eventually("it is open", || daemon.flows().iter().any(|flow| flow.address == Some(address)));
    setup.go_to(address);
    setup.went_to(address, killed);
    assert_eq!((setup.switch.leases().len(), setup.tables()), (1, 2));
    drop(program);
    setup.switch.wait_for_leases(0);
    assert_eq!((daemon.stop(), setup.tables()), (Ended::Undone, 0));
}

#[test]
fn a_successor_that_is_told_another_mechanism_keeps_the_flows_and_removes_the_rules() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let (_program, address) = setup.program_in_a_flow(&daemon);
    setup.until_written(address);
    daemon.kill();
    let daemon = setup.start_with(MechanismChoice::Bpf);
    assert_eq!((daemon.status().mechanism.as_str(), setup.tables()), ("bpf", 0));
    eventually("it is open", || daemon.flows().iter().any(|flow| flow.address == Some(address)));
    setup.go_to(address);
    assert_eq!(setup.switch.leases().len(), 1);
    daemon.stop();
}

#[test]
fn where_the_kernel_refuses_bpf_nftables_are_used_and_nothing_is_pinned() {
    let setup = setup();
    // The library looks once in a process what the kernel can do.
    let daemon = setup.start();
    assert!(setup.is_pinned());
    assert_eq!(daemon.stop(), Ended::Undone);
    let daemon = setup.start_without_bpf();
    assert_eq!((daemon.status().mechanism.as_str(), setup.is_pinned()), ("nft", false));
    let (_program, address) = setup.program_in_a_flow(&daemon);
    thread::sleep(Duration::from_millis(100));
    setup.go_to(address);
    assert_eq!((daemon.stop(), setup.tables()), (Ended::Undone, 0));
}

#[test]
fn a_successor_restores_rules_that_somebody_has_flushed() {
    let setup = setup();
    let daemon = setup.start_with(MechanismChoice::Nft);
    let (_program, address) = setup.program_in_a_flow(&daemon);
    setup.until_written(address);
    daemon.kill();
    let flushed = setup.host.netns().command("nft").args(["flush", "ruleset"]).status().expect("nft");
    assert!(flushed.success());
    let daemon = setup.start();
    assert_eq!(daemon.flows().first().and_then(|flow| flow.address), Some(address));
    thread::sleep(Duration::from_millis(100));
    setup.go_to(address);
    daemon.stop();
}
