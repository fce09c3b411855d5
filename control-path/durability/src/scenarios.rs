//! The faults that are histories.

use crate::history::History;
use crate::row::Row;

/// Boots of one history: then another one begins, with other policies.
const BOOTS: u64 = 40;
/// Turns between two faults, at most.
const TURNS: u32 = 12;
/// The most that a machine is off, in milliseconds.
const OFF: u64 = 600_000;

/// Cuts the power at a random write, `cuts` times: while leases are committed, while the disk is full, and while the store
/// is opened after another power cut. The wall clock is years off after some of them.
pub fn power_cuts(cuts: u64, seed: u64, progress: impl Fn(u64)) -> Row {
    let fault = |history: &mut History| {
        if history.random.u8(..4) == 0 {
            let writes = history.random.u32(..24);
            history.fail_after(writes, true);
            (0..history.random.u32(..4)).for_each(|_| history.turn());
            // Either there is space again, or the power fails while there is none.
            if history.random.bool() {
                history.heal();
            }
        }
        if !history.is_in_trouble() {
            let writes = history.random.u32(..120);
            history.fail_after(writes, false);
            turn_until_failure(history);
        }
        if history.random.u8(..8) == 0 {
            history.clock.jump(&mut history.random);
        }
        history.power_cut();
    };
    let mut row = repeat("power-cuts", seed, cuts, "cuts", fault, progress);
    row.demand("acknowledged");
    row.demand("leases_compared");
    row.demand("without_write");
    row
}

/// Fills the disk, `times` times, for up to an hour, and sees that leases are renewed all the while, that nothing else is
/// granted, and that all is well when there is space again, or after a restart.
pub fn full_disk(times: u64, seed: u64, progress: impl Fn(u64)) -> Row {
    let fault = |history: &mut History| {
        (0..history.random.u32(..TURNS)).for_each(|_| history.turn());
        let writes = history.random.u32(..24);
        history.fail_after(writes, true);
        turn_until_failure(history);
        (0..history.random.u32(..90)).for_each(|_| {
            history.turn();
            history.compare();
        });
        history.heal();
        if history.random.bool() {
            history.power_cut();
        } else {
            history.turn();
            history.turn();
            history.compare();
            if history.is_in_trouble() {
                history.row.wrong(|| "the store does not heal".into());
            }
        }
        history.row.count("times_full", 1);
    };
    let mut row = repeat("full-disk", seed, times, "times_full", fault, progress);
    row.demand("renewed_while_full");
    row.demand("refused_while_full");
    row.demand("to_the_end_of_the_reserve");
    row
}

/// Boots the machine `boots` times, each time with a wall clock that is up to ten years wrong, and sets it while the switch
/// runs, too: no lease ends early, nor later than by the time that nobody could measure.
pub fn clock_jump(boots: u64, seed: u64, progress: impl Fn(u64)) -> Row {
    let fault = |history: &mut History| {
        (0..=history.random.u32(..TURNS)).for_each(|_| history.turn());
        let before = history.clock.moment();
        history.clock.jump(&mut history.random);
        let after = history.clock.moment();
        if i128::from(before.wall_step(&after)) != i128::from(after.wall_ms) - i128::from(before.wall_ms) {
            history.row.wrong(|| "a step of the wall clock is not seen".into());
        }
        (0..=history.random.u32(..TURNS)).for_each(|_| history.turn());
        history.compare();
        history.clock.jump(&mut history.random);
        let off = history.random.u64(..OFF);
        history.reboot(off);
        history.row.count("boots", 1);
    };
    let mut row = repeat("clock-jump", seed, boots, "boots", fault, progress);
    row.demand("leases_compared");
    row.demand("ends_compared");
    row
}

/// Plays histories with a fault at each boot, until there were `times` of them.
fn repeat(
    name: &'static str,
    seed: u64,
    times: u64,
    what: &'static str,
    fault: impl Fn(&mut History),
    progress: impl Fn(u64),
) -> Row {
    let mut row = Row::new(name);
    for number in 0.. {
        let done = row.counts.get(what).copied().unwrap_or(0);
        if done >= times || !row.ok {
            break;
        }
        progress(done);
        let mut history = History::new(name, seed.wrapping_add(number));
        let boots = BOOTS.min(times - done);
        for _ in 0..boots {
            fault(&mut history);
        }
        row.add(history.row);
    }
    row
}

fn turn_until_failure(history: &mut History) {
    for _ in 0..TURNS {
        if history.is_in_trouble() {
            return;
        }
        history.turn();
    }
}
