//! What a benchmark needs besides the switch: frames and their count (`path`), and what the switch is compared with
//! (`peers`). No switch loads this object.
#![no_std]
#![no_main]

mod path;
mod peers;

/// Lets the kernel use helpers that are for GPL-compatible programs only; this program is under either licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
