//! What the lab's tests must do in a process of its own: be killed, be nobody, be single-threaded.

use flowlane_lab::{End, Host, IpNet, Netns, Tap, enter_user_namespace, traffic, veth};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read};
use std::process::ExitCode;
use std::time::Duration;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("own") => own(),
        Some("nobody") => nobody(),
        Some("threads") => threads(),
        Some("limit") => limit(),
        Some("named") => named(),
        _ => Err("usage: lab-helper own|nobody|threads|limit|named".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Owns a namespace that is joined to the caller's, until the input ends.
fn own() -> Outcome {
    let (outside, inside) = (Netns::current()?, Netns::new("owned")?);
    let end = |netns, name| End { netns, name, mac: None };
    veth(end(&outside, "outside"), end(&inside, "inside"))?;
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Two hosts, made and used without any right on the machine.
fn nobody() -> Outcome {
    enter_user_namespace()?;
    let h1 = Netns::new("h1")?;
    let addresses: [IpNet; 2] = ["10.9.0.2/24".parse()?, "fd00:9::2/64".parse()?];
    let h2 = Host::new("h2", &h1, "eth0", None, &addresses)?;
    h1.link("eth0")?.add_address("10.9.0.1/24".parse()?)?;
    h1.link("eth0")?.add_address("fd00:9::1/64".parse()?)?;
    h1.sysctl("net/ipv4/ip_forward", "1")?;
    let tap = Tap::start(h2.link(), |_| true)?;
    for address in addresses {
        let report = traffic::ping(&h1, address.addr(), 1, None, Duration::from_secs(5))?;
        println!("{}: {} of {}", address.addr(), report.received, report.sent);
    }
    println!("frames: {}", !tap.stop()?.frames.is_empty());
    Ok(())
}

/// A second thread waits while the first tries to enter.
fn threads() -> Outcome {
    let (_stop, wait) = std::sync::mpsc::channel::<()>();
    let _waiting = std::thread::spawn(move || wait.recv());
    Ok(enter_user_namespace()?)
}

/// Inside a user namespace whose limit is used up.
fn limit() -> Outcome {
    enter_user_namespace()?;
    fs::write("/proc/sys/user/max_user_namespaces", "0")?;
    match enter_user_namespace() {
        Ok(()) => Err("the limit was not kept".into()),
        Err(error) => {
            println!("{error}");
            Ok(())
        }
    }
}

/// Namespaces of `ip netns`, and a file that is none, in a mount namespace of our own.
fn named() -> Outcome {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    fs::create_dir("/run/netns")?;
    File::create("/run/netns/file")?;
    File::create("/run/netns/blue")?;
    let blue = Netns::new("unnamed")?;
    mount(Some(&blue.path()), "/run/netns/blue", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;

    let found = Netns::named("blue")?;
    flowlane_lab::bridge(&found, "br0")?;
    println!("blue: {}", blue.link("br0")?.exists()?);
    for wrong in ["file", "red", "../netns/blue"] {
        match Netns::named(wrong) {
            Ok(_) => return Err(format!("{wrong} is no namespace").into()),
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}
