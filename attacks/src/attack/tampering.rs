//! T13: what a user of the machine without privileges tries to do to tables, programs and links.

use crate::{Error, Outcome, Stage, bystander::under, network::Network, switch::Switch};
use aya::{maps::MapData, programs::loaded_programs};
use flowlane_lab::{Netns, as_user};
use flowlane_program::bpffs;
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const NOBODY: u32 = 65_534;
/// What is asked of the interfaces of ports: each of it would end their forwarding.
const ASKED_OF_PORTS: [&[&str]; 2] = [&["xdp", "off"], &["down"]];

/// What is there to be tampered with.
struct Aims {
    pins: PathBuf,
    files: Vec<PathBuf>,
    table: u32,
}

pub(crate) fn run(stage: &Stage<'_>) -> Result<Outcome, Error> {
    let network = Network::new()?;
    let mut outcome = Outcome::default();
    for executor in ["xdp", "tc"] {
        let switch = network.switch(stage.program, executor)?;
        let aims = Aims::of(&switch)?;
        let (mut tried, mut done) = (0, Vec::new());
        let impact = under(&network, &switch, stage.rounds(), || {
            let attempts = aims.tamper(&network.netns)?;
            tried += attempts.len();
            done.extend(attempts.into_iter().filter_map(|(what, is_done)| is_done.then_some(what)));
            Ok(())
        })?;
        done.dedup();
        outcome.must(done.is_empty(), || format!("{executor}: a user without privileges can {}", done.join(", ")));
        outcome.must(MapData::from_id(aims.table).is_ok(), || format!("{executor}: root can not, either"));
        outcome.must(switch.differences()?.is_empty(), || format!("{executor}: leases and table differ"));
        outcome.say(format!("{executor}: {tried} attempts by user {NOBODY}, at {} pins", aims.files.len()));
        outcome.add(impact);
    }
    Ok(outcome)
}

impl Aims {
    fn of(switch: &Switch) -> Result<Self, Error> {
        let pins = bpffs::find().map(|root| root.join("flowlane").join(&switch.name));
        let pins = pins.filter(|pins| pins.exists()).ok_or_else(|| Error::Switch("it has no pins".into()))?;
        let files = files(&pins).map_err(Error::system("list the switch's pins"))?;
        let slots = files.iter().find(|file| file.ends_with("slots"));
        let slots = slots.ok_or_else(|| Error::Switch("its table is not pinned".into()))?;
        let table = MapData::from_pin(slots).and_then(|table| Ok(table.info()?.id()));
        Ok(Self { table: table.map_err(|error| Error::Switch(format!("its table: {error}")))?, pins, files })
    }

    /// Tries everything once. What, and whether it was done.
    fn tamper(&self, netns: &Netns) -> Result<Vec<(String, bool)>, Error> {
        let tampered = netns.run(|| as_user(NOBODY, &[], || self.as_nobody()))?;
        tampered.map_err(Error::system("become another user"))
    }

    fn as_nobody(&self) -> Vec<(String, bool)> {
        let is_listed = !fs::read_dir(&self.pins).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        let mut tried = vec![
            ("list the pins".to_owned(), is_listed),
            ("open a table by its number".into(), MapData::from_id(self.table).is_ok()),
            ("list programs".into(), loaded_programs().any(|program| program.is_ok())),
        ];
        for file in &self.files {
            tried.push((format!("open {}", file.display()), MapData::from_pin(file).is_ok()));
            tried.push((format!("remove {}", file.display()), fs::remove_file(file).is_ok()));
        }
        for asked in ASKED_OF_PORTS {
            let mut command = Command::new("ip");
            command.args(["link", "set", "dev", "pa"]).args(asked).stdout(Stdio::null()).stderr(Stdio::null());
            // What can not be run is not tried: that is no success of the switch's.
            let is_done = command.status().map_or(true, |status| status.success());
            tried.push((format!("say {} of a port", asked.join(" ")), is_done));
        }
        tried
    }
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { all.extend(files(&path)?) } else { all.push(path) }
    }
    Ok(all)
}
