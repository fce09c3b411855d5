//! Faults of the pipeline that the proof must find: one that proves everything proves nothing.

/// A fault: a few words of the sources, and what stands there instead.
pub struct Fault {
    /// What is wrong.
    pub name: &'static str,
    pub file: &'static str,
    pub right: &'static str,
    pub wrong: &'static str,
    /// The task of the proof in which it shows.
    pub entry: &'static str,
    /// The property that does not hold any more.
    pub breaks: &'static str,
}

const fn pipeline(
    name: &'static str,
    file: &'static str,
    [right, wrong]: [&'static str; 2],
    [entry, breaks]: [&'static str; 2],
) -> Fault {
    Fault { name, file, right, wrong, entry, breaks }
}

pub const FAULTS: [Fault; 14] = [
    pipeline(
        "the port is not checked",
        "data-path/pipeline/src/check.rs",
        ["if expected.0 == ingress.0 {", "if expected.0 == expected.0 {"],
        ["run", "port check"],
    ),
    pipeline(
        "the short way does not check the port",
        "data-path/tables/src/slot.rs",
        ["if self.key.load_published() != key {", "if self.key.load_published() << 16 != key << 16 {"],
        ["forward", "port check"],
    ),
    pipeline(
        "the lease is forgotten",
        "data-path/pipeline/src/check.rs",
        ["if now < expires {", "if now < expires || expires > 0 {"],
        ["run", "lease"],
    ),
    pipeline(
        "the short way grants one tick more than the lease",
        "data-path/pipeline/src/environment.rs",
        ["i64::from(self.tick()) < tick", "i64::from(self.tick()) <= tick"],
        ["forward", "lease"],
    ),
    pipeline(
        "the short way sends frames back to where they came from",
        "data-path/pipeline/src/plain.rs",
        ["if egress.0 == ingress.0 { None }", "if egress.0 == 0 { None }"],
        ["forward", "egress"],
    ),
    pipeline(
        "frames go back to where they came from",
        "data-path/pipeline/src/egress.rs",
        ["if chosen.hop.port.0 == ingress.0 {", "if chosen.hop.port.0 == 0 {"],
        ["run", "egress"],
    ),
    pipeline(
        "the length is checked wrongly",
        "data-path/proof/src/frame.rs",
        [
            "        self.bytes.at(offset)\n",
            "        let room = <[u8]>::len(self.bytes) + 1;\n        // SAFETY: none, this is a fault.\n        \
             unsafe { (offset + N <= room).then(|| &mut *self.bytes.as_mut_ptr().add(offset).cast()) }\n",
        ],
        ["forward", "memory"],
    ),
    pipeline(
        "addresses are an octet too long",
        "data-path/pipeline/src/environment.rs",
        [
            "((source >> 16) as u32).to_le_bytes();\n        Some(())",
            "((source >> 16) as u32).to_le_bytes();\n        self.at::<13>(0)?[12] = 0;\n        Some(())",
        ],
        ["forward", "octets"],
    ),
    pipeline(
        "a short frame is a panic",
        "data-path/pipeline/src/environment.rs",
        ["        self.get_mut(offset..)?.first_chunk_mut()", "        self[offset..][..N].first_chunk_mut()"],
        ["forward", "no panic"],
    ),
    pipeline(
        "a counter starts anew",
        "data-path/pipeline/src/plain.rs",
        ["slot.packets().add(1);", "slot.packets().store(1);"],
        ["forward", "counters"],
    ),
    pipeline(
        "the short way forgets to count octets",
        "data-path/pipeline/src/plain.rs",
        ["        slot.bytes().add(u64::from(octets));\n", ""],
        ["forward and run", "short way"],
    ),
    pipeline(
        "a routed hop leaves the TTL as it is",
        "data-path/pipeline/src/lib.rs",
        ["if egress.hop.routed {", "if egress.hop.routed && egress.hop.port.0 == 0 {"],
        ["run", "values"],
    ),
    pipeline(
        "frames that are not flagged get flows",
        "data-path/pipeline/src/flag.rs",
        ["if !flag.is_in(dscp) {", "if !flag.is_in(dscp) && dscp == 0 {"],
        ["run", "flag"],
    ),
    pipeline(
        "a copy goes back to where its frame came from",
        "data-path/pipeline/src/replicate.rs",
        ["hop.port.0 != self.ingress.0", "hop.port.0 != 0"],
        ["replicate", "egress"],
    ),
];
