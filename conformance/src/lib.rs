//! Every executor of the pipeline behind one trait, so that the same frames can be run on all of them and compared.
//!
//! - [`InKernel`]: the kernel's programs by `BPF_PROG_TEST_RUN`, as XDP or as tc;
//! - [`InUserspace`]: the pipeline in this process;
//! - [`Live`]: the kernel's programs on real interfaces, with a host at the other end of each.
//!
//! A [`Switch`] is offered single frames and says everything that can be seen of them; a
//! [`flowlane_vectors::Executor`] runs golden frames. [`Generator`] makes tables, frames and changes from a seed.
//! Everything but [`InUserspace`] needs root.

pub mod differential;
mod error;
mod generate;
mod in_kernel;
mod in_userspace;
mod interfaces;
mod live;
mod observe;

pub use error::Error;
pub use generate::{Change, Generator};
pub use in_kernel::{InKernel, Program};
pub use in_userspace::InUserspace;
pub use interfaces::Interfaces;
pub use live::Live;
pub use observe::{Action, Input, Observed, Record, Switch, is_cut_ip, now, words};
