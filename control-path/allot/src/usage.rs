//! Who holds how many addresses.

use crate::{ClientId, Lease, LeaseState, Policy, Refusal};
use flowlane_wire::PortId;
use std::collections::HashMap;
use std::hash::Hash;

/// Exact counts of the addresses held, in all, per port and per client. Addresses in quarantine are nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) leased: u32,
    pub(crate) quarantined: u32,
    pub(crate) groups: u32,
    ports: HashMap<PortId, u32>,
    clients: HashMap<ClientId, u32>,
}

impl Usage {
    pub(crate) fn add(&mut self, lease: &Lease) {
        match lease.state {
            LeaseState::Active => {
                self.leased += lease.count;
                self.groups += u32::from(lease.is_group());
                *self.ports.entry(lease.port).or_default() += lease.count;
                *self.clients.entry(lease.key.client.clone()).or_default() += lease.count;
            }
            LeaseState::Quarantined { .. } | LeaseState::Closed { .. } => self.quarantined += lease.count,
        }
    }

    pub(crate) fn remove(&mut self, lease: &Lease) {
        match lease.state {
            LeaseState::Active => {
                self.leased -= lease.count;
                self.groups -= u32::from(lease.is_group());
                subtract(&mut self.ports, &lease.port, lease.count);
                subtract(&mut self.clients, &lease.key.client, lease.count);
            }
            LeaseState::Quarantined { .. } | LeaseState::Closed { .. } => self.quarantined -= lease.count,
        }
    }

    pub(crate) fn of_port(&self, port: PortId) -> u32 {
        self.ports.get(&port).copied().unwrap_or(0)
    }

    pub(crate) fn of_client(&self, client: &ClientId) -> u32 {
        self.clients.get(client).copied().unwrap_or(0)
    }

    /// How many more addresses the client may have at the port: 1 and up.
    pub(crate) fn room(&self, policy: &Policy, port: PortId, client: &ClientId) -> Result<u32, Refusal> {
        let (held, quota) = (self.of_port(port), policy.port_quota);
        if held >= quota {
            return Err(Refusal::PortQuota { port, held, quota });
        }
        let at_port = quota - held;
        let (held, quota) = (self.of_client(client), policy.client_quota);
        if held >= quota {
            return Err(Refusal::ClientQuota { held, quota });
        }
        Ok(at_port.min(quota - held))
    }
}

/// Takes `count` off an entry, and the entry off the map when nothing is left of it.
fn subtract<K: Hash + Eq>(map: &mut HashMap<K, u32>, key: &K, count: u32) {
    if let Some(held) = map.get_mut(key) {
        *held -= count;
        if *held == 0 {
            map.remove(key);
        }
    }
}
