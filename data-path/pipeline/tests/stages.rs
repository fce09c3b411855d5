//! The steps one at a time, as a benchmark calls them, do what the pipeline does.
#![allow(missing_docs)]

use flowlane_pipeline::{Verdict, run, stages};
use flowlane_tables::NextHop;
use flowlane_vectors::{Buffer, Memory, Vector, all, block};
use flowlane_wire::{Mac, PortId};

const HOUR: u64 = 3_600_000_000_000;

#[test]
fn the_steps_one_after_the_other_end_as_the_pipeline() {
    let (mut forwarded, mut refused) = (0, 0);
    for vector in all().iter().filter(|vector| has_one_flow(vector)) {
        let (stepwise, whole) = (Memory::new(&vector.setup, HOUR), Memory::new(&vector.setup, HOUR));
        let (mut frame, mut same) = (Buffer::of(vector), Buffer::of(vector));
        let verdict = run(&mut same, vector.ingress, &whole, &mut ());
        match by_steps(&mut frame, vector.ingress, &stepwise) {
            // To leave its subnet takes a step more.
            Some(hop) if hop.routed => {}
            Some(hop) => {
                assert!(matches!(verdict, Verdict::Forward { port, .. } if port == hop.port), "{}", vector.name);
                assert_eq!(frame, same, "{}", vector.name);
                assert_eq!(format!("{:?}", stepwise.slots), format!("{:?}", whole.slots), "{}", vector.name);
                forwarded += 1;
            }
            None => {
                assert!(!matches!(verdict, Verdict::Forward { .. }), "{}: {verdict:?}", vector.name);
                refused += 1;
            }
        }
    }
    assert!(forwarded > 20 && refused > 20, "{forwarded} forwarded, {refused} refused");
}

/// Where a frame goes, rewritten and counted; nothing where a step ends its way.
fn by_steps(frame: &mut Buffer, ingress: PortId, tables: &Memory) -> Option<NextHop> {
    let (destination, source, size) = stages::parse(frame)?;
    let (slot, key) = match stages::look_up(destination, source, tables) {
        Some(found) => found,
        None => stages::look_up(stages::flag(frame, (destination, source), ingress, tables)?, source, tables)?,
    };
    if !stages::check(slot, key, ingress, tables) {
        return None;
    }
    let way = stages::resolve(frame, &size, slot, ingress, tables)?;
    let is_sent = stages::meter(slot, &size, tables) && stages::rewrite(frame, &size, slot, way);
    is_sent.then_some(way.0)
}

/// Whether the frame's other address is not a flow's as well, which takes a second look-up.
fn has_one_flow(vector: &Vector) -> bool {
    let of_a_flow = |octets: &[u8]| octets.try_into().is_ok_and(|mac| block().contains_wire(Mac(mac).to_wire()));
    !vector.frame.get(..12).is_some_and(|addresses| addresses.chunks(6).all(of_a_flow))
}
