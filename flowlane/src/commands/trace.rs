//! `flowlane trace`: what the switch would do with a frame.

use crate::{
    api::{Trace, TraceRequest},
    cli::{Global, TraceOptions},
    commands::ask,
    exit,
    output::Output,
};
use flowlane_ports::capture::{CaptureError, CaptureReader};
use miette::Result;
use std::{path::PathBuf, process::ExitCode};

/// Why there is no frame to be explained.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum TraceError {
    /// The capture can not be read that far.
    #[error("can not read {} that far", path.display())]
    #[diagnostic(code(FL0601), help("name a pcap or pcapng file of an Ethernet interface"))]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CaptureError,
    },
    /// The capture has fewer frames.
    #[error("{} has no frame {number}: it has {frames}", path.display())]
    #[diagnostic(code(FL0602), help("--number counts from 1, as Wireshark does"))]
    NoSuchFrame {
        /// The file.
        path: PathBuf,
        /// The frame that was asked for.
        number: u64,
        /// How many there are.
        frames: u64,
    },
}

impl TraceError {
    /// The exit code of a command that ends so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Capture { .. } => exit::FAILED,
            Self::NoSuchFrame { .. } => exit::USAGE,
        }
    }
}

/// Explains a frame.
///
/// # Errors
/// [`TraceError`], or a [`crate::api::client::ClientError`].
pub fn run(global: &Global, options: &TraceOptions, output: Output) -> Result<ExitCode> {
    let frame = match (&options.frame, &options.pcap) {
        (_, Some(path)) => from_capture(path, options.number, output)?,
        (hex, None) => hex.clone().unwrap_or_default(),
    };
    let request = TraceRequest { port: options.interface.clone(), frame };
    let trace = ask(global, async |client| client.trace(&request).await)?;
    if output.json {
        output.document(&trace)?
    } else {
        print(&request, &trace, output)?
    }
    Ok(ExitCode::from(exit::DONE))
}

fn from_capture(path: &std::path::Path, number: u64, output: Output) -> Result<String, TraceError> {
    let failed = |source| TraceError::Capture { path: path.to_owned(), source };
    let mut frames = 0;
    for frame in CaptureReader::open(path).map_err(failed)? {
        let frame = match frame {
            Err(CaptureError::NotEthernet { .. }) if frames + 1 < number => {
                frames += 1;
                continue;
            }
            other => other.map_err(failed)?,
        };
        frames += 1;
        if frames == number {
            if frame.is_truncated() {
                output.say(format!("the file has {} of the frame's {} octets", frame.bytes.len(), frame.original_len));
            }
            return Ok(frame.bytes.iter().map(|octet| format!("{octet:02x}")).collect());
        }
    }
    Err(TraceError::NoSuchFrame { path: path.to_owned(), number, frames })
}

fn print(request: &TraceRequest, trace: &Trace, output: Output) -> Result<()> {
    for step in &trace.steps {
        output.line(format!("{:<10} {}", step.stage, step.finding))?;
    }
    output.line(format!("{:<10} {}", "before", header(&request.frame)))?;
    if let Some(sent) = &trace.sent {
        output.line(format!("{:<10} {}", "after", header(sent)))?;
    }
    for copy in &trace.copies {
        output.line(format!("{:<10} {} by {}", "copy", header(&copy.sent), copy.egress))?;
    }
    let egress = trace.egress.as_ref().map(|egress| format!(" by {egress}")).unwrap_or_default();
    output.line(format!("{}{egress}: {}", trace.verdict, trace.sentence))
}

/// The Ethernet header of a frame in hexadecimal, as fields.
fn header(frame: &str) -> String {
    let digits: Vec<char> = frame.chars().filter(char::is_ascii_hexdigit).take(28).collect();
    let octets: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect::<String>().to_lowercase()).collect();
    let field = |range: std::ops::Range<usize>, joint: &str| octets.get(range).map(|octets| octets.join(joint));
    match (field(0..6, ":"), field(6..12, ":"), field(12..14, "")) {
        (Some(destination), Some(source), Some(kind)) => format!("to {destination} from {source} type 0x{kind}"),
        _ => "shorter than an Ethernet header".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::header;

    #[test]
    fn a_header_is_shown_as_its_fields() {
        assert_eq!(
            header("A2f100000001 02:00:00:00:00:01 0800 4500"),
            "to a2:f1:00:00:00:01 from 02:00:00:00:00:01 type 0x0800"
        );
        assert_eq!(header("a2f1"), "shorter than an Ethernet header");
    }
}
