//! Hosts and networks in network namespaces, for the demo, the tests and the benchmarks.
//!
//! A [`Netns`] is a network of its own inside the running kernel. It is held by file descriptors only, so it is gone
//! as soon as its owner is, even if the owner was killed: there is nothing to clean up. [`veth`] joins two of them,
//! [`Link`] configures interfaces, [`Host`] does the usual in one call, [`traffic`] sends real packets through real
//! sockets, and [`Tap`] and [`Injector`] see and make single frames.
//!
//! All calls are synchronous, work from within an async runtime too, and end by a deadline. They need root, or
//! [`enter_user_namespace`] at the start of the process. No other program, such as `ip`, is run.
//!
//! ```no_run
//! use flowlane_lab::{Host, Netns, traffic};
//! use std::time::Duration;
//!
//! # fn main() -> flowlane_lab::Result<()> {
//! let switch = Netns::new("switch")?;
//! let h1 = Host::new("h1", &switch, "port1", None, &["10.0.0.1/24".parse().expect("an address")])?;
//! let report = traffic::ping(h1.netns(), "10.0.0.1".parse().expect("an address"), 1, None, Duration::from_secs(1))?;
//! assert_eq!(report.received, 1);
//! # Ok(())
//! # }
//! ```

pub mod cgroup;
mod error;
mod frame;
mod host;
mod link;
mod netlink;
mod netns;
pub mod traffic;
mod user;

pub use cgroup::Cgroup;
pub use error::{Error, Result};
pub use flowlane_wire::Mac;
pub use frame::{Capture, Direction, Frame, Injector, Tap};
pub use host::Host;
pub use ipnet::IpNet;
pub use link::{End, Link, LinkState, Offload, Statistics, bridge, dummy, veth};
pub use netns::{Netns, Via};
pub use user::{UserNamespaceError, as_user, enter_user_namespace};
