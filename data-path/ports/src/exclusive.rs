//! Keeps the frames of flows away from the Linux stack while the userspace executor handles them.
//!
//! A packet socket sees a frame but does not consume it: the stack or the bridge would handle it a second time, and
//! with a flow address in the source field and the router's own address in the destination Linux would route it. So
//! a filter at tc ingress, which comes after the packet sockets, drops every frame with an address of the block in
//! either field, and where the port reads the virtual-circuit flag, every flagged packet to one host. It is a classic BPF
//! program, which needs no eBPF privilege and works in a user namespace.

use crate::PortError;
use crate::af_packet::bpf;
use crate::netlink::Netlink;
use flowlane_wire::header::ethernet;
use flowlane_wire::{Block, Flag};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::errno::Errno;

/// Where the filter stands among those of the interface's ingress: by these numbers Flowlane knows its own.
pub const PRIORITY: u16 = 0x0f10;
/// The filter's handle at its priority.
pub const HANDLE: u32 = 0x0f10;

/// As long as this lives, only packet sockets see frames of the block, and flagged ones, that come in by the interface.
///
/// Dropping it removes the filter. The clsact qdisc stays: other filters may hang on it. After a kill -9 the filter
/// stays, too, and the flows' frames go nowhere until the executor is back, which replaces it.
pub struct Exclusive {
    netlink: Netlink,
    ifindex: i32,
}

impl Exclusive {
    /// Installs the filter at the interface `ifindex`, in place of one that an earlier run left. With a `flag`, packets that
    /// carry it in a frame to one host belong to the packet sockets as well.
    ///
    /// # Errors
    /// [`PortError::NotPermitted`] without CAP_NET_ADMIN, [`PortError::NoSuchInterface`], [`PortError::System`]
    /// where the kernel has no clsact qdisc or BPF classifier (CONFIG_NET_CLS_ACT, CONFIG_NET_CLS_BPF).
    pub fn install(ifindex: u32, block: &Block, flag: Option<Flag>) -> Result<Self, PortError> {
        let index = i32::try_from(ifindex).map_err(|_| PortError::NoSuchInterface(ifindex))?;
        let exclusive = Self { netlink: Netlink::open()?, ifindex: index };
        let qdisc = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        match exclusive.netlink.request(qdisc, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(PortError::of("adding the clsact qdisc", ifindex, errno)),
        }
        let filter = RouteNetlinkMessage::NewTrafficFilter(filter(index, &program(block, flag)));
        let installed = exclusive.netlink.request(filter, NLM_F_CREATE);
        installed.map_err(|errno| PortError::of("adding the ingress filter", ifindex, errno))?;
        Ok(exclusive)
    }

    /// Removes a filter that an earlier run left, if there is one.
    ///
    /// # Errors
    /// As [`Exclusive::install`].
    pub fn remove(ifindex: u32) -> Result<(), PortError> {
        let index = i32::try_from(ifindex).map_err(|_| PortError::NoSuchInterface(ifindex))?;
        match remove(&Netlink::open()?, index) {
            // No filter, or no qdisc for it.
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => Ok(()),
            Err(errno) => Err(PortError::of("removing the ingress filter", ifindex, errno)),
        }
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        // The interface may be gone, and the filter with it.
        let _ = remove(&self.netlink, self.ifindex);
    }
}

fn remove(netlink: &Netlink, ifindex: i32) -> Result<(), Errno> {
    netlink.request(RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, &[])), 0)
}

fn clsact(ifindex: i32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    message
}

/// The filter's place, and its program unless that is empty.
fn filter(ifindex: i32, program: &[libc::sock_filter]) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex);
    message.header.parent = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
    message.header.handle = HANDLE.into();
    message.header.info = TcHandle { major: PRIORITY, minor: (libc::ETH_P_ALL as u16).to_be() }.into();
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.into()));
    if !program.is_empty() {
        message.attributes.push(TcAttribute::Options(options(program)));
    }
    message
}

fn options(program: &[libc::sock_filter]) -> Vec<TcOption> {
    // linux/pkt_cls.h: TCA_BPF_OPS_LEN and TCA_BPF_OPS.
    const OPS_LEN: u16 = 4;
    const OPS: u16 = 5;
    let len = (program.len() as u16).to_ne_bytes().to_vec();
    let other = |kind, value| TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(kind, value)));
    vec![
        other(OPS_LEN, len),
        other(OPS, program.iter().flat_map(octets).collect()),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]
}

/// An instruction as the kernel reads it: `struct sock_filter`.
fn octets(of: &libc::sock_filter) -> [u8; 8] {
    let ([a, b], [e, f, g, h]) = (of.code.to_ne_bytes(), of.k.to_ne_bytes());
    [a, b, of.jt, of.jf, e, f, g, h]
}

const SHOT: u32 = 2; // TC_ACT_SHOT: drop
const UNSPEC: u32 = u32::MAX; // TC_ACT_UNSPEC: ask the next filter

/// Drops frames whose destination or source lies in the block, and flagged packets.
fn program(block: &Block, flag: Option<Flag>) -> Vec<libc::sock_filter> {
    let mut program = in_block(block);
    program.extend(flag.into_iter().flat_map(flagged));
    program.push(end(UNSPEC));
    program
}

/// Drops frames whose destination or source lies in the block; others go on behind it.
fn in_block(block: &Block) -> Vec<libc::sock_filter> {
    let prefix = block.prefix().to_u64();
    let mask = u64::MAX << (48 - block.prefix_len());
    let [high, low] = [(prefix >> 16) as u32, prefix as u32 & 0xffff];
    let [high_mask, low_mask] = [(mask >> 16) as u32, mask as u32 & 0xffff];
    vec![
        load(libc::BPF_W | libc::BPF_ABS, ethernet::DESTINATION),
        and(high_mask),
        equals(high, 0, 3), // else the source
        load(libc::BPF_H | libc::BPF_ABS, ethernet::DESTINATION + 4),
        and(low_mask),
        equals(low, 6, 0), // drop
        load(libc::BPF_W | libc::BPF_ABS, ethernet::SOURCE),
        and(high_mask),
        equals(high, 0, 4), // else go on
        load(libc::BPF_H | libc::BPF_ABS, ethernet::SOURCE + 4),
        and(low_mask),
        equals(low, 0, 1), // else go on
        end(SHOT),
    ]
}

/// Drops flagged IP packets in frames to one host; others go on behind it. The kernel has taken the outer tag off the frame
/// by now, so one more may stand before the EtherType. A load behind the end of the frame lets it pass.
fn flagged(flag: Flag) -> Vec<libc::sock_filter> {
    let tag = |len: usize| bpf(libc::BPF_LDX | libc::BPF_IMM, len as u32, 0, 0);
    let shift = |by| bpf(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, by, 0, 0);
    let bits = |mask, jt, jf| bpf(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, mask, jt, jf);
    let jump = |by| bpf(libc::BPF_JMP | libc::BPF_JA, by, 0, 0);
    let network = ethernet::ETHERTYPE + 2;
    vec![
        load(libc::BPF_B | libc::BPF_ABS, ethernet::DESTINATION),
        bits(1, 24, 0), // a group: go on
        tag(0),
        load(libc::BPF_H | libc::BPF_ABS, ethernet::ETHERTYPE),
        equals(ethernet::VLAN.into(), 1, 0),
        equals(ethernet::SERVICE_VLAN.into(), 0, 1),
        tag(ethernet::TAG_LEN),
        load(libc::BPF_H | libc::BPF_IND, ethernet::ETHERTYPE),
        equals(ethernet::IPV4.into(), 2, 0),
        equals(ethernet::IPV6.into(), 7, 0),
        jump(15), // no IP: go on
        load(libc::BPF_B | libc::BPF_IND, network),
        and(0xf0),
        equals(0x40, 0, 12), // else go on
        load(libc::BPF_B | libc::BPF_IND, network + 1),
        shift(2),
        jump(6), // to the flag
        load(libc::BPF_H | libc::BPF_IND, network),
        and(0xf000),
        equals(0x6000, 0, 6), // else go on
        load(libc::BPF_H | libc::BPF_IND, network),
        shift(6),
        and(0x3f),
        and(flag.mask.into()),
        equals(flag.value.into(), 0, 1), // else go on
        end(SHOT),
    ]
}

fn load(what: u32, at: usize) -> libc::sock_filter {
    bpf(libc::BPF_LD | what, at as u32, 0, 0)
}

fn and(mask: u32) -> libc::sock_filter {
    bpf(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, 0, 0)
}

fn equals(value: u32, jt: u8, jf: u8) -> libc::sock_filter {
    bpf(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, jt, jf)
}

fn end(verdict: u32) -> libc::sock_filter {
    bpf(libc::BPF_RET | libc::BPF_K, verdict, 0, 0)
}
