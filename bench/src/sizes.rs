//! How large the kernel's programs are.

use crate::{
    Error, OBJECT,
    frame::block,
    switch::{Pins, QUEUE_BYTES},
    work::IN,
};
use aya::{Ebpf, EbpfLoader, programs::Program};
use flowlane_program::{HOST_OBJECT, Kernel, KernelOptions};
use serde::Serialize;
use std::collections::BTreeMap;

/// The size of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Octets of BPF instructions after verification, 8 for each instruction.
    pub xlated: u32,
    /// Octets of the processor's own instructions, made from those.
    pub jited: u32,
}

/// The sizes of all programs, by object and name. Needs root.
///
/// # Errors
/// [`Error`] where the kernel does not take one.
pub fn program_sizes() -> Result<BTreeMap<String, Size>, Error> {
    let mut sizes = BTreeMap::new();
    add("switch", &mut switch()?, &mut sizes)?;
    add("host", &mut EbpfLoader::new().btf(None).load(HOST_OBJECT)?, &mut sizes)?;
    add("bench", &mut EbpfLoader::new().btf(None).load(OBJECT)?, &mut sizes)?;
    Ok(sizes)
}

/// The switch's programs as a port has them: what the block and the port's number make needless is not there.
fn switch() -> Result<Ebpf, Error> {
    let pins = Pins::new();
    let options =
        KernelOptions { name: pins.name().to_owned(), block: block(1 << 20), queue_bytes: QUEUE_BYTES, show: false };
    let (kernel, ..) = Kernel::open(options)?;
    Ok(kernel.programs(IN)?)
}

fn add(object: &str, programs: &mut Ebpf, sizes: &mut BTreeMap<String, Size>) -> Result<(), Error> {
    for (name, program) in programs.programs_mut() {
        let info = match program {
            Program::Xdp(program) => program.load().and_then(|()| program.info()),
            Program::SchedClassifier(program) => program.load().and_then(|()| program.info()),
            _ => continue,
        };
        let info = info.map_err(Error::program("a program whose size is asked for"))?;
        let size = Size { xlated: info.size_translated().unwrap_or(0), jited: info.size_jitted() };
        sizes.insert(format!("{object}/{name}"), size);
    }
    Ok(())
}
