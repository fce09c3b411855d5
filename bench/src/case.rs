//! What is measured, and how often.

use crate::{Contestant, Error, Micro, MicroCase, Work, package::is_there};
use std::time::Duration;

/// One contestant with so much work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who forwards.
    pub contestant: Contestant,
    /// What a switch of ours has to do; others forward.
    pub work: Work,
    /// How many flows there are, in the table and in the traffic. Frames belong to random ones of them.
    pub flows: u32,
    /// The lengths of the frames that are measured, one after the other, in octets with the check sequence.
    pub frame_bytes: &'static [u32],
}

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cases. Those of one number of flows stand ready at the same time.
    pub cases: Vec<Case>,
    /// What is measured without interfaces.
    pub micro: Vec<MicroCase>,
    /// Whether a TCP connection through each contestant of tc is measured.
    pub tcp: bool,
    /// Whether it is measured how fast tables are filled.
    pub install: bool,
    /// How often each is measured, in turns.
    pub repeats: u32,
    /// How long each measurement is to take.
    pub window: Duration,
}

/// Numbers of flows. Ten thousand are more than the caches of Open vSwitch hold.
const THOUSAND: u32 = 1_000;
const TEN_THOUSAND: u32 = 10_000;
const HUNDRED_THOUSAND: u32 = 100_000;
const MILLION: u32 = 1_000_000;
/// Lengths of frames: the shortest that Ethernet has, and both that and nearly the longest.
const SHORT: &[u32] = &[64];
const BOTH: &[u32] = &[64, 1500];
/// Parts that are no contestants, by name.
const TCP: &str = "tcp";
const INSTALL: &str = "install";
/// Not measured by [`run`](crate::run), but a name for whoever measures [`requests`](crate::requests) besides.
const REQUESTS: &str = "requests";

const QUICK: [Contestant; 5] =
    [Contestant::Floor, Contestant::Limit, Contestant::HashMap, Contestant::FlowlaneXdp, Contestant::LinuxBridge];
const OVS: [Contestant; 2] = [Contestant::OvsAfPacket, Contestant::OvsAfXdp];
const IN_KERNEL: [Contestant; 2] = [Contestant::FlowlaneXdp, Contestant::FlowlaneTc];

const ON_SOCKETS: [Contestant; 2] = [Contestant::FlowlaneAfXdp, Contestant::FlowlaneAfPacket];

impl Plan {
    /// What takes less than a minute and needs nothing installed.
    pub fn quick() -> Self {
        Self::of([forwarding(&QUICK, 1, BOTH), forwarding(&QUICK, MILLION, SHORT)].concat())
    }

    /// All that needs nothing installed. TCP is measured where iperf3 is.
    pub fn whole() -> Self {
        let cases = [
            forwarding(&Contestant::PLAIN, 1, BOTH),
            works(&IN_KERNEL, 1, &[Work::Source, Work::Metered, Work::Group, Work::Flagged]),
            // No group: the generator's window is of frames sent, and does not know of copies.
            works(&ON_SOCKETS, 1, &[Work::Source, Work::Metered, Work::Flagged]),
            forwarding(&Contestant::PLAIN, THOUSAND, SHORT),
            works(&IN_KERNEL, THOUSAND, &[Work::Flagged]),
            forwarding(&Contestant::PLAIN, HUNDRED_THOUSAND, SHORT),
            forwarding(&Contestant::PLAIN, MILLION, BOTH),
            works(&IN_KERNEL, MILLION, &[Work::Source, Work::Metered, Work::Flagged]),
        ];
        let pipeline = |flows| MicroCase { contestant: Micro::FlowlaneUserspace, flows };
        let micro = [1, TEN_THOUSAND, MILLION].map(pipeline).into();
        Self { micro, tcp: is_there("iperf3"), ..Self::of(cases.concat()) }
    }

    /// That, and all peers that have to be installed.
    pub fn with_peers() -> Self {
        let whole = Self::whole();
        let both: Vec<Contestant> = [Contestant::Limit, Contestant::FlowlaneXdp].into_iter().chain(OVS).collect();
        let more =
            [forwarding(&OVS, 1, SHORT), forwarding(&OVS, THOUSAND, SHORT), forwarding(&both, TEN_THOUSAND, SHORT)];
        let mut cases = [whole.cases, more.concat()].concat();
        cases.sort_by_key(|case| case.flows);
        let testpmd = [Micro::TestpmdIo, Micro::TestpmdMacswap].map(|contestant| MicroCase { contestant, flows: 1 });
        let ovs = [1, THOUSAND, TEN_THOUSAND].map(|flows| MicroCase { contestant: Micro::OvsDpdk, flows });
        let micro = [whole.micro, testpmd.into(), ovs.into()].concat();
        Self { cases, micro, tcp: true, install: true, ..whole }
    }

    /// Only what has one of these names, and what it is measured against: contestants, `tcp` for the TCP connection, `install`
    /// for how fast tables are filled.
    ///
    /// # Errors
    /// [`Error::NoContestant`] for a name that nothing has.
    pub fn only(self, names: &[String]) -> Result<Self, Error> {
        if let Some(wanted) = names.iter().find(|name| !self.names().contains(&name.as_str())) {
            return Err(Error::NoContestant { wanted: wanted.clone(), all: self.names().join(", ") });
        }
        let is_asked = |name: &str| names.iter().any(|asked| asked == name);
        let flows: Vec<u32> =
            self.cases.iter().filter(|case| is_asked(case.contestant.name())).map(|case| case.flows).collect();
        let is_case = |case: &Case| {
            is_asked(case.contestant.name()) || case.contestant.is_reference() && flows.contains(&case.flows)
        };
        Ok(Self {
            cases: self.cases.into_iter().filter(is_case).collect(),
            micro: self.micro.into_iter().filter(|case| is_asked(case.contestant.name())).collect(),
            tcp: self.tcp && is_asked(TCP),
            install: self.install && is_asked(INSTALL),
            ..self
        })
    }

    /// The names of all that is planned, each once.
    fn names(&self) -> Vec<&'static str> {
        let cases = self.cases.iter().map(|case| case.contestant.name());
        let micro = self.micro.iter().map(|case| case.contestant.name());
        let mut names: Vec<&str> = Vec::new();
        for name in
            cases.chain(micro).chain(self.tcp.then_some(TCP)).chain(self.install.then_some(INSTALL)).chain([REQUESTS])
        {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn of(cases: Vec<Case>) -> Self {
        Self { cases, micro: Vec::new(), tcp: false, install: false, repeats: 5, window: Duration::from_millis(250) }
    }

    /// Numbers of flows, in the order of the cases.
    pub(crate) fn flows(&self) -> Vec<u32> {
        let mut flows: Vec<u32> = self.cases.iter().map(|case| case.flows).collect();
        flows.dedup();
        flows
    }
}

fn forwarding(contestants: &[Contestant], flows: u32, frame_bytes: &'static [u32]) -> Vec<Case> {
    let case = |&contestant| Case { contestant, work: Work::Unicast, flows, frame_bytes };
    contestants.iter().map(case).collect()
}

fn works(contestants: &[Contestant], flows: u32, works: &[Work]) -> Vec<Case> {
    let of = |&contestant| works.iter().map(move |&work| Case { contestant, work, flows, frame_bytes: SHORT });
    contestants.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contestant_by_name_comes_with_what_it_is_measured_against() {
        let plan = Plan::with_peers().only(&["ovs-af-xdp".to_owned()]).expect("there is one");
        assert_eq!(plan.flows(), [1, THOUSAND, TEN_THOUSAND]);
        let of = |contestant| plan.cases.iter().filter(|case| case.contestant == contestant).count();
        assert_eq!((of(Contestant::OvsAfXdp), of(Contestant::Limit), of(Contestant::FlowlaneXdp)), (3, 3, 0));
        assert!(plan.micro.is_empty() && !plan.tcp && !plan.install);
        assert_eq!(Plan::with_peers().only(&["ovs-dpdk".to_owned()]).expect("there is one").micro.len(), 3);
    }

    #[test]
    fn a_name_that_nothing_has_is_told_with_those_that_there_are() {
        let error = Plan::quick().only(&["ovs".to_owned()]).expect_err("there is none").to_string();
        assert!(error.contains("ovs;") && error.contains("flowlane-xdp"), "{error}");
    }
}
