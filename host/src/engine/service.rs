//! Whether a switch answers on an interface.

/// How long the answer to a probe is waited for.
const WAIT: u64 = 300;
/// Probes in a row without an answer after which there is no service. Others follow as quickly, for an interface that has
/// just come up may not be able to ask yet (RFC 4862 section 5.4).
const ENOUGH: u32 = 2;
const QUICK: u32 = 10;
/// How often it is asked later, the first time and at most.
const FIRST: u64 = 5_000;
const MOST: u64 = 60_000;
/// How often a switch is asked whether all is as it was, while flows go by it, and while none does.
const BEAT: u64 = 5_000;
/// How long flows go on by a switch that does not answer, where packets may leave without.
const SILENT: u64 = 60_000;

/// What is known of an interface, and when to ask again.
#[derive(Clone, Debug)]
pub(super) struct Service {
    up: bool,
    known: Option<bool>,
    unanswered: u32,
    /// When it answered last.
    heard: u64,
    /// When the next probe is due.
    pub(super) next: Option<u64>,
}

impl Service {
    /// An interface that is not up.
    pub(super) fn new() -> Self {
        Self { up: false, known: Some(false), unanswered: 0, heard: 0, next: None }
    }

    /// Whether a switch answers; nothing while that is not known.
    pub(super) fn known(&self) -> Option<bool> {
        self.known
    }

    /// Whether flows may be asked for: there is a switch, or there may be one.
    pub(super) fn may_ask(&self) -> bool {
        self.up && self.known != Some(false)
    }

    /// It came up, or went down: who is behind it is not known any more. Whether that is news.
    pub(super) fn set_up(&mut self, up: bool, now: u64) -> bool {
        let changed = up != self.up;
        if changed {
            *self = Self { up, known: (!up).then_some(false), unanswered: 0, heard: now, next: up.then_some(now) };
        }
        changed
    }

    /// The switch answered. Whether that is news.
    pub(super) fn answered(&mut self, now: u64, busy: bool) -> bool {
        let news = self.up && self.known != Some(true);
        if self.up {
            self.known = Some(true);
            (self.unanswered, self.heard) = (0, now);
            self.next = Some(now + if busy { BEAT } else { MOST });
        }
        news
    }

    /// A flow was asked for in vain: no more packets wait there before a probe is answered.
    pub(super) fn doubt(&mut self, now: u64) {
        if self.up {
            (self.known, self.unanswered, self.next) = (Some(false), 1, Some(now));
        }
    }

    /// The time of the next probe has come: notes it as sent, and says what the silence so far means.
    pub(super) fn probe(&mut self, now: u64) -> Silence {
        let silence = match self.unanswered {
            0 => Silence::None,
            ENOUGH => Silence::NoService,
            _ if self.known == Some(false) && now.saturating_sub(self.heard) >= SILENT => Silence::Dead,
            _ => Silence::None,
        };
        if silence == Silence::NoService {
            self.known = Some(false);
        }
        let later = self.unanswered.saturating_sub(QUICK).min(4);
        let wait = if self.unanswered < QUICK { WAIT } else { (FIRST << later).min(MOST) };
        self.unanswered = self.unanswered.saturating_add(1);
        self.next = Some(now + wait);
        silence
    }
}

/// What it means that probes have no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing yet.
    None,
    /// There is nobody to ask: what is open goes on, for a switch whose process is gone forwards still.
    NoService,
    /// There is no switch any more.
    Dead,
}
