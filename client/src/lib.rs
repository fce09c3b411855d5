//! Asks this host's Flowlane daemon (`flowlane host`) for flows: packets of a program, or of one socket, get an Ethernet
//! address of their own.
//!
//! Most programs need nothing of this: `flowlane run -- CMD` puts an unmodified program into flows. A program that wants
//! one for a single socket binds it:
//!
//! ```no_run
//! use flowlane_client::{Client, Wishes};
//! use std::net::{SocketAddr, UdpSocket};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let destination: SocketAddr = "192.0.2.7:4000".parse()?;
//! let socket = UdpSocket::bind("0.0.0.0:0")?;
//! let client = Client::connect()?;
//! let binding = client.bind(&socket, &Wishes::towards(destination).rate(10_000_000))?;
//! socket.send_to(b"by a flow", destination)?;
//! if let Some(flow) = binding.flow(destination.ip())? {
//!     println!("{} by {:?}", flow.state, flow.address);
//! }
//! // The flow ends here, with `binding`.
//! # Ok(())
//! # }
//! ```
//!
//! The daemon listens on a UNIX socket of its network namespace. A request is one line of JSON, and so is its answer; the
//! words of both are in [`protocol`], for programs in other languages.
//!
//! All calls block, and end by a deadline.
#![forbid(unsafe_code)]

mod client;
mod error;
pub mod protocol;

pub use client::{Binding, Client, socket};
pub use error::ClientError;
pub use protocol::{Field, FlowView, Problem, ProblemCode, RunRequest, RunView, Status, Wishes};
