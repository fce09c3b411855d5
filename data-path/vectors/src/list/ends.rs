//! Each way to end that the table decides: queues, meters, ports.

use super::{HOST_A, HOST_B, HOST_C, claims::datagram, flow, slot};
use crate::{Setup, Vector, frames::ttl_less_one};
use flowlane_tables::End;

pub(super) fn list(setup: &Setup) -> Vec<Vector> {
    let mut vectors = queues(setup);
    vectors.extend(meters(setup));
    vectors.extend(ports(setup));
    vectors
}

fn to(setup: &Setup, name: &'static str, sentence: &'static str, slot: u8) -> Vector {
    Vector::new(name, sentence, setup, datagram(flow(slot), HOST_A))
}

fn queues(setup: &Setup) -> Vec<Vector> {
    vec![
        to(setup, "queue_has_room_for_one_more", "The 64th frame to wait joins the queue.", slot::ALMOST_FULL)
            .claims(&[13])
            .waits(slot::ALMOST_FULL),
        to(
            setup,
            "queue_is_full",
            "64 frames wait already: the next is dropped and not counted as waiting.",
            slot::FULL,
        )
        .ends(End::QueueFull),
        to(setup, "next_host_can_not_be_reached", "The slow path has found no way.", slot::UNREACHABLE)
            .ends(End::NoRoute),
        to(
            setup,
            "unreachable_next_host_does_not_use_the_backup",
            "A backup is for a port that is down, not for a destination that nobody knows.",
            slot::UNREACHABLE_WITH_BACKUP,
        )
        .ends(End::NoRoute),
        Vector::new(
            "first_packet_by_source_waits",
            "The flow address is the source, and its flow has no next hop yet.",
            setup,
            datagram(HOST_B, flow(slot::PENDING)),
        )
        .claims(&[2, 13])
        .waits(slot::PENDING),
        to(setup, "waiting_costs_no_tokens", "A frame waits whatever its meter says.", slot::PENDING_NARROW)
            .waits(slot::PENDING_NARROW),
        to(setup, "first_packet_from_another_port_does_not_wait", "The port is checked first.", slot::PENDING)
            .claims(&[19])
            .by_port(2)
            .ends(End::WrongPort),
    ]
}

fn meters(setup: &Setup) -> Vec<Vector> {
    vec![
        to(setup, "within_its_rate", "The bucket has tokens for the frame.", slot::METERED).leaves(
            slot::METERED,
            2,
            datagram(HOST_B, flow(slot::METERED)),
        ),
        to(setup, "larger_than_its_burst", "The frame is larger than the bucket.", slot::NARROW).ends(End::OverRate),
        to(setup, "bucket_is_empty", "The bucket has been emptied.", slot::EXHAUSTED).ends(End::OverRate),
        Vector::new(
            "over_its_rate_by_source",
            "The flow address is the source, and its bucket is empty.",
            setup,
            datagram(HOST_B, flow(slot::EXHAUSTED)),
        )
        .ends(End::OverRate),
        to(setup, "over_its_rate_at_a_routed_hop", "A dropped packet keeps its time to live.", slot::ROUTED_NARROW)
            .ends(End::OverRate),
    ]
}

fn ports(setup: &Setup) -> Vec<Vector> {
    let sent = |destination, slot: u8| datagram(destination, flow(slot));
    vec![
        to(setup, "backup_hop", "The port of the next hop is down: the backup takes the frame.", slot::BACKUP)
            .leaves(slot::BACKUP, 3, sent(HOST_C, slot::BACKUP))
            .by_backup(),
        to(
            setup,
            "routed_backup_hop",
            "The backup is a routed hop, so the time to live is decremented though the next hop is not.",
            slot::ROUTED_BACKUP,
        )
        .leaves(slot::ROUTED_BACKUP, 3, ttl_less_one(&sent(super::ROUTER, slot::ROUTED_BACKUP), 14))
        .by_backup(),
        to(setup, "backup_hop_is_not_needed", "The port of the next hop is up.", slot::HAS_UNUSED_BACKUP).leaves(
            slot::HAS_UNUSED_BACKUP,
            2,
            sent(HOST_B, slot::HAS_UNUSED_BACKUP),
        ),
        to(setup, "port_is_down_and_there_is_no_backup", "Nowhere to go.", slot::NO_BACKUP).ends(End::PortDown),
        to(setup, "port_is_down_and_so_is_the_backups", "Nowhere to go either.", slot::BOTH_DOWN).ends(End::PortDown),
        to(setup, "port_does_not_exist", "The next hop's port is beyond the last.", slot::NO_SUCH_PORT)
            .ends(End::PortDown),
        to(setup, "same_port", "A frame is never sent back to where it came from.", slot::SAME_PORT)
            .ends(End::SamePort),
        to(setup, "same_port_routed", "Nor at a routed hop, where it keeps its time to live.", slot::ROUTED_SAME_PORT)
            .ends(End::SamePort),
        to(setup, "backup_is_behind_the_same_port", "Nor by the backup.", slot::BACKUP_SAME_PORT).ends(End::SamePort),
    ]
}
