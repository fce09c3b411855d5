//! Three hosts and a router between them, which is the switch.

use crate::daemon::Daemon;
use flowlane_lab::{Host, IpNet, Link, Mac, Netns, Offload, traffic};
use serde_json::json;
use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How long what happens at once may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// One test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Hosts `a`, `b`, `c` in subnets 10.1.0.0/24 and fd01::/64, 10.2..., 10.3...; each has address 2 and the router, with
/// its ports `pa`, `pb`, `pc`, has 1.
pub struct Lab {
    pub netns: Netns,
    pub a: Host,
    pub b: Host,
    pub c: Host,
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    pub fn new() -> Self {
        let alone = alone();
        let netns = Netns::new("switch").expect("root");
        netns.sysctl("net/ipv4/ip_forward", "1").expect("a router");
        netns.sysctl("net/ipv6/conf/all/forwarding", "1").expect("a router");
        let [a, b, c] = [(1, "a"), (2, "b"), (3, "c")].map(|(number, name)| host(&netns, number, name));
        Self { netns, a, b, c, _alone: alone }
    }

    /// A switch of all three ports, where `executor` handles frames.
    pub fn switch(&self, executor: &str) -> Daemon {
        self.switch_with(&settings(executor))
    }

    /// A switch with these settings.
    pub fn switch_with(&self, settings: &str) -> Daemon {
        Daemon::start(&self.netns, settings)
    }

    /// The lab with a switch.
    pub fn with_switch(executor: &str) -> (Self, Daemon) {
        let lab = Self::new();
        let daemon = lab.switch(executor);
        (lab, daemon)
    }
}

/// Keeps other tests from running.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The settings of a switch of all three ports.
pub fn settings(executor: &str) -> String {
    let ports = ["pa", "pb", "pc"].map(|port| format!("[[port]]\ninterface = \"{port}\"\n")).concat();
    format!("slots = 1024\nexecutor = \"{executor}\"\n{ports}")
}

/// A host at a new port of the switch's namespace.
pub fn host(netns: &Netns, number: u8, name: &str) -> Host {
    let host =
        Host::new(name, netns, &format!("p{name}"), Some(mac_of(number)), &addresses(number, 2)).expect("a host");
    for address in addresses(number, 1) {
        host.port().add_address(address).expect("the router's address");
        host.netns().add_default_route(address.addr()).expect("a route");
    }
    as_a_wire(host.link());
    host
}

/// What a wire does and a veth does not, unless told: frames are complete when they are sent. XDP needs it, and frames
/// that XDP sends to a veth arrive only where GRO is on.
pub fn as_a_wire(link: &Link) {
    link.set_offload(Offload::TxChecksum, false).expect("veth knows it");
    link.set_offload(Offload::Gro, true).expect("veth knows it");
}

/// The address of host `number`.
pub fn mac_of(number: u8) -> Mac {
    Mac([2, 0, 0, 0, number, 2])
}

fn addresses(subnet: u8, host: u8) -> [IpNet; 2] {
    [net(&format!("10.{subnet}.0.{host}/24")), net(&format!("fd0{subnet}::{host}/64"))]
}

pub fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn mac(text: &str) -> Mac {
    text.parse().expect("an Ethernet address")
}

/// Everything that a host sends by way of `neighbour` goes into the flow.
pub fn use_flow(host: &Host, neighbour: &str, flow: &str) {
    host.link().set_neighbour(ip(neighbour), mac(flow)).expect("a neighbour");
}

/// Host `a`'s packets to its router go into a new flow.
pub fn flow_from_a(lab: &Lab, switch: &Daemon, router: &str) -> String {
    let flow = switch.api.open(json!({ "port": "pa", "client": router }));
    use_flow(&lab.a, router, &flow);
    flow
}

/// Host `a`'s packets to its router go into a new flow that leads to `b`, also while the switch's process is not there.
pub fn known_flow_from_a_to_b(lab: &Lab, switch: &Daemon) -> String {
    let flow = flow_from_a(lab, switch, "10.1.0.1");
    ping(&lab.a, "10.2.0.2", 1);
    // The first packets are sent before the table says where the next ones go.
    eventually("it is resolved", || switch.api.flow(&flow)["state"] == "resolved");
    flow
}

/// All of `count` echo requests are answered.
pub fn ping(host: &Host, to: &str, count: u32) {
    let report = traffic::ping(host.netns(), ip(to), count, None, SOON).expect("sent");
    assert_eq!(report.received, count, "{report:?}");
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < SOON * 2, "in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
