//! The whole switch: the built program in network namespaces, with real hosts at its ports.
//!
//! Each test makes its own namespaces, starts `flowlane switch` in one of them, and removes everything that the switch
//! has left in the kernel. They need root. They run one at a time, because most of them count lost frames.
#![allow(clippy::unwrap_used, reason = "a test ends where something does not work")]

mod access;
mod announcements;
mod api;
mod batches;
mod bulk;
mod capture;
mod chains;
mod claims;
mod daemon;
mod durable;
mod faults;
mod first_packets;
mod flags;
mod groups;
mod hosts_ask;
mod lab;
mod many;
mod packet;
mod run;
mod stream;
mod together;
mod ways;

/// Makes a test of a function of an executor, for each of the executors named.
macro_rules! on {
    ($($name:ident on $($executor:ident),+;)*) => {$(
        mod $name {
            $(#[test]
            fn $executor() {
                super::$name(stringify!($executor).replace('_', "-").as_str());
            })+
        }
    )*};
}
pub(crate) use on;
