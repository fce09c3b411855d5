//! Exit codes, the same for all commands.

/// Done.
pub const DONE: u8 = 0;
/// Differences were found, or a check failed.
pub const FAILED: u8 = 1;
/// The command line or a configuration is wrong.
pub const USAGE: u8 = 2;
/// No switch answers, or no daemon of this host.
pub const UNREACHABLE: u8 = 3;
/// Not permitted.
pub const DENIED: u8 = 4;
/// The state of things does not allow it: no address is free, a quota is used up, there is no such flow.
pub const CONFLICT: u8 = 5;
/// Nobody answered in time.
pub const TIMEOUT: u8 = 6;
/// `run`: the program can not be executed, as env(1) has it.
pub const NOT_EXECUTABLE: u8 = 126;
/// `run`: there is no such program, as env(1) has it.
pub const NOT_FOUND: u8 = 127;
