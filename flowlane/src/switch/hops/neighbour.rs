//! What is known of a gateway: whether it is a switch, and whether it still knows what it has granted.

use super::Target;
use flowlane_allot::FlowSpec;
use flowlane_dhcp6::{DhcpOption, Duid, FlowOption, IaLl, LlAddr, Message, MessageType, StatusCode, TransactionId};
use flowlane_wire::Mac;
use std::{collections::BTreeSet, ops::Bound};

/// A gateway that flows go by.
pub struct Neighbour {
    /// What it is.
    pub kind: Kind,
    /// Whose frames go by it.
    pub targets: BTreeSet<Target>,
    /// Answers that no switch gives.
    pub nonsense: u64,
    /// The question that is under way.
    probe: Option<Probe>,
    /// Questions in a row that nobody has answered.
    unanswered: u32,
    /// When it was last asked what it is (boot-time milliseconds).
    asked: u64,
    /// Who was asked about last.
    turn: Option<Target>,
}

/// What a gateway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody knows: it is being asked, or there is nobody to ask for.
    Unknown,
    /// A switch that gives flow addresses.
    Switch,
    /// A switch that has not answered for a minute. Flows go to its own address.
    Silent,
    /// No switch.
    Plain,
}

/// A question whether a gateway is a switch: a Solicit without Rapid Commit, after which nothing is kept.
struct Probe {
    id: TransactionId,
    about: Target,
    /// The address that is offered if nothing has changed.
    expected: Option<Mac>,
}

/// What the answer to a probe says.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is a switch, which was not known.
    Switch,
    /// It is as it was.
    Same,
    /// An operator has closed a target's flow there, in these words.
    Closed(Target, String),
    /// It does not know any more what it has granted: it offers something else for a target that had this address.
    Changed(Target, Mac),
}

/// How often an unknown gateway is asked, and the first wait; the next ones are twice as long.
const TRIES: u32 = 3;
const WAIT: u64 = 1_000;
/// How often a switch is asked whether all is as it was.
const BEAT: u64 = 5_000;
/// Beats without an answer after which flows go to the gateway's own address.
const MISSED: u32 = 12;
/// How long no other flow asks a gateway that is no switch.
const AGAIN: u64 = 60_000;

impl Neighbour {
    /// Nothing known, nothing asked.
    pub fn new() -> Self {
        Self {
            kind: Kind::Unknown,
            targets: BTreeSet::new(),
            nonsense: 0,
            probe: None,
            unanswered: 0,
            asked: 0,
            turn: None,
        }
    }

    /// A flow begins to go by it. When it is to be asked what it is, if that is so.
    pub fn join(&mut self, target: Target, now: u64) -> Option<u64> {
        self.targets.insert(target);
        let ask = match self.kind {
            Kind::Unknown => self.probe.is_none(),
            Kind::Plain => now >= self.asked + AGAIN,
            Kind::Switch | Kind::Silent => self.targets.len() == 1,
        };
        if !ask {
            return None;
        }
        if matches!(self.kind, Kind::Unknown | Kind::Plain) {
            (self.unanswered, self.asked) = (0, now);
            return Some(now);
        }
        Some(now + BEAT)
    }

    /// When an unknown gateway was asked first.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Its time has come: notes that the last question has had no answer, and decides what it is. When its time comes next;
    /// none where nothing is to be asked.
    pub fn advance(&mut self, now: u64) -> Option<u64> {
        self.unanswered += u32::from(self.probe.take().is_some());
        if self.targets.is_empty() {
            self.kind = if self.kind == Kind::Silent { Kind::Unknown } else { self.kind };
            return None;
        }
        match self.kind {
            Kind::Unknown | Kind::Plain if self.unanswered >= TRIES => {
                self.kind = Kind::Plain;
                None
            }
            Kind::Unknown | Kind::Plain => Some(now + (WAIT << self.unanswered)),
            Kind::Switch if self.unanswered >= MISSED => {
                self.kind = Kind::Silent;
                Some(now + BEAT)
            }
            Kind::Switch | Kind::Silent => Some(now + BEAT),
        }
    }

    /// Whom the next question is about: each in turn.
    pub fn next(&mut self) -> Option<Target> {
        let after = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.targets.range((after, Bound::Unbounded)).next().or(self.targets.first()).copied();
        self.turn = next;
        next
    }

    /// The question.
    pub fn probe(&mut self, duid: &Duid, spec: &FlowSpec, about: Target, expected: Option<Mac>) -> Option<Vec<u8>> {
        let [_, id @ ..] = (crate::switch::boot_nanos() as u32).to_be_bytes();
        let block = LlAddr::ethernet(Mac::default(), 0, 0);
        let options = vec![DhcpOption::LlAddr(block), DhcpOption::Flow(FlowOption::new(spec))];
        let ia = IaLl { iaid: about.iaid(), t1: 0, t2: 0, options };
        let id = TransactionId(id);
        self.probe = Some(Probe { id, about, expected });
        let options = vec![DhcpOption::ClientId(duid.clone()), DhcpOption::ElapsedTime(0), DhcpOption::IaLl(ia)];
        Message { kind: MessageType::Solicit, transaction: id, options }.emit().ok()
    }

    /// Takes an answer, if it is one to the question. None: it is not.
    pub fn answered(&mut self, answer: &Message) -> Option<Finding> {
        let probe = self.probe.as_ref().filter(|probe| probe.id == answer.transaction)?;
        let ia = flow_addresses(answer)
            .filter(|ia| answer.kind == MessageType::Advertise && ia.iaid == probe.about.iaid())?;
        let offered = ia.blocks().next().and_then(LlAddr::mac);
        let (about, expected) = (probe.about, probe.expected);
        (self.probe, self.unanswered) = (None, 0);
        if self.kind != Kind::Switch {
            self.kind = Kind::Switch;
            return Some(Finding::Switch);
        }
        match expected {
            Some(_) if let Some(status) = ia.status().filter(|status| status.code == StatusCode::NotAllowed) => {
                Some(Finding::Closed(about, status.text.clone()))
            }
            Some(held) if offered != Some(held) => Some(Finding::Changed(about, held)),
            _ => Some(Finding::Same),
        }
    }
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Switch => "switch",
            Self::Silent => "silent",
            Self::Plain => "plain",
        }
    }
}

/// The IA_LL of an answer. A switch's questions have one.
pub fn flow_addresses(answer: &Message) -> Option<&IaLl> {
    answer.options.iter().find_map(|option| match option {
        DhcpOption::IaLl(ia) => Some(ia),
        _ => None,
    })
}
