//! Every order of events, for small numbers of them: what leases, quarantine and chains promise holds in each, and does not
//! where the time that it rests on is too short.

#[path = "model/chain.rs"]
mod chain;
#[path = "model/rest.rs"]
mod rest;
