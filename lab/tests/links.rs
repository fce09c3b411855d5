//! Namespaces and interfaces, as the kernel reports them.
#![allow(clippy::unwrap_used)]

use flowlane_lab::{End, Error, Host, Link, Mac, Netns, Offload, bridge, dummy, traffic, veth};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use std::{fs, thread};

const TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn both_ends_of_a_veth_are_where_and_what_was_asked_for() {
    let (a, b) = (Netns::new("a").unwrap(), Netns::new("b").unwrap());
    let mac = Mac([0x02, 0, 0, 0, 0, 0x2a]);
    let (left, right) = veth(end(&a, "left"), End { netns: &b, name: "right", mac: Some(mac) }).unwrap();
    assert!(!a.link("right").unwrap().exists().unwrap());
    assert!(!b.link("left").unwrap().exists().unwrap());
    assert_eq!(right.mac().unwrap(), mac);
    assert_ne!(left.mac().unwrap(), mac);
    assert!(!left.state().unwrap().up);

    left.up().unwrap();
    assert!(left.state().unwrap().up && !left.state().unwrap().operational);
    left.connect(&right).unwrap();
    assert!(left.state().unwrap().operational && right.state().unwrap().operational);
    right.down().unwrap();
    assert!(!right.state().unwrap().up && !right.state().unwrap().operational);
}

#[test]
fn an_interface_can_be_changed_renamed_and_deleted() {
    let (_a, _b, mut left, right) = cable();
    left.set_mtu(1400).unwrap();
    left.set_mac(Mac([0x02, 0, 0, 0, 0, 7])).unwrap();
    let index = left.index().unwrap();
    left.rename("fifteen-letters").unwrap();
    let state = left.state().unwrap();
    assert_eq!(
        (left.name(), state.mtu, state.mac, state.index),
        ("fifteen-letters", 1400, Mac([2, 0, 0, 0, 0, 7]), index)
    );

    let group = left.set_mac(Mac([0x03, 0, 0, 0, 0, 7])).unwrap_err();
    assert!(
        group.to_string().starts_with("a: can not set the address 03:00:00:00:00:07 on fifteen-letters"),
        "{group}"
    );
    left.clone().delete().unwrap();
    assert!(!left.exists().unwrap() && !right.exists().unwrap());
    let text = left.up().unwrap_err().to_string();
    assert!(
        text.starts_with("a: can not set up fifteen-letters") && text.contains("create the interface first"),
        "{text}"
    );
}

#[test]
fn a_name_that_no_interface_can_have_is_refused_at_once() {
    let a = Netns::new("a").unwrap();
    for name in ["", "sixteen-letters!", ".", "..", "a/b", "a b", "a:b", "eth%d", "a\n"] {
        assert!(matches!(a.link(name), Err(Error::LinkName { .. })), "{name:?}");
        assert!(matches!(veth(end(&a, "ok"), end(&a, name)), Err(Error::LinkName { .. })), "{name:?}");
    }
    assert!(!a.link("ok").unwrap().exists().unwrap());
}

#[test]
fn a_name_that_is_taken_is_refused_with_namespace_and_advice() {
    let (a, b, ..) = cable();
    let text = veth(end(&a, "left"), end(&b, "other")).unwrap_err().to_string();
    assert!(text.starts_with("a: can not create the veth pair left and other in b: File exists"), "{text}");
    assert!(text.contains("use another name"), "{text}");
}

#[test]
fn addresses_are_listed_as_they_were_added_and_not_added_twice() {
    let (_a, _b, left, right) = cable();
    let addresses = ["10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()];
    for address in addresses {
        left.add_address(address).unwrap();
    }
    assert_eq!(left.addresses().unwrap(), addresses);
    assert_eq!(right.addresses().unwrap(), []);
    let text = left.add_address(addresses[0]).unwrap_err().to_string();
    assert!(text.starts_with("a: can not add the address 10.0.0.1/24 to left: File exists"), "{text}");
}

#[test]
fn offloads_can_be_switched_and_read_back() {
    let (_a, _b, left, right) = cable();
    for offload in [Offload::Gro, Offload::Gso, Offload::Tso, Offload::TxChecksum] {
        for on in [true, false, true, false] {
            left.set_offload(offload, on).unwrap();
            assert_eq!(left.offload(offload).unwrap(), on, "{offload:?}");
        }
    }
    assert!(right.offload(Offload::TxChecksum).unwrap(), "the other end is another interface");
    // TSO needs checksums from the interface, which were switched off just now: the kernel would ignore the wish.
    let text = left.set_offload(Offload::Tso, true).unwrap_err().to_string();
    assert!(
        text.starts_with("a: can not switch on the offload Tso of left: the interface keeps it as it was"),
        "{text}"
    );
    assert!(!left.offload(Offload::Tso).unwrap());
}

#[test]
fn a_bridge_joins_its_ports_and_no_others() {
    let switch = Netns::new("switch").unwrap();
    let bridge = bridge(&switch, "br0").unwrap();
    let host = |label, port, address: &str| Host::new(label, &switch, port, None, &[address.parse().unwrap()]).unwrap();
    let (h1, h2) = (host("h1", "port1", "10.0.0.1/24"), host("h2", "port2", "10.0.0.2/24"));
    let reached = |timeout| traffic::ping(h1.netns(), h2.ipv4().unwrap(), 1, None, timeout).unwrap().received;
    h1.port().attach(&bridge).unwrap();
    assert_eq!(reached(Duration::from_millis(200)), 0);
    h2.port().attach(&bridge).unwrap();
    assert_eq!(reached(TIMEOUT), 1);
    h2.port().detach().unwrap();
    assert_eq!(reached(Duration::from_millis(200)), 0);
}

#[test]
fn a_dummy_interface_is_up_or_the_kernel_is_said_to_lack_it() {
    let a = Netns::new("a").unwrap();
    match dummy(&a, "dummy0") {
        Ok(link) => assert!(link.state().unwrap().up),
        Err(error) => assert!(error.to_string().contains("the kernel lacks it"), "{error}"),
    }
}

#[test]
fn a_dropped_namespace_takes_its_interfaces_along() {
    let (a, b, left, right) = cable();
    drop(right);
    let clone = b.clone();
    drop(b);
    assert!(left.exists().unwrap(), "the clone still holds the namespace");
    drop(clone);
    let deadline = Instant::now() + Duration::from_secs(10);
    while left.exists().unwrap() {
        assert!(Instant::now() < deadline, "the other end of {left} is still there");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(a.link("lo").unwrap().exists().unwrap());
}

#[test]
fn a_setting_changes_in_its_own_namespace_only() {
    let (a, b) = (Netns::new("a").unwrap(), Netns::new("b").unwrap());
    let key = "net/ipv4/ip_default_ttl";
    a.sysctl(key, "7").unwrap();
    assert_eq!(a.read_sysctl(key).unwrap(), "7");
    assert_ne!(b.read_sysctl(key).unwrap(), "7");
    for foreign in ["kernel/hostname", "net/../kernel/hostname", "/net/ipv4/ip_forward", "net//x"] {
        assert!(matches!(a.read_sysctl(foreign), Err(Error::SysctlKey { .. })), "{foreign}");
    }
    let text = a.sysctl("net/ipv4/no_such", "1").unwrap_err().to_string();
    assert!(text.starts_with("a: can not set net/ipv4/no_such to 1: No such file"), "{text}");
}

#[test]
fn commands_threads_and_other_programs_enter_the_namespace() {
    let (a, _b, ..) = cable();
    let output = a.command("cat").arg("/proc/net/dev").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("left:") && text.contains("lo:"), "{text}");

    let inode = |path: &str| fs::metadata(path).unwrap().ino();
    let inside = a.run(|| inode("/proc/thread-self/ns/net")).unwrap();
    assert_ne!(inside, inode("/proc/thread-self/ns/net"));
    assert_eq!(fs::metadata(a.path()).unwrap().ino(), inside);
    let entered = thread::spawn(move || {
        a.enter().unwrap();
        fs::metadata(Netns::current().unwrap().path()).unwrap().ino()
    });
    assert_eq!(entered.join().unwrap(), inside);
}

#[test]
#[should_panic(expected = "inside")]
fn a_panic_inside_is_a_panic_outside() {
    let a = Netns::new("a").unwrap();
    let _ = a.run(|| panic!("inside"));
}

fn cable() -> (Netns, Netns, Link, Link) {
    let (a, b) = (Netns::new("a").unwrap(), Netns::new("b").unwrap());
    let (left, right) = veth(end(&a, "left"), end(&b, "right")).unwrap();
    (a, b, left, right)
}

fn end<'a>(netns: &'a Netns, name: &'a str) -> End<'a> {
    End { netns, name, mac: None }
}
