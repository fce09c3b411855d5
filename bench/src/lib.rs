//! Forwarding measured: the switch and what users would take instead, on the same frames and the same path.
//!
//! ```text
//!     source             switch              destination
//!   generator -- veth -- contestant -- veth -- sink            three network namespaces, one processor
//! ```
//!
//! The generator is a program that the kernel runs with live frames (`BPF_PROG_TEST_RUN`): it writes a flow's address into
//! each and sends it into the first cable. The sink looks at every frame that comes out of the second one, counts those with
//! the right addresses, and drops them. Generator, contestant and sink take turns on one processor, so what is measured is
//! the processor time of all three for each frame that arrived. That does not depend on which processors share a cache, nor
//! on how busy other processors are; the generator's and the sink's part is measured as the [`Contestant::Floor`].
//!
//! All contestants of a case stand ready at the same time, and are measured in turns, several times: what the machine does
//! besides hits all of them, and ratios are taken within a round.
//!
//! Traps that are avoided here: a frame that is redirected into a veth vanishes unless the other end has an XDP program or
//! generic receive offload; each test run changes the kernel's code and waits for a grace period, so runs are long; socket
//! buffers that meet a sink in XDP are converted for it, so such contestants get a sink in tc.

mod alone;
mod bridge;
mod case;
mod cleanup;
mod contestant;
mod control;
mod ends;
mod error;
mod flood;
mod frame;
mod huge_pages;
mod kea;
mod load;
mod machine;
mod measure;
mod micro;
mod on_memory;
mod ovs;
mod package;
mod path;
mod peer;
mod processor;
mod progress;
mod random;
mod report;
mod requests;
mod routing;
mod run;
mod sizes;
mod stages;
mod switch;
mod tcp;
mod testpmd;
mod work;

pub use case::{Case, Plan};
pub use cleanup::CleanUp;
pub use contestant::Contestant;
pub use control::Control;
pub use error::Error;
pub use flood::Flood;
pub use load::{Counted, Load};
pub use machine::Machine;
pub use micro::{Micro, MicroCase};
pub use on_memory::{BATCH, OnMemory};
pub use path::Path;
pub use progress::{Bar, Progress};
pub use report::{LeftOut, Report, Row, TcpRow};
pub use requests::{Requests, requests};
pub use run::run;
pub use sizes::{Size, program_sizes};
pub use stages::Stage;
pub use switch::Forwarder;
pub use work::Work;

/// The benchmark's programs as built for the kernel, from `data-path/kernel/src/bench`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../data-path/kernel/bench.bpf.o");
