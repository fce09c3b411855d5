//! Linux's IPv4 forwarding.

use crate::{
    Error,
    contestant::SetUp,
    frame::{NEXT_HOP, destination_of},
    path::Path,
};
use flowlane_lab::{IpNet, Via};
use std::net::{IpAddr, Ipv4Addr};

/// Addresses for tests of network devices, RFC 2544 appendix C.2.2.
const INGRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const EGRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const SUBNET: u8 = 24;
/// All flows' destinations.
const DESTINATIONS: u8 = 8;

/// One route for all flows' destinations, by a gateway whose address is known.
pub(crate) fn set_up(path: &Path) -> Result<SetUp, Error> {
    path.switch.sysctl("net/ipv4/ip_forward", "1")?;
    // The packets' source is not routed back by where they come from.
    for name in ["all", "default", path.ingress.name()] {
        path.switch.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
    }
    path.ingress.add_address(net(INGRESS, SUBNET))?;
    path.egress.add_address(net(EGRESS, SUBNET))?;
    path.egress.set_neighbour(GATEWAY.into(), NEXT_HOP)?;
    path.switch.add_route(net(destination_of(0).into(), DESTINATIONS), Via::Gateway(GATEWAY.into()))?;
    Ok(SetUp::of(()))
}

fn net(address: Ipv4Addr, prefix_len: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(address), prefix_len)
}
