//! Named golden frames: what goes in, and what must come out.
//!
//! Every executor of the pipeline (XDP, tc, userspace, replay) runs the same list through [`run`]. What a vector
//! expects is written down by hand or made by the plain functions of [`frames`]; the pipeline is never asked.

#![forbid(unsafe_code)]

mod executor;
pub mod frames;
mod list;
mod memory;
mod setup;
mod vector;

pub use executor::{Executor, Outcome, Report, Served, run};
pub use list::all;
pub use memory::{Buffer, Memory, Userspace, served};
pub use setup::{Flow, Lease, Meter, Port, Setup, block, flow_address};
pub use vector::{Counted, Expect, Offload, Vector};
