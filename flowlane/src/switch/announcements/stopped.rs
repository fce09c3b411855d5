//! Flows whose frames have stopped: a host behind the port may have taken their address.
//!
//! Who sends a frame *from* a flow address draws its frames to itself at every learning bridge in between, and need not let
//! the switch see that frame. What the switch sees is that a flow stops. So it announces the address once more: that costs
//! one short frame where a sender has only paused, and brings the frames back where somebody has taken them.

use flowlane_wire::SlotIndex;
use std::time::{Duration, Instant};

/// Looks at each slot of the table in turn.
pub struct Stopped {
    /// What was seen of each slot at the last look.
    last: Vec<Last>,
    /// The next slot to look at.
    from: u32,
    /// When the round began.
    round: Instant,
    /// When to go on.
    next: Instant,
}

/// What was seen of a slot.
#[derive(Clone, Copy, Default)]
struct Last {
    /// Frames forwarded, the low bits of the counter.
    packets: u32,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// It has not been looked at.
    #[default]
    Unknown,
    /// No frames came between the last two looks.
    Still,
    /// Frames came.
    Moving,
    /// Frames have stopped, and the address was announced for that.
    Announced,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing to do.
    Nothing,
    /// Frames have stopped: the address is to be announced.
    Stopped,
    /// Frames came again at the first look after the address was announced for that.
    Restored,
}

/// From the beginning of a round to the next one.
const PERIOD: Duration = Duration::from_millis(400);
/// Between two pieces of a round.
const PAUSE: Duration = Duration::from_millis(10);
/// Slots of a piece.
const PIECE: u32 = 2_048;

impl Stopped {
    /// For a table of so many slots.
    pub fn new(slots: u32, now: Instant) -> Self {
        Self { last: vec![Last::default(); slots as usize], from: 0, round: now, next: now }
    }

    /// The slots to look at now; none while it is not time.
    pub fn piece(&mut self, now: Instant) -> std::ops::Range<u32> {
        if now < self.next {
            return 0..0;
        }
        let slots = self.last.len() as u32;
        let piece = self.from..self.from.saturating_add(PIECE).min(slots);
        (self.from, self.next) = (piece.end, now + PAUSE);
        if self.from >= slots {
            self.next = self.next.max(self.round + PERIOD);
            (self.from, self.round) = (0, self.next);
        }
        piece
    }

    /// When there is something to look at.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Looks at a slot, whose flow has forwarded so many frames. Where it may not be announced now, that it has stopped is
    /// found by the next look.
    pub fn look(&mut self, slot: SlotIndex, packets: u64, may_announce: bool) -> Found {
        let Some(last) = self.last.get_mut(slot.0 as usize) else { return Found::Nothing };
        let packets = packets as u32;
        let moves = packets != last.packets;
        let (state, found) = match (last.state, moves) {
            (State::Unknown, _) => (State::Still, Found::Nothing),
            (State::Announced, true) => (State::Moving, Found::Restored),
            (_, true) => (State::Moving, Found::Nothing),
            (State::Moving, false) if may_announce => (State::Announced, Found::Stopped),
            (State::Moving, false) => (State::Moving, Found::Nothing),
            (State::Still | State::Announced, false) => (State::Still, Found::Nothing),
        };
        *last = Last { packets, state };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_stops_is_announced_once_and_restored_only_if_its_frames_come_at_once() {
        let mut stopped = Stopped::new(4, Instant::now());
        let mut look = |packets| stopped.look(SlotIndex(1), packets, true);
        assert_eq!([3, 5, 9].map(&mut look), [Found::Nothing; 3]);
        assert_eq!([9, 9, 9].map(&mut look), [Found::Stopped, Found::Nothing, Found::Nothing]);
        assert_eq!([10, 10, 11].map(&mut look), [Found::Nothing, Found::Stopped, Found::Restored]);
        assert_eq!(stopped.look(SlotIndex(4), 1, true), Found::Nothing, "no such slot");
    }

    #[test]
    fn what_has_stopped_is_found_later_where_too_much_is_announced_and_never_at_the_first_look() {
        let mut stopped = Stopped::new(1, Instant::now());
        let looks = [(7, true), (7, true), (8, true), (8, false), (8, true)];
        let found = looks.map(|(packets, may_announce)| stopped.look(SlotIndex(0), packets, may_announce));
        assert_eq!(found[..4], [Found::Nothing; 4]);
        assert_eq!(found[4], Found::Stopped);
    }

    #[test]
    fn a_round_goes_through_all_slots_and_then_pauses() {
        let start = Instant::now();
        let mut stopped = Stopped::new(PIECE + 1, start);
        assert_eq!(stopped.piece(start), 0..PIECE);
        assert_eq!(stopped.piece(start), 0..0, "not yet");
        assert_eq!(stopped.piece(start + PAUSE), PIECE..PIECE + 1);
        assert_eq!(stopped.deadline(), start + PERIOD);
        assert_eq!(stopped.piece(start + PERIOD), 0..PIECE);
    }
}
