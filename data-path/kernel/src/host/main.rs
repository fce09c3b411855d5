//! What a host does with the packets that leave it. `run` puts those of its runs into flows, by the tables in `maps`; `mark`
//! adds the virtual-circuit flag.
#![no_std]
#![no_main]

mod maps;
mod mark;
mod run;

/// Lets the kernel use helpers that are for GPL-compatible programs only; this program is under either licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
