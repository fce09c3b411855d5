//! The running switch.

pub mod command;
