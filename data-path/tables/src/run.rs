//! What a host knows of the flows that its programs' packets are put into.
//!
//! A *run* is a program, a cgroup, a network namespace or a socket whose packets are put into flows: one flow for each
//! destination, interface and path. Nothing here is of a switch.

use crate::Word;
use flowlane_wire::Mac;

/// How many destinations all runs of a host have together.
pub const RUN_FLOWS: u32 = 8_192;

/// How many flow addresses one destination has at most, each by a path of its own.
pub const PATHS_MAX: usize = 8;

/// How many packets of one destination wait for its flow; what comes behind them is not held up.
pub const HELD_MAX: u32 = 64;

/// How long packets wait for a flow when nobody says otherwise, in nanoseconds.
pub const HELD_NANOS: u64 = 1_000_000_000;

/// At how many different depths of the hierarchy there can be cgroups that are runs.
pub const RUN_LEVELS: usize = 8;

/// How many cgroups, and how many sockets, can be runs.
pub const RUN_SCOPES: u32 = 4_096;

/// How many interfaces packets can be put into flows on.
pub const RUN_INTERFACES: u32 = 4_096;

/// The version of all that is laid out here. Pinned tables of another version are not adopted.
pub const RUN_LAYOUT: u32 = 1;

/// Which runs there are to look for: what is read for every packet that leaves the host. One cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct RunScopes {
    /// Not 0 while there are sockets to look for.
    sockets: Word,
    /// The depths at which there are cgroups to look for, each an octet and one more than it is: the deepest in the lowest.
    levels: Word,
    /// The [`RunScope`] of the whole namespace.
    namespace: Word,
    /// Where a free entry is looked for next. It goes round, so an entry that has become free is taken again last of all: who
    /// has just found it by its former key sees it free, and not another's.
    next: Word,
    reserved: [Word; 4],
}

/// A run, as a cgroup, a socket or a namespace stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunScope {
    /// The run's number, from 1.
    pub run: u32,
    /// Whether flows are required.
    pub required: bool,
}

/// What precedes a packet that waits in the ring buffer, in the machine's own byte order. 24 octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HeldHeader {
    /// The number of the [`RunFlow`].
    pub index: u32,
    /// The interface that it leaves by, by index.
    pub ifindex: u32,
    /// How many octets of it follow: all of them.
    pub length: u32,
    /// The run's number.
    pub run: u32,
    /// The payload of each segment where it is a super-packet, else 0.
    pub gso_size: u16,
    /// Nothing.
    pub reserved: [u16; 3],
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAction {
    /// It waits, if there is room for it.
    Hold,
    /// It gets a flow address.
    Send {
        /// How many there are to choose from.
        paths: u8,
        /// Whether it stands in the source field.
        source: bool,
    },
    /// It leaves as it is.
    Pass,
    /// It is dropped.
    Drop,
}

/// Whose packet goes where. A key of the table of destinations, 24 octets without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RunKey {
    /// The packet's IP destination; an IPv4 address as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
    pub destination: [u8; 16],
    /// The interface that the packet leaves by, by index.
    pub ifindex: u32,
    /// The run's number, from 1.
    pub run: u32,
}

/// The packets of a run to one destination: what becomes of them. 256 octets.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct RunFlow {
    /// A [`RunState`]; 0 is a free entry.
    state: Word,
    /// When an open flow's lease ends, or until when packets wait, in nanoseconds of the boot-time clock. Packets pass as
    /// they are from then on, or are dropped where flows are required, also if nobody is there any more to say so.
    until: Word,
    /// The [`RunKey`], for who finds the entry by its number.
    key: [Word; 3],
    /// Packets that left as they were.
    passed: Word,
    reserved: [Word; 2],
    /// The flow addresses.
    paths: [RunPath; PATHS_MAX],
}

/// One flow address of a destination, with what was sent by it.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RunPath {
    /// The flow address, as [`Mac::to_u64`].
    address: Word,
    packets: Word,
    bytes: Word,
}

const _: () = assert!(size_of::<RunKey>() == 24 && size_of::<RunFlow>() == 256);
const _: () = assert!(size_of::<RunScopes>() == 64 && size_of::<HeldHeader>() == 24);

/// What becomes of the packets of a run to one destination.
///
/// ```text
///     bits 0..8   kind: 0 free, 1 waiting, 2 open, 3 plain, 4 cut
///     bit  8      flows are required
///     bit  9      the flow address stands in the source field
///     bits 16..24 how many paths, of open
///     bits 32..64 how many packets wait, of waiting
/// ```
///
/// The count of waiting packets shares the word with the answer, so that one compare-and-swap decides for each packet
/// whether it waits or is sent: none overtakes those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Nobody's.
    Free,
    /// A flow is asked for; so many packets wait.
    Waiting {
        /// How many.
        held: u32,
    },
    /// Packets get flow addresses.
    Open {
        /// How many paths there are, 1 to [`PATHS_MAX`].
        paths: u8,
        /// Whether the flow address stands in the source field (claim 2), else in the destination field (claim 3).
        source: bool,
    },
    /// There is no flow: packets leave as they are.
    Plain,
    /// Packets are dropped.
    Cut,
}

/// How often a packet tries to be counted as waiting against others on other processors.
const HOLD_TRIES: u32 = 4;

const REQUIRED: u64 = 1 << 8;
const SOURCE: u64 = 1 << 9;

impl RunState {
    /// The word as it stands in the table.
    #[inline(always)]
    pub const fn to_word(self, required: bool) -> u64 {
        let flag = if required { REQUIRED } else { 0 };
        match self {
            Self::Free => 0,
            Self::Waiting { held } => 1 | flag | (held as u64) << 32,
            Self::Open { paths, source } => 2 | flag | if source { SOURCE } else { 0 } | (paths as u64) << 16,
            Self::Plain => 3 | flag,
            Self::Cut => 4 | flag,
        }
    }

    /// What a word of the table means, and whether flows are required.
    #[inline(always)]
    pub const fn from_word(word: u64) -> (Self, bool) {
        let state = match word as u8 {
            1 => Self::Waiting { held: (word >> 32) as u32 },
            2 => Self::Open { paths: (word >> 16) as u8, source: word & SOURCE != 0 },
            3 => Self::Plain,
            4 => Self::Cut,
            _ => Self::Free,
        };
        (state, word & REQUIRED != 0)
    }
}

impl RunKey {
    /// The key as it stands in the table of destinations.
    pub fn to_octets(&self) -> [u8; 24] {
        let mut octets = [0; 24];
        octets[..16].copy_from_slice(&self.destination);
        octets[16..20].copy_from_slice(&self.ifindex.to_ne_bytes());
        octets[20..].copy_from_slice(&self.run.to_ne_bytes());
        octets
    }
}

impl RunScope {
    /// The scope as a word, which is never 0.
    pub const fn to_word(self) -> u64 {
        self.run as u64 | (self.required as u64) << 32
    }

    /// What a word means; the high 24 bits are not looked at. Nothing where it names no run.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word as u32 == 0 { None } else { Some(Self { run: word as u32, required: word >> 32 & 1 != 0 }) }
    }
}

impl RunScopes {
    /// The word that says whether there are sockets to look for.
    #[inline(always)]
    pub fn sockets(&self) -> &Word {
        &self.sockets
    }

    /// The word of the depths.
    #[inline(always)]
    pub fn levels(&self) -> &Word {
        &self.levels
    }

    /// The word of the namespace's own run.
    #[inline(always)]
    pub fn namespace(&self) -> &Word {
        &self.namespace
    }

    /// The first, and so the deepest, of what is left of a word of depths.
    #[inline(always)]
    pub const fn first_level(word: u64) -> Option<u8> {
        (word as u8).checked_sub(1)
    }

    /// The word of some depths, whichever way round and however often they are named; the root's is 0. Nothing where there are
    /// more than [`RUN_LEVELS`] different ones, or one that no cgroup has.
    pub fn levels_word(levels: impl IntoIterator<Item = u8>) -> Option<u64> {
        let (mut deepest_first, mut count) = ([0u8; RUN_LEVELS], 0);
        for level in levels {
            let octet = level.checked_add(1)?;
            let Err(place) = deepest_first[..count].binary_search_by(|other| octet.cmp(other)) else { continue };
            if count == RUN_LEVELS {
                return None;
            }
            deepest_first[place..=count].rotate_right(1);
            deepest_first[place] = octet;
            count += 1;
        }
        Some(u64::from_le_bytes(deepest_first))
    }

    /// Where to look for a free entry. Two processors may be told the same.
    #[inline(always)]
    pub fn next_entry(&self) -> u32 {
        let next = self.next.load();
        self.next.add(1);
        next as u32
    }
}

impl HeldHeader {
    /// Its size in octets.
    pub const LEN: usize = size_of::<Self>();

    /// Reads a header from the start of a record. Nothing where the record is shorter.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let number = |offset: usize| record.get(offset..)?.first_chunk().map(|octets| u32::from_ne_bytes(*octets));
        Some(Self {
            index: number(0)?,
            ifindex: number(4)?,
            length: number(8)?,
            run: number(12)?,
            gso_size: u16::from_ne_bytes(*record.get(16..)?.first_chunk()?),
            reserved: [0; 3],
        })
    }
}

impl RunFlow {
    /// What becomes of a packet at a time of the boot-time clock, in nanoseconds.
    #[inline(always)]
    pub fn action(&self, now: u64) -> RunAction {
        let (state, required) = self.state();
        let in_time = now < self.until.load();
        match state {
            RunState::Waiting { held } if in_time && held < HELD_MAX => RunAction::Hold,
            RunState::Open { paths, source } if in_time => RunAction::Send { paths, source },
            RunState::Cut => RunAction::Drop,
            _ if required => RunAction::Drop,
            _ => RunAction::Pass,
        }
    }

    /// Counts a packet among those that wait, if they still do and are not too many. Whether it was.
    #[inline(always)]
    pub fn hold(&self) -> bool {
        for _ in 0..HOLD_TRIES {
            let word = self.state.load_published();
            let (RunState::Waiting { held }, required) = RunState::from_word(word) else { return false };
            if held >= HELD_MAX {
                return false;
            }
            if self.state.swap(word, RunState::Waiting { held: held + 1 }.to_word(required)) {
                return true;
            }
        }
        false
    }

    /// Lets packets pass again if none waits, before the entry is freed. Whether none did.
    #[inline(always)]
    pub fn give_up(&self) -> bool {
        let word = self.state.load_published();
        let (state, required) = RunState::from_word(word);
        state == (RunState::Waiting { held: 0 }) && self.state.swap(word, RunState::Plain.to_word(required))
    }

    /// Frees the entry. Its key must be in no table any more.
    #[inline(always)]
    pub fn free(&self) {
        self.state.publish(RunState::Free.to_word(false));
    }

    /// What becomes of the packets, and whether flows are required.
    #[inline(always)]
    pub fn state(&self) -> (RunState, bool) {
        RunState::from_word(self.state.load_published())
    }

    /// The word behind [`RunFlow::state`].
    #[inline(always)]
    pub fn state_word(&self) -> &Word {
        &self.state
    }

    /// The word of the time.
    #[inline(always)]
    pub fn until(&self) -> &Word {
        &self.until
    }

    /// The counter of packets that left as they were.
    #[inline(always)]
    pub fn passed(&self) -> &Word {
        &self.passed
    }

    /// Its paths; as many as [`RunState::Open`] says are meant.
    #[inline(always)]
    pub fn paths(&self) -> &[RunPath; PATHS_MAX] {
        &self.paths
    }

    /// Takes a free entry for a key. Whether it was free.
    #[inline(always)]
    pub fn take(&self, key: &RunKey, required: bool, until: u64) -> bool {
        // Claimed with an address-less word first: what follows is written by one alone.
        if !self.state.swap(0, RunState::Plain.to_word(required)) {
            return false;
        }
        let [a, b] = halves(&key.destination);
        self.key[0].store(a);
        self.key[1].store(b);
        self.key[2].store(u64::from(key.ifindex) | u64::from(key.run) << 32);
        self.until.store(until);
        self.passed.store(0);
        for path in &self.paths {
            path.address.store(0);
            path.packets.store(0);
            path.bytes.store(0);
        }
        self.state.publish(RunState::Waiting { held: 0 }.to_word(required));
        true
    }

    /// The key that the entry was taken for.
    pub fn key(&self) -> RunKey {
        let [a, b, c] = [&self.key[0], &self.key[1], &self.key[2]].map(Word::load);
        let mut destination = [0; 16];
        destination[..8].copy_from_slice(&a.to_ne_bytes());
        destination[8..].copy_from_slice(&b.to_ne_bytes());
        RunKey { destination, ifindex: c as u32, run: (c >> 32) as u32 }
    }
}

impl RunPath {
    /// The word of the flow address.
    #[inline(always)]
    pub fn address(&self) -> &Word {
        &self.address
    }

    /// The flow address; nothing where there is none.
    pub fn mac(&self) -> Option<Mac> {
        Some(self.address.load()).filter(|word| *word != 0).map(Mac::from_u64)
    }

    /// The counter of packets, a super-packet counted as its segments.
    #[inline(always)]
    pub fn packets(&self) -> &Word {
        &self.packets
    }

    /// The counter of their octets on the wire, without preamble and check sequence.
    #[inline(always)]
    pub fn bytes(&self) -> &Word {
        &self.bytes
    }
}

#[inline(always)]
fn halves(octets: &[u8; 16]) -> [u64; 2] {
    let &[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeSet, vec::Vec};

    fn flow(state: RunState, required: bool) -> RunFlow {
        let flow = RunFlow::default();
        flow.state_word().store(state.to_word(required));
        flow.until().store(100);
        flow
    }

    #[test]
    fn packets_pass_when_the_time_is_over_and_are_dropped_where_flows_are_required() {
        let open = RunState::Open { paths: 2, source: true };
        for (state, in_time) in
            [(RunState::Waiting { held: 0 }, RunAction::Hold), (open, RunAction::Send { paths: 2, source: true })]
        {
            assert_eq!(flow(state, false).action(99), in_time);
            assert_eq!(flow(state, true).action(99), in_time);
            assert_eq!(flow(state, false).action(100), RunAction::Pass);
            assert_eq!(flow(state, true).action(100), RunAction::Drop);
        }
    }

    #[test]
    fn what_is_cut_is_dropped_and_what_is_plain_or_free_passes_unless_flows_are_required() {
        for now in [0, 100] {
            assert_eq!(flow(RunState::Cut, false).action(now), RunAction::Drop);
            for state in [RunState::Plain, RunState::Free] {
                assert_eq!(flow(state, false).action(now), RunAction::Pass);
            }
            assert_eq!(flow(RunState::Plain, true).action(now), RunAction::Drop);
        }
    }

    #[test]
    fn so_many_packets_wait_and_no_more() {
        let flow = flow(RunState::Waiting { held: 0 }, true);
        assert!((0..HELD_MAX).all(|_| flow.action(0) == RunAction::Hold && flow.hold()));
        assert!(!flow.hold());
        assert_eq!(flow.state(), (RunState::Waiting { held: HELD_MAX }, true));
        assert_eq!(flow.action(0), RunAction::Drop);
    }

    #[test]
    fn what_nothing_waits_for_is_given_up_and_nothing_else() {
        let waiting = flow(RunState::Waiting { held: 0 }, true);
        assert!(waiting.hold() && !waiting.give_up());
        let waiting = flow(RunState::Waiting { held: 0 }, true);
        assert!(waiting.give_up() && !waiting.hold());
        assert_eq!(waiting.state(), (RunState::Plain, true));
        assert!(!flow(RunState::Cut, false).give_up());
    }

    #[test]
    fn nothing_waits_for_what_is_answered() {
        for state in [RunState::Free, RunState::Open { paths: 1, source: false }, RunState::Plain, RunState::Cut] {
            let flow = flow(state, false);
            assert!(!flow.hold());
            assert_eq!(flow.state(), (state, false));
        }
    }

    proptest! {
        #[test]
        fn depths_are_looked_at_from_the_deepest_up(levels in prop::collection::vec(0u8..20, 0..20)) {
            let deepest_first: Vec<u8> = levels.iter().copied().collect::<BTreeSet<_>>().into_iter().rev().collect();
            let word = RunScopes::levels_word(levels);
            prop_assert_eq!(word.is_some(), deepest_first.len() <= RUN_LEVELS);
            let mut rest = word.unwrap_or_default();
            let mut seen = Vec::new();
            while let Some(level) = RunScopes::first_level(rest) {
                seen.push(level);
                rest = rest.checked_shr(8).unwrap_or_default();
            }
            prop_assert!(word.is_none() || seen == deepest_first);
        }

        #[test]
        fn a_scope_survives_its_word(run: u32, required: bool, high: u8) {
            let word = RunScope { run, required }.to_word() | u64::from(high) << 40;
            prop_assert_eq!(RunScope::from_word(word), (run != 0).then_some(RunScope { run, required }));
        }

        #[test]
        fn no_record_panics(record in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(HeldHeader::parse(&record).is_some(), record.len() >= 18);
        }

        #[test]
        fn a_state_survives_its_word(held: u32, paths in 1u8..=8, source: bool, required: bool) {
            for state in [RunState::Waiting { held }, RunState::Open { paths, source }, RunState::Plain, RunState::Cut] {
                prop_assert_eq!(RunState::from_word(state.to_word(required)), (state, required));
            }
        }

        #[test]
        fn an_entry_is_taken_once_and_keeps_its_key(destination: [u8; 16], ifindex: u32, run: u32) {
            let (flow, key) = (RunFlow::default(), RunKey { destination, ifindex, run });
            prop_assert!(flow.take(&key, false, 7));
            prop_assert!(!flow.take(&RunKey::default(), true, 8));
            prop_assert_eq!((flow.key(), flow.state()), (key, (RunState::Waiting { held: 0 }, false)));
        }
    }
}
