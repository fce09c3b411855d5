//! Who asks a switch, and for what: its operations as they are published, and callers from other machines. The tests of the
//! program use it, too.

pub mod certificates;
pub mod operations;
pub mod remote;
