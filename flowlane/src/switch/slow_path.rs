//! Frames that wait for the next host of their flow, and those that Linux is to answer.

use super::{frame::Buffer, show::SeenFrame};
use flowlane_pipeline::{Tables as _, Verdict, size, tuple};
use flowlane_ports::{af_packet::Offload, host::HostTun};
use flowlane_program::{Punt, Tables};
use flowlane_tables::{End, NextHop, SNAP, Tuple};
use flowlane_userspace::Senders;
use flowlane_wire::{Mac, PortId, SlotIndex, header::ethernet};
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

/// A frame that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The flow's slot.
    pub slot: SlotIndex,
    /// The port that it came in by.
    pub ingress: PortId,
    /// The frame, with its tags.
    pub bytes: Vec<u8>,
    /// What its sender left undone.
    pub offload: Offload,
    /// Whether the data path has counted it in the slot: one that asked for a flow it has not.
    pub counted: bool,
}

impl Waiting {
    /// A frame that the kernel handed over. Its tag, which travelled beside it, is put back where it belongs.
    pub fn from_kernel(punt: &Punt<'_>) -> Option<Self> {
        let Punt::Waiting { slot, ingress, frame, tag, gso_size } = punt else { return None };
        let bytes = with_tag(frame, *tag);
        let offload = Offload::describe(&bytes, *gso_size);
        Some(Self { slot: *slot, ingress: *ingress, bytes, offload, counted: true })
    }

    /// The IP destination, if the frame is an IP packet to one host that a flow can lead to. What a host says to all its
    /// neighbours, such as its multicast memberships, does not decide where its flow goes.
    pub fn destination(&mut self) -> Option<IpAddr> {
        self.ip_destination().filter(|destination| match destination {
            IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_link_local()),
            IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local()),
        })
    }

    /// Whether it belongs to the flow of this address: by one of its fields, or flagged, by its tuple.
    pub fn is_of(&mut self, address: Mac, tables: &Tables) -> bool {
        self.carries(address) || self.tuple().is_some_and(|tuple| tables.tuples().get(&tuple) == Some(address.to_u64()))
    }

    /// Whose packet it is, where its headers make sense.
    pub fn tuple(&mut self) -> Option<Tuple> {
        tuple(&mut Buffer::new(&mut self.bytes, self.offload), self.ingress)
    }

    /// Whether it has this address in one of its fields.
    fn carries(&self, address: Mac) -> bool {
        let field = |at: usize| self.bytes.get(at..).and_then(|rest| rest.first_chunk()) == Some(&address.0);
        field(ethernet::DESTINATION) || field(ethernet::SOURCE)
    }

    /// Its octets.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Its first octets.
    fn start(&self) -> Vec<u8> {
        self.bytes.get(..SNAP.min(self.bytes.len())).unwrap_or_default().to_vec()
    }

    fn ip_destination(&mut self) -> Option<IpAddr> {
        use flowlane_pipeline::{Frame as _, Network, network};
        use flowlane_wire::header::{ipv4, ipv6};
        let mut frame = Buffer::new(&mut self.bytes, self.offload);
        match network(&mut frame) {
            Network::V4(offset) => frame.at::<4>(offset + ipv4::DESTINATION).map(|octets| IpAddr::from(*octets)),
            Network::V6(offset) => frame.at::<16>(offset + ipv6::DESTINATION).map(|octets| IpAddr::from(*octets)),
            Network::Other | Network::Truncated => None,
        }
    }

    /// How many frames it is on the wire.
    fn segments(&mut self) -> u64 {
        size(&mut Buffer::new(&mut self.bytes, self.offload)).frames
    }
}

/// The hand that sends and drops frames that have waited.
pub struct SlowPath {
    tables: Arc<Tables>,
    senders: Senders,
    to_linux: ToLinux,
    /// What has become of them, where frames are shown.
    seen: Option<Vec<SeenFrame>>,
}

impl SlowPath {
    /// Sends by the ports of these tables, and notes what is to be shown.
    pub fn new(tables: Arc<Tables>, to_linux: ToLinux, show: bool) -> Self {
        Self { tables, senders: Senders::default(), to_linux, seen: show.then(Vec::new) }
    }

    /// Sends a frame to the next hop of its flow, as the pipeline would have.
    pub fn send(&mut self, mut frame: Waiting, next: NextHop) {
        let Some(slot) = self.tables.slot(frame.slot) else { return };
        let before = frame.start();
        let mut buffer = Buffer::new(&mut frame.bytes, frame.offload);
        let verdict = flowlane_pipeline::send(&mut buffer, frame.ingress, slot, next, self.tables.as_ref(), &mut ());
        let (mut egress, mut end) = (None, End::NotSent);
        match verdict.unwrap_or_else(|verdict| verdict) {
            Verdict::Forward { port, end: sent } => {
                let ifindex = self.tables.port(port).map_or(0, |port| port.ifindex());
                if self.senders.send(ifindex, &[(&frame.bytes, frame.offload)]) == 1 {
                    (egress, end) = (Some(port), sent);
                }
            }
            Verdict::ToLinux(answered) => {
                self.to_linux.deliver(&frame.bytes);
                end = answered;
            }
            other => end = other.end(),
        }
        self.ended(frame, before, egress, end);
    }

    /// Drops a frame.
    pub fn drop(&mut self, frame: Waiting, end: End) {
        let before = frame.start();
        self.ended(frame, before, None, end);
    }

    /// Leaves a packet to Linux.
    pub fn pass(&mut self, frame: Waiting) {
        let before = frame.start();
        self.to_linux.deliver(&frame.bytes);
        self.ended(frame, before, None, End::Pass);
    }

    /// What has become of frames since the last call.
    pub fn seen(&mut self) -> Vec<SeenFrame> {
        self.seen.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn ended(&mut self, mut frame: Waiting, before: Vec<u8>, egress: Option<PortId>, end: End) {
        self.tables.count(frame.ingress, end, frame.segments());
        if let Some(seen) = &mut self.seen {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let (after, length, ingress) = (frame.start(), frame.bytes.len(), frame.ingress);
            seen.push(SeenFrame { at, ingress, egress, end, waited: true, copy: false, length, before, after });
        }
    }
}

/// Puts a tag (protocol in the high 16 bits, tag in the low) behind the addresses.
pub fn with_tag(frame: &[u8], tag: u32) -> Vec<u8> {
    match frame.split_at_checked(ethernet::ETHERTYPE) {
        Some((addresses, rest)) if tag != 0 => [addresses, &tag.to_be_bytes(), rest].concat(),
        _ => frame.to_vec(),
    }
}

/// The way to the Linux stack for frames that userspace has taken: a TUN device, made when it is first needed.
#[derive(Clone)]
pub struct ToLinux {
    name: Arc<str>,
    device: Arc<OnceLock<Option<Mutex<HostTun>>>>,
}

impl ToLinux {
    /// A way for the switch of this name.
    pub fn new(switch: &str) -> Self {
        // An interface's name has 15 octets at most, and two switches may be in one network namespace.
        let number = switch.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3) // FNV-1a
        });
        Self { name: format!("flowlane{:07x}", number >> 36).into(), device: Arc::new(OnceLock::new()) }
    }

    /// Gives Linux the packet in a frame. Where there can be no TUN device the packet is lost, as its end says.
    pub fn deliver(&self, frame: &[u8]) {
        let device = self.device.get_or_init(|| match HostTun::open(&self.name) {
            Ok(device) => Some(Mutex::new(device)),
            Err(error) => {
                tracing::warn!("ICMP errors of the slow path are not sent: {error}");
                None
            }
        });
        if let Some(Ok(device)) = device.as_ref().map(Mutex::lock) {
            // Linux drops what it can not use, and so does this.
            let _ = device.deliver(frame);
        }
    }
}
