//! The attacks, a file for each threat.

mod counters;
mod dead_flows;
mod denied;
mod entries;
mod floods;
mod guessing;
mod learning;
mod malformed;
mod requests;
mod rogue;
mod spoofing;
mod starvation;
mod storms;
mod tampering;

use crate::Attack;

macro_rules! attacks {
    ($($threat:literal $name:literal $sentence:literal $run:path;)*) => {
        /// All attacks, in the order of their threats.
        pub const ALL: &[Attack] =
            &[$(Attack { threat: $threat, name: $name, sentence: $sentence, run: $run },)*];
    };
}

attacks! {
    "T1" "spoofed-addresses" "No frame with another port's flow address is delivered or queued; each is counted."
        spoofing::run;
    "T2" "guessed-addresses" "No frame to a guessed flow address is delivered or queued; each is counted." guessing::run;
    "T3" "dead-flows" "No late frame of a flow that has ended reaches the next owner of its slot." dead_flows::run;
    "T4" "pool-starvation" "A port gets no more flow addresses than its quota, and others go on to get theirs."
        starvation::of_addresses;
    "T4" "lease-flood" "Requests of one port that must be written to disk do not hold up those of others."
        starvation::of_the_disk;
    "T5" "unknown-flood" "Frames to unknown addresses hold up neither flows nor the requests of other ports."
        floods::unknown;
    "T5" "first-packet-flood" "First packets of many flows of one port displace no first packets of other ports."
        floods::first_packets;
    "T5" "tuple-flood" "Flagged packets with ever new addresses hold up no other port, and get no more flows than the limit."
        floods::tuples;
    "T6" "exact-entries" "Requests of every form come to the entries that were granted, at their port, and to no others."
        entries::run;
    "T7" "learned-elsewhere" "A host that takes a flow address at a bridge in between does not keep its frames."
        learning::run;
    "T8" "storms" "Frames to a group do not go round a ring of switches whose routes do." storms::run;
    "T9" "rogue-server" "DHCPv6 messages of servers from a host's port change nothing." rogue::run;
    "T10" "malformed-frames" "Every malformed frame is counted once, with the same end on every executor." malformed::run;
    "T11" "full-counters" "Counters at their greatest value wrap, and frames go on." counters::run;
    "T12" "denied-calls" "Who has no role, the wrong one, or no good certificate is denied every operation, and nothing changes."
        denied::run;
    "T13" "tampering" "A user without privileges can not open, change or remove tables, programs and links."
        tampering::run;
    "T14" "invalid-requests" "What is refused changes nothing: leases and table are the same octet by octet." requests::run;
}
