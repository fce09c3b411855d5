//! A lease table that is obviously right and nothing else: what the server's operations are tried on.

use flowlane_allot::{Lease, LeaseKey, LeaseState, Refusal, Request};
use flowlane_dhcp6::{INFINITY, Operation, Peer, Server};
use flowlane_wire::Block;
use std::collections::BTreeMap;

pub(crate) struct Table {
    block: Block,
    lifetime: u32,
    next: u64,
    pub(crate) leases: BTreeMap<LeaseKey, Lease>,
    pub(crate) refuse: Option<Refusal>,
}

impl Table {
    pub(crate) fn new(block: Block, lifetime: u32) -> Self {
        Self { block, lifetime, next: 0, leases: BTreeMap::new(), refuse: None }
    }

    /// The whole way of a message: plan, carry out, reply.
    pub(crate) fn serve(&mut self, server: &Server, payload: &[u8], peer: Peer, now: u64) -> Option<Vec<u8>> {
        let transaction = server.plan(payload, peer).ok()?;
        let results: Vec<_> = transaction.operations().iter().map(|operation| self.carry_out(operation, now)).collect();
        transaction.reply(&results, now)
    }

    pub(crate) fn carry_out(&mut self, operation: &Operation, now: u64) -> Result<Lease, Refusal> {
        self.leases.retain(|_, lease| lease.expires > now);
        if let Some(refusal) = &self.refuse {
            return Err(refusal.clone());
        }
        match operation {
            Operation::Offer(request) => {
                self.leases.get(&request.key).cloned().map_or_else(|| Ok(self.fresh(request, now)), Ok)
            }
            Operation::Request(request) => {
                if !self.leases.contains_key(&request.key) {
                    let lease = self.fresh(request, now);
                    self.next += u64::from(lease.count);
                    self.leases.insert(request.key.clone(), lease);
                }
                self.extend(&request.key, now)
            }
            Operation::Renew(held) => {
                self.known(operation)?;
                self.extend(&held.key, now)
            }
            Operation::Release(held) | Operation::Decline(held) => {
                self.known(operation)?;
                self.leases.remove(&held.key).ok_or(Refusal::NoBinding)
            }
        }
    }

    fn known(&self, operation: &Operation) -> Result<(), Refusal> {
        let lease = self.leases.get(operation.key()).ok_or(Refusal::NoBinding)?;
        if operation.is_about(lease, self.block) { Ok(()) } else { Err(Refusal::NoBinding) }
    }

    fn extend(&mut self, key: &LeaseKey, now: u64) -> Result<Lease, Refusal> {
        let expires = self.expires(now);
        let lease = self.leases.get_mut(key).ok_or(Refusal::NoBinding)?;
        lease.expires = expires;
        Ok(lease.clone())
    }

    fn expires(&self, now: u64) -> u64 {
        if self.lifetime == INFINITY { u64::MAX } else { now + u64::from(self.lifetime) * 1000 }
    }

    fn fresh(&self, request: &Request, now: u64) -> Lease {
        Lease {
            key: request.key.clone(),
            port: request.port,
            host: request.host,
            first: self.next,
            count: request.count.min(16),
            lifetime: self.lifetime,
            expires: self.expires(now),
            reserved: u64::MAX,
            spec: request.spec.clone(),
            state: LeaseState::Active,
        }
    }
}
