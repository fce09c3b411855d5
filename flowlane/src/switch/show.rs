//! Every frame with its verdict, as pcapng: before, and where it was sent also after.

use crate::config::Config;
use flowlane_ports::capture::{CaptureError, CaptureWriter, Direction, FrameRecord, Interface};
use flowlane_program::Punt;
use flowlane_tables::End;
use flowlane_wire::{PortId, header::ethernet};
use nix::time::{ClockId, clock_gettime};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

/// A frame that has ended.
#[derive(Clone, Debug)]
pub struct SeenFrame {
    /// When, since 1970.
    pub at: Duration,
    /// The port that it came in by.
    pub ingress: PortId,
    /// The port that it left by.
    pub egress: Option<PortId>,
    /// How it ended.
    pub end: End,
    /// Whether it had waited for its next host: it was shown when it came.
    pub waited: bool,
    /// Whether it is the copy for one receiver of a group: the frame itself was shown when it came.
    pub copy: bool,
    /// Its length in octets.
    pub length: usize,
    /// Its first octets as it came.
    pub before: Vec<u8>,
    /// Its first octets as it was sent.
    pub after: Vec<u8>,
}

impl SeenFrame {
    /// A frame that the kernel has shown.
    pub fn from_kernel(punt: &Punt<'_>) -> Option<Self> {
        let Punt::Seen { nanos, ingress, egress, end, length, before, after } = punt else { return None };
        let at = Duration::from_nanos(*nanos) + wall_minus_monotonic();
        let (before, after, length) = (before.to_vec(), after.to_vec(), *length as usize);
        Some(Self {
            at,
            ingress: *ingress,
            egress: *egress,
            end: *end,
            waited: false,
            copy: false,
            length,
            before,
            after,
        })
    }
}

fn wall_minus_monotonic() -> Duration {
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    read(ClockId::CLOCK_REALTIME).saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}

/// What hosts say to each other is not for all users of this machine.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The capture file of a switch.
pub struct Show {
    writer: CaptureWriter<BufWriter<File>>,
    ports: Vec<PortId>,
}

impl Show {
    /// Starts the file that the configuration names, if it names one.
    pub fn start(config: &Config) -> Result<Option<Self>, CaptureError> {
        let Some(path) = &config.capture else { return Ok(None) };
        let interfaces: Vec<Interface> = config
            .ports
            .iter()
            .map(|(number, port)| Interface {
                name: port.interface.clone(),
                description: format!("port {number} of {}", config.name),
            })
            .collect();
        let writer = CaptureWriter::new(BufWriter::new(create(path)?), &interfaces)?;
        Ok(Some(Self { writer, ports: config.ports.keys().copied().collect() }))
    }

    /// Writes a frame: as it came, with its end, and where it left, as it was sent. One that had waited was written when
    /// it came; if it was sent then, the second record is what remains to be written. So it is with a copy.
    pub fn write(&mut self, seen: &SeenFrame) -> Result<(), CaptureError> {
        let when = if seen.waited { "after it waited, " } else { "" };
        if !(seen.waited || seen.copy) || seen.egress.is_none() {
            let comment = format!("{when}{}: {}", seen.end, seen.end.sentence());
            self.record(seen, seen.ingress, &seen.before, Direction::Inbound, &comment)?;
        }
        if let Some(egress) = seen.egress {
            let sent = if seen.copy { "copy sent" } else { "sent" };
            let comment = format!("{when}{sent}: {}", addresses(&seen.after));
            self.record(seen, egress, &seen.after, Direction::Outbound, &comment)?;
        }
        Ok(())
    }

    /// Passes what was written on to the file.
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        self.writer.flush()
    }

    fn record(
        &mut self,
        seen: &SeenFrame,
        port: PortId,
        bytes: &[u8],
        direction: Direction,
        comment: &str,
    ) -> Result<(), CaptureError> {
        let Some(interface) = self.ports.iter().position(|number| *number == port) else { return Ok(()) };
        let original_len = seen.length.max(bytes.len());
        let direction = Some(direction);
        self.writer.write(&FrameRecord {
            timestamp: seen.at,
            interface,
            bytes,
            original_len,
            direction,
            comment: Some(comment),
        })
    }
}

fn addresses(frame: &[u8]) -> String {
    let mac = |at: usize| frame.get(at..).and_then(|rest| rest.first_chunk()).map(|octets| flowlane_wire::Mac(*octets));
    match (mac(ethernet::DESTINATION), mac(ethernet::SOURCE)) {
        (Some(destination), Some(source)) => format!("destination {destination}, source {source}"),
        _ => String::new(),
    }
}
