//! The model's tables, written into those of an executor.

use super::world::{GROUPS, PORTS};
use flowlane_model::{Change, Flow, Hop, Mac, Meter, Next, Port, PortNumber, Receiver, Restore, Switch};
use flowlane_program::{ProgramError, Tables};
use flowlane_tables::{GroupIndex, NEVER, NextHop, PASS, PortFlags, Rate, Resolution, Slot};
use flowlane_vectors::block;
use flowlane_wire::PortId;

/// Makes the tables those of `switch`. Ports keep their interfaces.
pub(super) fn everything(tables: &Tables, switch: &Switch) -> Result<(), ProgramError> {
    tables.slots().iter().for_each(Slot::remove);
    switch.flows.iter().for_each(|(address, entry)| flow(tables, *address, entry));
    for number in 0..=PORTS + 1 {
        port(tables, number, &switch.port(number));
    }
    for number in 0..GROUPS {
        tables.groups()[number as usize].clear_all();
        for (place, entry) in switch.groups.get(&number).into_iter().flatten() {
            tables.groups()[number as usize].put(*place, hop(entry.hop));
            receiver(tables, (number, *place), entry);
        }
    }
    for (former, _) in tables.tuples().all() {
        tables.tuples().remove(&former)?;
    }
    for (key, answer) in &switch.tuples {
        tables.tuples().set(key.to_table(), answer.map_or(PASS, number))?;
    }
    Ok(())
}

/// Writes what a frame has changed, for an executor that can not be given the frame. `switch` is the model afterwards.
pub(super) fn change(tables: &Tables, switch: &Switch, change: &Change) {
    match change {
        Change::Joined { flow } | Change::Metered { flow, .. } | Change::Sent { flow, .. } => {
            let (slot, entry) = (slot(tables, *flow), &switch.flows[flow]);
            slot.set_next(resolution(entry.next));
            slot.packets().store(entry.packets);
            slot.bytes().store(entry.bytes);
            entry.meter.iter().for_each(|meter| slot.full_at().store(meter.full_at));
        }
        Change::Asked { port } => tables.ports()[usize::from(*port)].asking().store(switch.port(*port).asking),
        Change::Copied { receiver: (group, place), .. } | Change::Missed { receiver: (group, place), .. } => {
            receiver(tables, (*group, *place), &switch.groups[group][place]);
        }
    }
}

/// Writes a flow into its slot.
pub(super) fn flow(tables: &Tables, address: Mac, entry: &Flow) {
    let slot = slot(tables, address);
    let address = block().flow_address(flowlane_wire::Mac(address)).expect("an address of the block");
    slot.install(address, PortId(entry.port), tick(entry.expires), Rate::UNLIMITED, resolution(entry.next));
    slot.set_backup(entry.backup.map(hop));
    slot.set_restore(restore(entry.restore));
    slot.packets().store(entry.packets);
    slot.bytes().store(entry.bytes);
    meter(slot, entry.meter);
}

/// Writes a port.
pub(super) fn port(tables: &Tables, number: PortNumber, port: &Port) {
    let flags = [
        (port.up, PortFlags::UP),
        (port.own_source, PortFlags::OWN_SOURCE),
        (port.no_new_flows, PortFlags::NO_NEW_FLOWS),
        (port.marks, PortFlags::MARKS),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(PortFlags::default(), |all, (_, flag)| all.with(*flag));
    let entry = &tables.ports()[usize::from(number)];
    entry.set(entry.ifindex(), port.mtu, flowlane_wire::Mac(port.mac), flags);
    entry.set_flag(port.flag.map(|flag| flowlane_wire::Flag { mask: flag.mask, value: flag.value }));
    entry.asking().store(port.asking);
}

/// Writes the counters of a receiver.
fn receiver(tables: &Tables, (group, place): (u32, usize), entry: &Receiver) {
    let receiver = &tables.groups()[group as usize].receivers()[place];
    receiver.packets().store(entry.packets);
    receiver.bytes().store(entry.bytes);
    receiver.missed().store(entry.missed);
}

/// Writes a rate, and how full the bucket is.
pub(super) fn meter(slot: &Slot, meter: Option<Meter>) {
    slot.set_rate(meter.map_or(Rate::UNLIMITED, rate));
    slot.full_at().store(meter.map_or(0, |meter| meter.full_at));
}

/// All words of the slot of a flow.
pub(super) fn words(address: Mac, flow: &Flow) -> [u64; 8] {
    [
        number(address) << 16 | u64::from(flow.port),
        u64::from(tick(flow.expires)) << 32 | u64::from(restore(flow.restore).to_word()),
        resolution(flow.next).to_word(),
        flow.backup.map_or(0, |backup| Resolution::Resolved(hop(backup)).to_word()),
        flow.packets,
        flow.bytes,
        flow.meter.map_or(0, |meter| rate(meter).to_word()),
        flow.meter.map_or(0, |meter| meter.full_at),
    ]
}

/// The slot of a flow address.
pub(super) fn slot(tables: &Tables, address: Mac) -> &Slot {
    &tables.slots()[slot_of(address)]
}

/// Its number.
pub(super) fn slot_of(address: Mac) -> usize {
    block().slot_of(number(address)).0 as usize
}

/// An address as the tables have it.
pub(super) fn number(address: Mac) -> u64 {
    flowlane_wire::Mac(address).to_u64()
}

pub(super) fn tick(expires: Option<u32>) -> u32 {
    expires.unwrap_or(NEVER)
}

pub(super) fn hop(hop: Hop) -> NextHop {
    NextHop { mac: flowlane_wire::Mac(hop.mac), port: PortId(hop.port), routed: hop.routed }
}

pub(super) fn resolution(next: Next) -> Resolution {
    match next {
        Next::Waiting(frames) => Resolution::Pending(frames),
        Next::Unreachable => Resolution::Unreachable,
        Next::Hop(next) => Resolution::Resolved(hop(next)),
        Next::Group(group) => Resolution::Group(GroupIndex(group)),
    }
}

pub(super) fn restore(restore: Restore) -> flowlane_wire::Restore {
    match restore {
        Restore::Keep => flowlane_wire::Restore::Keep,
        Restore::Clear(mask) => flowlane_wire::Restore::Clear(mask),
        Restore::Set(dscp) => flowlane_wire::Restore::Set(dscp),
    }
}

fn rate(meter: Meter) -> Rate {
    Rate::from_word(u64::from(meter.mantissa) | u64::from(meter.shift) << 32 | meter.burst << 38)
}
