//! What happens to a switch: a frame comes in, or the control path changes the tables, by the same calls as in a running
//! switch.

use super::install;
use flowlane_model::{Arrival, Flow, Hop, Mac, Meter, Next, Port, PortNumber, Receiver, Restore, Switch, Tuple};
use flowlane_pipeline::withdraw;
use flowlane_program::{ProgramError, Tables};
use flowlane_tables::{PASS, Slot};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A frame comes in.
    Frame(Arrival),
    /// A port goes up or down, or is configured anew.
    Port(PortNumber, Port),
    /// One flagged frame of a port has been seen to.
    Withdraw(PortNumber),
    /// A next hop is stored.
    Next(Mac, Next),
    /// A backup is stored or cleared.
    Backup(Mac, Option<Hop>),
    /// A flow gets another rate, and a bucket filled as far as that.
    Meter(Mac, Option<Meter>),
    /// Something else is done to the DSCP.
    Restore(Mac, Restore),
    /// A lease is prolonged or cut short.
    Lease(Mac, Option<u32>),
    /// A flow ends.
    Remove(Mac),
    /// A slot is given to a flow.
    Install(Mac, Flow),
    /// A receiver joins a group at a place, which may have been another's.
    Put(u32, usize, Hop),
    /// A receiver's copies go elsewhere.
    Redirect(u32, usize, Hop),
    /// A receiver leaves a group.
    Clear(u32, usize),
    /// A tuple gets a flow, or none, or is forgotten.
    Tuple(Tuple, Option<Option<Mac>>),
}

impl Step {
    /// Does to the model what [`Step::write`] does to tables. A frame does nothing here.
    pub(super) fn apply(&self, switch: &mut Switch) {
        let mut with = |flow: &Mac, change: &dyn Fn(&mut Flow)| {
            if let Some(flow) = switch.flows.get_mut(flow) {
                change(flow);
            }
        };
        match self {
            Self::Frame(_) => {}
            Self::Port(number, port) => {
                switch.ports.insert(*number, *port);
            }
            Self::Withdraw(number) => {
                let port = switch.ports.entry(*number).or_default();
                port.asking = port.asking.saturating_sub(1);
            }
            Self::Next(flow, next) => with(flow, &|flow| flow.next = *next),
            Self::Backup(flow, backup) => with(flow, &|flow| flow.backup = *backup),
            Self::Meter(flow, meter) => with(flow, &|flow| flow.meter = *meter),
            Self::Restore(flow, restore) => with(flow, &|flow| flow.restore = *restore),
            Self::Lease(flow, expires) => with(flow, &|flow| flow.expires = *expires),
            Self::Remove(flow) => {
                switch.flows.remove(flow);
            }
            Self::Install(address, flow) => {
                switch.flows.retain(|other, _| install::slot_of(*other) != install::slot_of(*address));
                switch.flows.insert(*address, flow.clone());
            }
            Self::Put(group, place, hop) => {
                switch.groups.entry(*group).or_default().insert(*place, Receiver::new(*hop));
            }
            Self::Redirect(group, place, hop) => {
                if let Some(receiver) = switch.groups.get_mut(group).and_then(|group| group.get_mut(place)) {
                    receiver.hop = *hop;
                }
            }
            Self::Clear(group, place) => {
                switch.groups.entry(*group).or_default().remove(place);
            }
            Self::Tuple(tuple, Some(answer)) => {
                switch.tuples.insert(*tuple, *answer);
            }
            Self::Tuple(tuple, None) => {
                switch.tuples.remove(tuple);
            }
        }
    }

    /// Changes tables. `switch` is the model before the step; a frame does nothing here.
    pub(super) fn write(&self, switch: &Switch, tables: &Tables) -> Result<(), ProgramError> {
        // To a slot that is another flow's by now nobody would write.
        let slot = |flow: &Mac| switch.flows.contains_key(flow).then(|| install::slot(tables, *flow));
        let receiver = |group: &u32, place: &usize| {
            let group_is = switch.groups.get(group).is_some_and(|group| group.contains_key(place));
            group_is.then(|| &tables.groups()[*group as usize])
        };
        match self {
            Self::Frame(_) => {}
            Self::Port(number, port) => install::port(tables, *number, port),
            Self::Withdraw(number) => withdraw(&tables.ports()[usize::from(*number)]),
            Self::Next(flow, next) => slot(flow).into_iter().for_each(|slot| slot.set_next(install::resolution(*next))),
            Self::Backup(flow, backup) => {
                slot(flow).into_iter().for_each(|slot| slot.set_backup(backup.map(install::hop)));
            }
            Self::Meter(flow, meter) => slot(flow).into_iter().for_each(|slot| install::meter(slot, *meter)),
            Self::Restore(flow, restore) => {
                slot(flow).into_iter().for_each(|slot| slot.set_restore(install::restore(*restore)));
            }
            Self::Lease(flow, expires) => {
                slot(flow).into_iter().for_each(|slot| slot.set_expires(install::tick(*expires)));
            }
            Self::Remove(flow) => slot(flow).into_iter().for_each(Slot::remove),
            Self::Install(address, flow) => install::flow(tables, *address, flow),
            Self::Put(group, place, hop) => tables.groups()[*group as usize].put(*place, install::hop(*hop)),
            Self::Redirect(group, place, hop) => {
                receiver(group, place).into_iter().for_each(|group| group.redirect(*place, install::hop(*hop)));
            }
            Self::Clear(group, place) => tables.groups()[*group as usize].clear(*place),
            Self::Tuple(tuple, None) => tables.tuples().remove(&tuple.to_table())?,
            Self::Tuple(tuple, Some(answer)) => {
                let address = answer.map_or(PASS, install::number);
                tables.tuples().set(tuple.to_table(), address)?;
            }
        }
        Ok(())
    }
}
