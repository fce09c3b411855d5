//! Somebody writes into the pinned tables.

use crate::{Error, Options, Row, scene::Scene};
use aya::maps::{Array, Map, MapData};
use std::{path::Path, thread, time::Duration};

const SLOTS: u32 = 1 << 10;
/// Words of a slot (`data-path/tables/src/slot.rs`): port and address; sign, DSCP and lease; next hop; backup; packets, octets;
/// rate; meter.
type Slot = [u64; 8];
/// Words of a port's entry: interface and MTU; address and flags; the others are not written here.
type Port = [u64; 8];
const KEY: usize = 0;
const TERMS: usize = 1;
const NEXT: usize = 2;
const RATE: usize = 6;
/// Every word of a slot but the counters, which go on.
const KEPT: [usize; 4] = [KEY, TERMS, NEXT, RATE];
/// A port without an interface, so that the load does not go by it.
const OTHER_PORT: u32 = 3;

/// How long the load goes on before the damage and after the repair.
const PAUSE: Duration = Duration::from_millis(200);

/// What a slot is overwritten with.
struct Damage {
    slot: u32,
    words: Slot,
}

/// Damages slots and a port's entry, and looks whether each damage is found by name, and repaired, while the flows of the load
/// go on.
pub(super) fn repaired(options: &Options, mut row: Row) -> Result<Row, Error> {
    let mut scene = Scene::new(options, row.executor, SLOTS)?;
    let victims = scene.switch.api.open("p2", "victims", 6)?;
    let tables = scene.switch.tables()?;
    let mut slots: Array<_, Slot> = Array::try_from(map(&tables, "slots")?).map_err(Error::map("slots"))?;
    let mut ports: Array<_, Port> = Array::try_from(map(&tables, "ports")?).map_err(Error::map("ports"))?;
    let victims = slots_of(&slots, &victims.addresses)?;
    let [altered, missing, other_end, other_rate, elsewhere, unsigned] = victims[..] else {
        return Err(Error::Silent("a lease of six addresses has others".into()));
    };
    let too_many = (0..SLOTS).find(|slot| read(&slots, *slot).is_ok_and(|words| words[KEY] == 0));
    let too_many = too_many.ok_or_else(|| Error::Silent("no slot is free".into()))?;
    while row.times < options.times(1, 2, 20) {
        let before: Vec<Slot> = victims.iter().map(|slot| read(&slots, *slot)).collect::<Result<_, _>>()?;
        let with = |place: usize, word: usize, change: u64| {
            let mut words = before[place];
            words[word] ^= change;
            words
        };
        let damages = [
            // A bit of the address; the whole slot; the end of the lease; the rate; the port; the sign; a flow where there is none.
            Damage { slot: altered, words: with(0, KEY, 1 << 20) },
            Damage { slot: missing, words: Slot::default() },
            Damage { slot: other_end, words: with(2, TERMS, 1 << 18) },
            Damage { slot: other_rate, words: with(3, RATE, 12_345) },
            Damage { slot: elsewhere, words: with(4, KEY, 3 << 48) },
            Damage { slot: unsigned, words: with(5, TERMS, 1 << 63) },
            Damage { slot: too_many, words: with(0, KEY, 1 << 40) },
        ];
        let (ok, differences, repaired) = scene.under_load(&mut row, |switch| {
            thread::sleep(PAUSE);
            for damage in &damages {
                slots.set(damage.slot, damage.words, 0).map_err(Error::map("slots"))?;
            }
            ports.set(OTHER_PORT, [7 << 32 | 1500, 1 << 16 | 1, 0, 0, 0, 0, 0, 0], 0).map_err(Error::map("ports"))?;
            let (ok, differences) = switch.api.verify(false)?;
            let (repaired, _) = switch.api.verify(true)?;
            thread::sleep(PAUSE);
            Ok((ok, differences, repaired))
        })?;
        let mut named: Vec<String> = damages.iter().map(|damage| format!("slot {}: ", damage.slot)).collect();
        named.push(format!("port {OTHER_PORT}: "));
        for name in named.iter().filter(|name| !differences.iter().any(|found| found.starts_with(*name))) {
            row.wrong(format!("the damage of {name}was not found: {differences:?}"));
        }
        if ok || differences.len() != named.len() {
            row.wrong(format!("{} damages, but {differences:?}", named.len()));
        }
        if !repaired {
            row.wrong("not everything was repaired");
        }
        scene.verify(&mut row)?;
        let after: Vec<Slot> = victims.iter().map(|slot| read(&slots, *slot)).collect::<Result<_, _>>()?;
        for ((slot, before), after) in victims.iter().zip(&before).zip(&after) {
            // The end of a lease is rounded up to a tick whenever it is written.
            let same = |word: &usize| match *word {
                TERMS => before[TERMS].abs_diff(after[TERMS]) <= 1,
                word => before[word] == after[word],
            };
            if !KEPT.iter().all(same) {
                row.wrong(format!("slot {slot} was {before:x?}, and is {after:x?}"));
            }
        }
        if read(&slots, too_many)?[KEY] != 0 || ports.get(&OTHER_PORT, 0).map_err(Error::map("ports"))?[0] != 0 {
            row.wrong("what was too many is still there");
        }
        row.times += 1;
    }
    Ok(row)
}

fn map(tables: &Path, name: &'static str) -> Result<Map, Error> {
    Ok(Map::Array(MapData::from_pin(tables.join(name)).map_err(Error::map(name))?))
}

fn read(slots: &Array<MapData, Slot>, slot: u32) -> Result<Slot, Error> {
    slots.get(&slot, 0).map_err(Error::map("slots"))
}

/// The slots of addresses: the low bits of the address are the slot's number.
fn slots_of(slots: &Array<MapData, Slot>, addresses: &[String]) -> Result<Vec<u32>, Error> {
    let number = |address: &String| {
        let mac: flowlane_lab::Mac = address.parse().ok()?;
        Some((mac.to_u64() % u64::from(slots.len())) as u32)
    };
    let numbers: Option<Vec<u32>> = addresses.iter().map(number).collect();
    numbers.ok_or_else(|| Error::Silent("an address of a lease can not be read".into()))
}
