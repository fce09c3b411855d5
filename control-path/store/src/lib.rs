//! Leases on disk: what a switch has allotted survives `kill -9` and power loss.
//!
//! One file holds all leases of one block. [`Store::open`] gives them back, [`Store::commit`] makes a batch of
//! [`flowlane_allot::Change`]s durable: all of it or nothing. What is damaged is reported and never served.
//!
//! A row says until when a lease is reserved ([`flowlane_allot::Lease::reserved`]), not when it ends: changes of its end up
//! to there need no commit ([`flowlane_allot::Change::needs_writing`]).
//!
//! One double fault can not be seen: if the process was killed *and* the pages of its very last commit were damaged
//! later, the file looks as if the power had failed in that commit, and opens as it was before it. An empty commit after
//! the last one ends that.
#![forbid(unsafe_code)]

mod error;
mod moment;
mod row;
mod store;

pub use error::StoreError;
pub use moment::Moment;
pub use redb::StorageBackend;
pub use store::{Restored, Store};
