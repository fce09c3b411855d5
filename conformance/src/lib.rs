//! Every executor of the pipeline behind one trait, so that the same frames can be run on all of them and compared.
//!
//! - [`InKernel`]: the kernel's programs by `BPF_PROG_TEST_RUN`, as XDP or as tc;
//! - [`InUserspace`]: the pipeline in this process;
//! - [`Live`]: the kernel's programs, or this process by AF_XDP sockets, on real interfaces, with a host at the other end
//!   of each;
//! - [`Replay`]: the command `flowlane replay`.
//!
//! A [`Switch`] is offered single frames and says everything that can be seen of them; a
//! [`flowlane_vectors::Executor`] runs golden frames. [`Generator`] makes tables, frames and changes from a seed.
//! [`run`] runs the suite: all golden frames and all stories, by the claims that they show. Everything but [`InUserspace`]
//! and [`Replay`] needs root.

mod claims;
pub mod differential;
mod error;
mod generate;
mod in_kernel;
mod in_userspace;
mod interfaces;
mod live;
mod observe;
mod on_sockets;
mod replay;
pub mod report;
mod stories;
mod story;
mod suite;

pub use claims::{CLAIMS, Claim};
pub use error::Error;
pub use generate::{Change, Generator};
pub use in_kernel::{InKernel, Program};
pub use in_userspace::InUserspace;
pub use interfaces::Interfaces;
pub use live::{Live, Place};
pub use observe::{Action, Input, Observed, Record, Switch, is_cut_ip, now, words};
pub use replay::Replay;
pub use stories::stories;
pub use story::{Act, Story, play};
pub use suite::{Cell, EXECUTORS, Results, Row, run};
