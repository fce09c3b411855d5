//! Groups of receivers.

use super::*;

fn group(key: LeaseKey, numbers: &[u8]) -> Request {
    let receivers: Vec<_> = numbers.iter().map(|n| crate::Receiver::Ip([10, 0, 0, *n].into())).collect();
    let receivers = Some(Receivers::new(&receivers).expect("receivers"));
    Request { spec: FlowSpec { receivers, ..FlowSpec::default() }, ..request(key, 5) }
}

#[test]
fn a_group_has_one_address_and_keeps_its_receivers_places_when_it_is_asked_for_again() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    let first = allotter.request(&group(key(1, 1), &[1, 2, 3]), 0).expect("granted");
    assert_eq!(first.count, 1);
    let slot = slot_of(&allotter.block(), first.first);
    let gone = Regroup::Remove(vec![crate::Receiver::Ip([10, 0, 0, 2].into())]);
    allotter.regroup(slot, &gone, 1).expect("it was there");
    let again = allotter.request(&group(key(1, 1), &[9, 3, 1]), 2).expect("granted");
    let places: Vec<String> =
        again.spec.receivers.iter().flat_map(Receivers::iter).map(|(_, r)| r.to_string()).collect();
    assert_eq!((again.first, places.join(" ").as_str()), (first.first, "10.0.0.1 10.0.0.9 10.0.0.3"));
    let changes = allotter.take_changes();
    assert!(changes.len() == 3 && changes.iter().all(Change::is_of_group));
    let gone = Change { slot, before: Some(again), after: None };
    assert!(gone.is_of_group());
    allotter.undo(changes);
    assert_eq!(allotter.lease_at(slot), None, "a change of receivers is undone like any other");
}

#[test]
fn the_order_of_receivers_is_nothing_new_that_a_group_is_asked_for() {
    let mut allotter = Allotter::new(block(64), policy(), 0);
    allotter.request(&group(key(1, 1), &[1, 2]), 0).expect("granted");
    assert!(allotter.is_repeated(&group(key(1, 1), &[2, 1])));
    assert!(!allotter.is_repeated(&group(key(1, 1), &[2, 3])) && !allotter.is_repeated(&group(key(1, 1), &[2])));
}

#[test]
fn a_group_stays_a_group_and_there_are_so_many_of_them() {
    let mut allotter = Allotter::new(block(2048), policy(), 0);
    ask(&mut allotter, 0, 1, 0).expect("granted");
    assert!(!allotter.take_changes().iter().any(Change::is_of_group));
    let no_group = allotter.request(&group(key(1, 0), &[1]), 0);
    assert!(matches!(no_group, Err(Refusal::Invalid(_))), "{no_group:?}");
    let regroup = allotter.regroup(SlotIndex(0), &Regroup::Add(vec![]), 0);
    assert_eq!(regroup, Err(ReceiversError::NoGroup.into()));
    for iaid in 1..=GROUPS_MAX {
        allotter.request(&group(key(1, iaid), &[1]), 0).expect("granted");
    }
    assert_eq!(allotter.request(&group(key(2, 1), &[1]), 0), Err(ReceiversError::TooManyGroups.into()));
    assert!(matches!(ask(&mut allotter, 1, 1, 0), Err(Refusal::Invalid(_))));
    allotter.end(SlotIndex(5), 0).expect("a group");
    allotter.request(&group(key(2, 1), &[1]), 0).expect("room again");
}
