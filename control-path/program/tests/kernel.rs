//! The programs in the real kernel, on a real interface.
#![allow(missing_docs)]

use flowlane_program::{Kernel, KernelOptions, Mode};
use flowlane_wire::{Block, Mac, PortId};

#[test]
fn loads() {
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        let out =
            std::process::Command::new("ip").args(["link", "add", "va", "type", "veth", "peer", "name", "vb"]).status();
        println!("{out:?}");
        let block = Block::new("a2:f1:00:00:00:00".parse::<Mac>().expect("mac"), 16, 1024).expect("block");
        let options =
            KernelOptions { name: format!("test-{}", std::process::id()), block, queue_bytes: 1 << 20, show: true };
        let (mut kernel, _tables, _punts, adopted) =
            Kernel::open(options.clone()).unwrap_or_else(|e| panic!("{e}: {e:?}"));
        assert!(!adopted);
        let i = nix::net::if_::if_nametoindex("va").expect("index");
        for mode in [Mode::Tc, Mode::Xdp] {
            kernel.attach(PortId(1), "va", i, 1500, mode).unwrap_or_else(|e| panic!("{e}: {e:?}"));
            println!("{:?}", kernel.attached());
        }
        drop(kernel);
        let (mut kernel, _tables, _punts, adopted) =
            Kernel::open(options.clone()).unwrap_or_else(|e| panic!("{e}: {e:?}"));
        assert!(adopted);
        kernel.attach(PortId(1), "va", i, 1500, Mode::Xdp).unwrap_or_else(|e| panic!("{e}: {e:?}"));
        assert!(kernel.attached()[&PortId(1)].adopted);
        Kernel::remove(&options.name).expect("removed");
    })
    .join()
    .expect("ok");
}
