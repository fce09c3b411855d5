//! What the objects share: `switch` holds the pipeline as XDP and tc programs, `host` what a host does with the packets
//! that leave it, `bench` frames, their count, and what the switch is compared with.
#![no_std]
#![feature(asm_experimental_arch)]

pub mod frame;
pub mod ring;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
