//! Every way that a frame can end: one list for the kernel, the counters, the metrics and the documents.

use core::fmt;

/// What becomes of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes on to the Linux stack or bridge, untouched.
    Passed,
    /// It is sent on by Flowlane.
    Forwarded,
    /// It waits for its next host.
    Queued,
    /// It goes to the Linux stack, which answers with an ICMP error.
    ToLinux,
    /// It is rejected.
    Dropped,
}

macro_rules! ends {
    ($($variant:ident = $number:literal, $name:literal, $kind:ident, $sentence:literal;)*) => {
        /// The end of a frame. The number is the index of its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum End {
            $(#[doc = $sentence] $variant = $number,)*
        }

        impl End {
            /// All ends, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that commands, metrics and documents use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What becomes of the frame.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// What happened, as a sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

ends! {
    Pass = 0, "pass", Passed, "Neither address is a flow address of this switch: left to the Linux stack or bridge.";
    Forward = 1, "forward", Forwarded, "Rewritten and sent to the flow's next hop.";
    Backup = 2, "backup", Forwarded, "Rewritten and sent to the backup next hop, because the port of the first one is down.";
    Resolve = 3, "resolve", Queued, "First packet: queued until the next host of its IP destination is known.";
    TtlExpired = 4, "ttl-expired", ToLinux, "The time to live (hop limit) does not allow another routed hop: Linux answers.";
    TooBigRouted = 5, "too-big-routed", ToLinux, "Larger than the egress port's MTU at a routed hop: Linux answers or fragments.";
    Truncated = 6, "truncated", Dropped, "Shorter than an Ethernet header.";
    UnknownFlow = 7, "unknown-flow", Dropped, "The address is in this switch's block, but no flow has it.";
    WrongPort = 8, "wrong-port", Dropped, "The flow's frames come in by another port (claim 19).";
    Expired = 9, "expired", Dropped, "The lease of the flow address has ended.";
    OverRate = 10, "over-rate", Dropped, "The flow sends faster than its meter allows.";
    QueueFull = 11, "queue-full", Dropped, "Too many frames wait for their next host already.";
    NoRoute = 12, "no-route", Dropped, "The next host of the flow's destination can not be reached.";
    PortDown = 13, "port-down", Dropped, "The egress port is down, and there is no backup.";
    SamePort = 14, "same-port", Dropped, "The next hop is behind the port that the frame came in by.";
    TooBig = 15, "too-big", Dropped, "Larger than the egress port's MTU.";
    Malformed = 16, "malformed", Dropped, "A routed hop, but the IP header is cut short or makes no sense.";
    NotSent = 17, "not-sent", Dropped, "The egress port did not take the frame.";
    RingFull = 18, "ring-full", Dropped, "Frames came faster than this process took them (af-packet, af-xdp): it did not see this one, and if it was a flow's it is lost.";
    Replicate = 19, "replicate", Forwarded, "Rewritten and sent to the receivers of the group, one copy each (claim 20).";
    NoReceiver = 20, "no-receiver", Dropped, "No receiver of the group can be sent a copy: there is none, its port is down or too small, or the frame came from there.";
    AskFlow = 21, "ask-flow", Queued, "First flagged packet of its addresses and ports: queued until they have a flow (claim 24).";
    FlagMalformed = 22, "flag-malformed", Dropped, "The virtual-circuit flag is set, but the packet is cut short or its headers make no sense.";
    FlagRefused = 23, "flag-refused", Dropped, "The virtual-circuit flag is set, but the port has as many flagged flows, or as many that wait for one, as it may have.";
    Marked = 24, "marked", Passed, "The virtual-circuit flag was added (claim 23); left to the Linux stack or bridge.";
}

/// How many counters a port has room for; a little more than there are ends, so that one more does not move others.
pub const ENDS: usize = 32;

const _: () = assert!(End::ALL.len() <= ENDS);

impl End {
    /// The end with a number, as read from a table.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_places_in_the_list() {
        for (place, end) in End::ALL.iter().enumerate() {
            assert_eq!(*end as usize, place);
            assert_eq!(End::from_number(place as u8), Some(*end));
        }
        assert_eq!(End::from_number(End::ALL.len() as u8), None);
    }
}
