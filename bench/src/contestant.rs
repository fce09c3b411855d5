//! Who is measured.

use crate::{Error, Work, bridge, frame::Traffic, ovs, path::Path, peer, processor::Processor, routing, switch};
use flowlane_lab::Offload;
use flowlane_program::Mode;
use serde::Serialize;
use std::any::Any;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// Nobody: the sink is at the switch's end of the first cable. What generator, one cable and sink take by themselves.
    Floor,
    /// The limit at the driver: every frame is redirected to the second cable, without a look at it.
    Limit,
    /// A label switch as one would write it: XDP, the destination is the key of a BPF hash map, both addresses are
    /// rewritten. No check of the port, no counters.
    HashMap,
    /// Flowlane in XDP, as `flowlane switch` runs it.
    FlowlaneXdp,
    /// The limit on socket buffers: every one is redirected by tc, without a look at it.
    TcLimit,
    /// Flowlane in tc, as `flowlane switch` runs it on virtual ports.
    FlowlaneTc,
    /// Flowlane in this process, on AF_XDP sockets.
    FlowlaneAfXdp,
    /// Flowlane in this process, on AF_PACKET rings.
    FlowlaneAfPacket,
    /// Linux's IPv4 forwarding, by one route, to one neighbour.
    LinuxRouting,
    /// The Linux bridge with a static entry for each flow's address, without learning and flooding.
    LinuxBridge,
    /// Open vSwitch's userspace datapath on packet sockets, with a rule for each flow.
    OvsAfPacket,
    /// The same on AF_XDP sockets, which a thread polls without end, on a processor of its own.
    OvsAfXdp,
}

/// Where a sink counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// At the driver: for contestants that send XDP frames.
    Xdp,
    /// On socket buffers: for contestants that send those.
    Tc,
}

/// What a contestant has set up. It is gone when this is dropped.
pub(crate) struct SetUp {
    _held: Box<dyn Any + Send>,
    /// The process that forwards, where that is another one.
    pub process: Option<u32>,
}

impl SetUp {
    pub(crate) fn of(held: impl Any + Send) -> Self {
        Self { _held: Box::new(held), process: None }
    }

    pub(crate) fn with_process(self, process: u32) -> Self {
        Self { process: Some(process), ..self }
    }
}

impl Contestant {
    /// Those that need nothing installed.
    pub const PLAIN: [Self; 10] = [
        Self::Floor,
        Self::Limit,
        Self::HashMap,
        Self::FlowlaneXdp,
        Self::TcLimit,
        Self::FlowlaneTc,
        Self::FlowlaneAfXdp,
        Self::FlowlaneAfPacket,
        Self::LinuxRouting,
        Self::LinuxBridge,
    ];

    /// The name, as it stands in tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Limit => "limit",
            Self::HashMap => "hash-map",
            Self::FlowlaneXdp => "flowlane-xdp",
            Self::TcLimit => "tc-limit",
            Self::FlowlaneTc => "flowlane-tc",
            Self::FlowlaneAfXdp => "flowlane-af-xdp",
            Self::FlowlaneAfPacket => "flowlane-af-packet",
            Self::LinuxRouting => "linux-routing",
            Self::LinuxBridge => "linux-bridge",
            Self::OvsAfPacket => "ovs-af-packet",
            Self::OvsAfXdp => "ovs-af-xdp",
        }
    }

    /// Whether others are measured against it.
    pub(crate) fn is_reference(self) -> bool {
        matches!(self, Self::Floor | Self::Limit | Self::TcLimit)
    }

    /// Whether it is a switch of ours, which does other works than plain forwarding as well.
    pub fn is_flowlane(self) -> bool {
        matches!(self, Self::FlowlaneXdp | Self::FlowlaneTc | Self::FlowlaneAfXdp | Self::FlowlaneAfPacket)
    }

    /// Whether it polls without end, so that it needs a processor of its own.
    pub(crate) fn never_rests(self) -> bool {
        self == Self::OvsAfXdp
    }

    /// Whether the first frame of a flow costs it much more than others.
    pub(crate) fn learns(self) -> bool {
        matches!(self, Self::OvsAfPacket | Self::OvsAfXdp)
    }

    /// What its time is of: `solo` is generator, contestant and sink on one processor, `duo` the contestant and the sink on a
    /// processor of their own, for one that never rests.
    pub(crate) fn mode(self) -> &'static str {
        if self.never_rests() { "duo" } else { "solo" }
    }

    /// Whether threads of this process forward.
    pub(crate) fn is_in_this_process(self) -> bool {
        matches!(self, Self::FlowlaneAfXdp | Self::FlowlaneAfPacket)
    }

    /// How many frames may be on the way to it: none of its queues may be overrun by a generator that it can not hold up.
    /// Nothing for contestants in the kernel, which do hold it up.
    pub(crate) fn window(self) -> Option<u32> {
        match self {
            // The kernel counts a page for each frame, and the socket's buffer has the usual 208 KiB.
            Self::OvsAfPacket => Some(32),
            Self::FlowlaneAfXdp | Self::FlowlaneAfPacket | Self::OvsAfXdp => Some(128),
            _ => None,
        }
    }

    pub(crate) fn sink(self, work: Work) -> Sink {
        match self {
            // Copies are made in tc.
            Self::FlowlaneXdp if work == Work::Group => Sink::Tc,
            Self::Floor | Self::Limit | Self::HashMap | Self::FlowlaneXdp => Sink::Xdp,
            // Frames without a flow address stay in the kernel.
            Self::FlowlaneAfXdp if work == Work::Flagged => Sink::Xdp,
            _ => Sink::Tc,
        }
    }

    /// What is sent, and what is to arrive.
    pub(crate) fn traffic(self, work: Work, flows: u32) -> Traffic {
        match self {
            Self::Floor | Self::Limit | Self::TcLimit | Self::LinuxBridge => Traffic::unchanged(flows),
            Self::HashMap | Self::OvsAfPacket | Self::OvsAfXdp => Traffic::rewritten(flows),
            Self::LinuxRouting => Traffic::routed(flows),
            _ => work.traffic(flows),
        }
    }

    /// Sets the contestant up between the two cables.
    pub(crate) fn set_up(self, path: &Path, work: Work, flows: u32, on: &Processor) -> Result<SetUp, Error> {
        if !self.is_at_driver() {
            // XDP frames from the generator enter the other end of the cable by its receive offload.
            path.ingress.set_offload(Offload::Gro, true)?;
        }
        match self {
            Self::Floor => Ok(SetUp::of(())),
            Self::Limit => peer::redirect(path),
            Self::HashMap => peer::hash_map(path, flows),
            Self::FlowlaneXdp => switch::in_kernel(path, work, flows, Mode::Xdp),
            Self::TcLimit => peer::redirect_tc(path),
            Self::FlowlaneTc => switch::in_kernel(path, work, flows, Mode::Tc),
            Self::FlowlaneAfXdp => switch::on_af_xdp(path, work, flows, on),
            Self::FlowlaneAfPacket => switch::on_af_packet(path, work, flows, on),
            Self::LinuxRouting => routing::set_up(path),
            Self::LinuxBridge => bridge::set_up(path, flows),
            Self::OvsAfPacket => ovs::set_up(path, ovs::Ports::AfPacket, flows, on),
            Self::OvsAfXdp => ovs::set_up(path, ovs::Ports::AfXdp, flows, on),
        }
    }

    /// Whether it has a program at the driver of the ingress.
    fn is_at_driver(self) -> bool {
        matches!(
            self,
            Self::Floor | Self::Limit | Self::HashMap | Self::FlowlaneXdp | Self::FlowlaneAfXdp | Self::OvsAfXdp
        )
    }
}
