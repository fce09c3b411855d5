//! Where something looked through the table for each request, this would take hours.

use flowlane_allot::{Allotter, ClientId, FlowSpec, LeaseKey, Policy, Refusal, Request};
use flowlane_wire::{Block, Mac, PortId};

const PORT: PortId = PortId(1);
const OTHER: PortId = PortId(2);

fn request(client: u8, iaid: u32) -> Request {
    let key = LeaseKey { client: ClientId(vec![client]), iaid };
    let host = Mac([2, 0, 0, 0, 0, 1]);
    Request { key, port: PORT, host, count: 1, lifetime: None, spec: FlowSpec::default() }
}

#[test]
fn a_million_slots_are_filled_refused_and_found_again() {
    const SLOTS: u32 = 1 << 20;
    let block = Block::new(Mac::from_u64(0xa2f1_0000_0000), 16, SLOTS).expect("a good block");
    let policy =
        Policy { quarantine: 100, min_lifetime: 10, port_quota: SLOTS, client_quota: SLOTS, ..Policy::default() };
    let mut allotter = Allotter::new(block, policy, 0);
    for iaid in 0..SLOTS {
        // Odd keys last longer, so that the table is then full of holes of one slot.
        let lifetime = Some(100 + iaid % 2 * 300);
        allotter.request(&Request { lifetime, ..request(1, iaid) }, 0).expect("granted");
        allotter.take_changes();
    }
    assert_eq!(allotter.counts().free, 0);
    // Quotas would refuse first: ask from elsewhere.
    let elsewhere = |iaid| Request { port: OTHER, lifetime: Some(60), ..request(2, iaid) };
    for iaid in 0..100_000 {
        let full = Err(Refusal::Full { leased: SLOTS, quarantined: 0, slots: SLOTS });
        assert_eq!(allotter.request(&elsewhere(iaid), 1_000), full);
    }
    allotter.release(&request(1, 777_777).key, PORT, 1_000).expect("released");
    assert!(matches!(allotter.request(&elsewhere(0), 2_000), Err(Refusal::Full { quarantined: 1, .. })));
    let (quarantine_end, all_others) = (101_000, 99_999);
    assert!(allotter.poll_timeout().is_some_and(|at| at > all_others));
    // 100,000 ms: every even lease goes to quarantine; 101,000 ms: the released slot is the only free one.
    assert_eq!(allotter.request(&elsewhere(0), quarantine_end).expect("granted").first, u64::from(SLOTS) + 777_777);
    assert_eq!(allotter.counts().quarantined, SLOTS / 2);
    allotter.expire(201_000);
    for iaid in 1..100_000 {
        let lease = allotter.request(&Request { count: 2, ..elsewhere(iaid) }, 201_000).expect("granted");
        assert_eq!((lease.count, lease.first % 2), (1, 0));
    }
}
