//! A switch on a path, flows that are resolved, and the load of their frames.

use crate::{Error, Options, Row, api::Lease, switch::Switch};
use flowlane_bench::{Counted, Load, Path};
use flowlane_lab::Mac;
use flowlane_program::Mode;
use std::{thread, time::Duration, time::Instant};

/// Flows of the load.
const FLOWS: u32 = 16;
/// How long flows may take to be resolved.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a fault happens.
pub(crate) struct Scene {
    // Dropped in this order: programs before the interfaces that they are attached to.
    pub load: Load,
    pub switch: Switch,
    pub path: Path,
    /// The flows of the load: no fault may end them.
    pub flows: Lease,
    settings: String,
    rate: u64,
}

impl Scene {
    /// A switch on this executor, with so many slots.
    pub(crate) fn new(options: &Options, executor: &str, slots: u32) -> Result<Self, Error> {
        let (mode, rate) = match executor {
            "xdp" => (Mode::Xdp, 150_000),
            "tc" => (Mode::Tc, 150_000),
            // In the process: a program without optimisation has to keep up.
            _ => (Mode::Tc, 2_000),
        };
        let path = Path::new()?;
        Load::prepare(&path, FLOWS, mode)?;
        let settings = settings(executor, slots);
        let switch = Switch::start(&options.program, &path.switch, &settings)?;
        let flows = switch.api.open("p1", "load", FLOWS)?;
        let first = flows.addresses.first().and_then(|address| address.parse::<Mac>().ok());
        let first = first.ok_or_else(|| Error::Silent("no address in a lease".into()))?;
        let load = Load::join(&path, first, FLOWS, mode)?;
        let mut scene = Self { load, switch, path, flows, settings, rate };
        scene.resolve()?;
        Ok(scene)
    }

    /// The settings that the switch was started with.
    pub(crate) fn settings(&self) -> &str {
        &self.settings
    }

    /// Does something under the load. Frames that are lost or doubled are wrong.
    pub(crate) fn under_load<T>(
        &mut self,
        row: &mut Row,
        work: impl FnOnce(&mut Switch) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (done, counted) = self.counted(work)?;
        row.count(counted);
        if (counted.lost(), counted.duplicated()) != (0, 0) {
            let (lost, doubled) = (counted.lost(), counted.duplicated());
            row.wrong(format!("{lost} frames were lost and {doubled} duplicated, {} wrong", counted.wrong));
        }
        Ok(done)
    }

    /// Does something under the load, and says what became of the frames.
    pub(crate) fn counted<T>(
        &mut self,
        work: impl FnOnce(&mut Switch) -> Result<T, Error>,
    ) -> Result<(T, Counted), Error> {
        let (done, counted) = self.load.during(self.rate, || work(&mut self.switch))?;
        Ok((done?, counted))
    }

    /// Memory, tables and store of the switch say the same.
    pub(crate) fn verify(&self, row: &mut Row) -> Result<(), Error> {
        let (ok, differences) = self.switch.api.verify(false)?;
        if !ok {
            row.wrong(format!("table verify: {}", differences.join("; ")));
        }
        Ok(())
    }

    /// Sends a few frames of each flow, until all of them go by themselves: the first ones go by the slow path.
    fn resolve(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            self.load.during(2_000, || thread::sleep(Duration::from_millis(50)))?;
            let flows = self.switch.api.get("/v1/flows")?;
            let resolved = flows.as_array().into_iter().flatten().filter(|flow| flow["state"] == "resolved").count();
            if resolved >= FLOWS as usize {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::Silent(format!("{resolved} of {FLOWS} flows are resolved")));
            }
        }
    }
}

/// A switch whose third port has no interface.
fn settings(executor: &str, slots: u32) -> String {
    let ports = ["p1", "p2", "p3"].map(|port| format!("[[port]]\ninterface = \"{port}\"\n")).concat();
    let leases = "[lease]\nper_port = 2000000\nper_client = 2000000\nper_request = 4096\nmax = \"infinite\"\n";
    format!("slots = {slots}\nexecutor = \"{executor}\"\n{leases}{ports}")
}
