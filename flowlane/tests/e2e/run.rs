//! `flowlane run`: real programs in flows of their own, on a host that is asked by a real daemon and served by a real
//! switch.

mod command;
mod host;
mod lifetime;
mod nft;
mod packets;
mod policy;
mod programs;
mod service;
mod services;
mod site;
mod subjects;
mod ways;
