//! The switch's process ends, and another one takes over.

use crate::{
    Error, Options, Row,
    ledger::{Ledger, ask_until, check},
    scene::Scene,
    switch::Switch,
};
use std::{
    fs,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SLOTS: u32 = 1 << 16;
/// After so many kills leases are counted and tables verified.
const CHECK: u32 = 5;

/// Kills the switch at any instruction, also while it starts.
pub(super) fn killed(options: &Options, mut row: Row) -> Result<Row, Error> {
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut scene = Scene::new(options, row.executor, SLOTS)?;
    // From when it is started until some time after it is ready.
    let most = 2 * start_again(&mut scene.switch)?;
    let times = options.times(4, 10, 500);
    with_leases(scene, &mut row, |scene, row, ledger| {
        while row.times < times {
            let kills = CHECK.min(times - row.times);
            let took = scene.under_load(row, |switch| {
                for _ in 0..kills {
                    switch.kill()?;
                    switch.spawn()?;
                    thread::sleep(most.mul_f64(random.f64()));
                }
                switch.wait_until_it_answers()?;
                check(ledger, &switch.api)?;
                switch.kill()?;
                start_again(switch)
            })?;
            row.times += kills + 1;
            row.recovered(took);
            scene.verify(row)?;
        }
        Ok(())
    })?;
    Ok(row)
}

/// Stops the switch in good order.
pub(super) fn restarted(options: &Options, row: Row) -> Result<Row, Error> {
    succeeded(options, row, options.times(1, 5, 50), |switch, _, _| switch.terminate())
}

/// Lets a switch take over that has other programs.
pub(super) fn replaced(options: &Options, row: Row) -> Result<Row, Error> {
    let times = options.times(2, 6, 50);
    succeeded(options, row, times, |switch, settings, turn| {
        switch.terminate()?;
        match &options.other {
            Some(other) => switch.set_program(if turn % 2 == 0 { other } else { &options.program }),
            // Programs that show every frame are others than those that show none.
            None if turn % 2 == 0 => {
                let capture = switch.path("capture.pcapng");
                switch.configure(&format!("capture = \"{}\"\n{settings}", capture.display()))?;
            }
            None => switch.configure(settings)?,
        }
        Ok(())
    })
}

/// Lets a switch take over whose tables have a newer layout.
pub(super) fn upgraded(options: &Options, row: Row) -> Result<Row, Error> {
    relaid(options, row, |layout| layout - 1)
}

/// Lets a switch take over whose tables have an older layout.
pub(super) fn downgraded(options: &Options, row: Row) -> Result<Row, Error> {
    relaid(options, row, |layout| layout + 1)
}

/// Kills the switch that forwards itself: what is sent before its successor does is lost.
pub(super) fn killed_in_userspace(options: &Options, mut row: Row) -> Result<Row, Error> {
    let mut scene = Scene::new(options, row.executor, SLOTS)?;
    while row.times < options.times(1, 3, 20) {
        let (took, counted) = scene.counted(|switch| {
            switch.kill()?;
            start_again(switch)
        })?;
        row.times += 1;
        row.recovered(took);
        row.count_only(counted);
        let (_, counted) = scene.counted(|_| {
            thread::sleep(Duration::from_millis(100));
            Ok(())
        })?;
        if counted.arrived == 0 {
            row.wrong("the successor forwards nothing");
        }
        scene.verify(&mut row)?;
    }
    if row.frames_duplicated > 0 {
        row.wrong("frames were duplicated");
    }
    row.note.get_or_insert("the process forwards: nobody does until its successor is there".into());
    Ok(row)
}

/// Gives the pinned tables the number of another layout while nobody runs. The successor reads nothing of them, as of tables
/// that it can not know: it makes its own, and the links run the predecessor's programs on the old ones meanwhile. With
/// another build that has another layout (`--other`), nothing is renamed: they take turns.
fn relaid(options: &Options, row: Row, other_layout: fn(u32) -> u32) -> Result<Row, Error> {
    let times = options.times(1, 3, 20);
    succeeded(options, row, times, |switch, _, turn| {
        switch.kill()?;
        match &options.other {
            Some(other) => switch.set_program(if turn % 2 == 0 { other } else { &options.program }),
            None => rename(&switch.tables()?, other_layout)?,
        }
        Ok(())
    })
}

/// Ends the switch so often, and lets a successor take over.
fn succeeded(
    options: &Options,
    mut row: Row,
    times: u32,
    mut end: impl FnMut(&mut Switch, &str, u32) -> Result<(), Error>,
) -> Result<Row, Error> {
    let mut random = fastrand::Rng::with_seed(options.seed);
    let scene = Scene::new(options, row.executor, SLOTS)?;
    with_leases(scene, &mut row, |scene, row, ledger| {
        let settings = scene.settings().to_owned();
        while row.times < times {
            let turn = row.times;
            let took = scene.under_load(row, |switch| {
                thread::sleep(Duration::from_millis(random.u64(..100)));
                end(switch, &settings, turn)?;
                let took = start_again(switch)?;
                // Tables of another layout are gone when it answers, and there is one directory again.
                switch.tables()?;
                check(ledger, &switch.api)?;
                thread::sleep(Duration::from_millis(random.u64(..100)));
                Ok(took)
            })?;
            row.times += 1;
            row.recovered(took);
            scene.verify(row)?;
        }
        Ok(())
    })?;
    Ok(row)
}

/// Does something while leases are asked for, and then counts those.
fn with_leases(
    mut scene: Scene,
    row: &mut Row,
    work: impl FnOnce(&mut Scene, &mut Row, &Mutex<Ledger>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (ledger, stop, socket) = (Mutex::new(Ledger::default()), AtomicBool::new(false), scene.switch.socket());
    ledger.lock().unwrap_or_else(PoisonError::into_inner).note(&scene.flows);
    let (done, asked) = thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until(&stop, &ledger, &socket, "p2"));
        let done = work(&mut scene, row, &ledger);
        stop.store(true, Ordering::Relaxed);
        (done, asking.join())
    });
    done?;
    asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    check(&ledger, &scene.switch.api)?;
    row.leases(&ledger.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

/// Starts the switch. How long it took until it answered.
fn start_again(switch: &mut Switch) -> Result<Duration, Error> {
    let start = Instant::now();
    switch.kill()?;
    switch.spawn()?;
    switch.wait_until_it_answers()?;
    Ok(start.elapsed())
}

/// `tables-LAYOUT-SLOTS`.
fn rename(tables: &Path, other_layout: fn(u32) -> u32) -> Result<(), Error> {
    let name = tables.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut parts = name.split('-');
    let (prefix, layout, slots) = (parts.next(), parts.next().and_then(|layout| layout.parse().ok()), parts.next());
    let (Some(prefix), Some(layout), Some(slots)) = (prefix, layout, slots) else {
        return Err(Error::Refused { request: "a layout's number".into(), answer: name.to_owned() });
    };
    let other = format!("{prefix}-{}-{slots}", other_layout(layout));
    fs::rename(tables, tables.with_file_name(other)).map_err(Error::file(tables))
}
