//! Exit codes, the same for all commands.

/// Done.
pub const DONE: u8 = 0;
/// Differences were found, or a check failed.
pub const FAILED: u8 = 1;
/// The command line or a configuration is wrong.
pub const USAGE: u8 = 2;
/// No switch answers.
pub const UNREACHABLE: u8 = 3;
/// Not permitted.
pub const DENIED: u8 = 4;
/// The state of things does not allow it: no address is free, a quota is used up, there is no such flow.
pub const CONFLICT: u8 = 5;
/// Nobody answered in time.
pub const TIMEOUT: u8 = 6;
