//! A host with a daemon, a switch, and a host with servers.

use super::{host::FlowHost, packets::Watch, services::Services};
use crate::{
    daemon::Daemon,
    lab::{Lab, settings},
};
use flowlane_lab::{Direction, Offload};
use serde_json::Value;
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long what a run has left may stay: a guard waits 3 s for a successor of the daemon.
pub const CLEAN: Duration = Duration::from_secs(8);

/// The lab, where host `a` puts programs into flows and `b` has servers.
pub struct Site {
    pub host: FlowHost,
    pub services: Services,
    pub switch: Daemon,
    pub lab: Lab,
}

impl Site {
    /// All of it runs, and `serve` starts the servers.
    pub fn new(executor: &str, serve: impl FnOnce(Services) -> Services) -> Self {
        Self::with(executor, "", "", serve)
    }

    /// The same, with more settings of the switch and settings of the host's daemon.
    pub fn with(executor: &str, of_switch: &str, of_host: &str, serve: impl FnOnce(Services) -> Services) -> Self {
        let lab = Lab::new();
        let switch = lab.switch_with(&format!("{}{of_switch}", settings(executor)));
        if executor == "tc" {
            for host in [&lab.a, &lab.b] {
                host.link().set_offload(Offload::TxChecksum, true).expect("veth knows it");
            }
        }
        let services = serve(Services::new(&lab.b));
        let host = FlowHost::start_with(&lab.a, of_host);
        Self { host, services, switch, lab }
    }

    /// Sees what host `a` sends. The tap of its own interface does not see packets that were held, so the switch's is used
    /// where XDP does not take the frames before.
    pub fn watch(&self, executor: &str) -> Watch {
        match executor {
            "xdp" => Watch::start(self.lab.a.link(), Direction::Out),
            _ => Watch::start(self.lab.a.port(), Direction::In),
        }
    }

    /// The flows at the switch.
    pub fn at_switch(&self) -> Vec<Value> {
        self.switch.api.get("/v1/flows").as_array().expect("flows").clone()
    }

    /// The runs have left nothing: no flow at the switch, no cgroup, no program.
    pub fn is_clean(&self) {
        self.nothing_is_left(|| self.host.left_by_runs());
    }

    /// Nor has the daemon left anything.
    pub fn is_untouched(&self) {
        self.nothing_is_left(|| self.host.left());
    }

    fn nothing_is_left(&self, at_host: impl Fn() -> Vec<String>) {
        let (start, mut left) = (Instant::now(), vec![]);
        while start.elapsed() < CLEAN {
            left = at_host();
            left.extend(self.at_switch().into_iter().map(|flow| format!("at the switch: {flow}")));
            if left.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("left: {left:#?}");
    }
}
