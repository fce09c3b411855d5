//! Leases on disk.
