//! The captures that `replay` writes: one for each port, one of what gets the virtual-circuit flag, and one of what is not
//! sent.

use super::ReplayError;
use flowlane_ports::capture::{CaptureError, CaptureWriter, CapturedFrame, Direction, FrameRecord, Interface};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    time::Duration,
};

/// The files, made when there is something to be written.
pub struct Files {
    directory: Option<PathBuf>,
    open: BTreeMap<PathBuf, CaptureWriter<BufWriter<File>>>,
}

/// The name of the file of what is not sent.
const DROPPED: &str = "dropped";
/// The name of the file of what is left to Linux with the virtual-circuit flag added.
const MARKED: &str = "marked";

impl Files {
    /// Files in a directory, which is made; without one, nothing is written.
    pub fn in_directory(directory: Option<&Path>) -> Self {
        Self { directory: directory.map(Path::to_owned), open: BTreeMap::new() }
    }

    /// Writes a frame that leaves by an interface.
    pub fn sent(
        &mut self,
        interface: &str,
        frame: &CapturedFrame,
        octets: &[u8],
        comment: &str,
    ) -> Result<(), ReplayError> {
        // An interface may be called as one of the other files is.
        let other = [DROPPED, MARKED].contains(&interface);
        let name = if other { format!("port-{interface}") } else { interface.replace('/', "_") };
        self.write(&name, interface, frame, octets, Direction::Outbound, comment)
    }

    /// Writes a frame that leaves by none, as it came.
    pub fn dropped(&mut self, frame: &CapturedFrame, comment: &str) -> Result<(), ReplayError> {
        self.write(DROPPED, DROPPED, frame, &frame.bytes, Direction::Inbound, comment)
    }

    /// Writes a frame that is left to Linux with the virtual-circuit flag.
    pub fn marked(&mut self, frame: &CapturedFrame, octets: &[u8], comment: &str) -> Result<(), ReplayError> {
        self.write(MARKED, MARKED, frame, octets, Direction::Inbound, comment)
    }

    /// Brings everything to the disk.
    pub fn close(&mut self) -> Result<(), ReplayError> {
        let mut open = std::mem::take(&mut self.open).into_iter();
        open.try_for_each(|(path, mut writer)| writer.flush().map_err(|source| ReplayError::Write { path, source }))
    }

    fn write(
        &mut self,
        name: &str,
        interface: &str,
        frame: &CapturedFrame,
        octets: &[u8],
        direction: Direction,
        comment: &str,
    ) -> Result<(), ReplayError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let path = directory.join(format!("{name}.pcapng"));
        let record = FrameRecord {
            // The format ends in the year 2554, damaged captures do not.
            timestamp: frame.timestamp.unwrap_or_default().min(Duration::from_nanos(u64::MAX)),
            interface: 0,
            bytes: octets,
            original_len: frame.original_len.max(octets.len()),
            direction: Some(direction),
            comment: Some(comment),
        };
        let failed = |source| ReplayError::Write { path: path.clone(), source };
        if !self.open.contains_key(&path) {
            self.open.insert(path.clone(), create(&path, interface).map_err(failed)?);
        }
        self.open.get_mut(&path).map_or(Ok(()), |writer| writer.write(&record)).map_err(failed)
    }
}

fn create(path: &Path, interface: &str) -> Result<CaptureWriter<BufWriter<File>>, CaptureError> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let interface = Interface { name: interface.to_owned(), description: "flowlane replay".to_owned() };
    CaptureWriter::new(BufWriter::new(File::create(path)?), &[interface])
}
