//! The capture: one record for each frame that came, one for each that left, with the reasons, as tshark reads it.

use crate::{
    lab::{Lab, eventually, flow_from_a, mac, mac_of, ping, settings},
    on, packet,
};
use flowlane_lab::Injector;
use std::{path::Path, process::Command};

on! {
    each_frame_is_recorded_with_its_end on tc, af_packet, af_xdp, xdp;
}

fn each_frame_is_recorded_with_its_end(executor: &str) {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("frames.pcapng");
    let mut switch = lab.switch_with(&format!("capture = \"{}\"\n{}", file.display(), settings(executor)));
    let flow = flow_from_a(&lab, &switch, "10.1.0.1");
    ping(&lab.a, "10.2.0.2", 5);
    let intruder = Injector::open(lab.c.link()).expect("root");
    for _ in 0..3 {
        intruder.send(&packet::udp(mac(&flow), mac_of(3), b"from the wrong port")).expect("sent");
    }
    eventually("all have ended", || {
        switch.api.count("pc", "wrong-port") == 3 && switch.api.count("pa", "forward") == 5
    });
    let waited = switch.api.count("pa", "resolve") as usize;
    // Each thread of a port tells of its frames when it has done with them.
    eventually("all are written", || {
        let written =
            ["icmp.type == 8", "udp.dstport == 2222", "icmp.type == 0"].map(|filter| read(&file, filter).1.len());
        written == [10, 3, 5]
    });
    switch.terminate();

    let read = |filter: &str| {
        let (whole, records) = read(&file, filter);
        assert!(whole, "{filter}: {records:#?}");
        records
    };
    let requests = read("icmp.type == 8");
    let came: Vec<_> = requests.iter().filter(|line| line.starts_with("pa\t")).collect();
    let left: Vec<_> = requests.iter().filter(|line| line.starts_with("pb\t")).collect();
    assert_eq!((came.len(), left.len()), (5, 5), "{requests:#?}");
    assert!(left.iter().all(|line| line.ends_with(&format!("{flow}\t{}", mac_of(2)))), "{left:#?}");
    let first = came.iter().filter(|line| line.contains("resolve:")).count();
    assert_eq!(first, waited, "{came:#?}");
    assert_eq!(came.iter().filter(|line| line.contains("\tforward:")).count(), 5 - waited, "{came:#?}");
    let rejected = read("udp.dstport == 2222");
    assert_eq!(rejected.len(), 3, "{rejected:#?}");
    assert!(rejected.iter().all(|line| line.starts_with("pc\twrong-port:")), "{rejected:#?}");
    assert_eq!(left.iter().filter(|line| line.contains("after it waited, sent:")).count(), waited, "{left:#?}");
    let answers = read("icmp.type == 0");
    assert_eq!(answers.len(), 5, "{answers:#?}");
    assert!(answers.iter().all(|line| line.starts_with("pb\tpass:")), "{answers:#?}");
}

/// What tshark finds in a capture: interface, comment, source and destination of each record. And whether the file is whole.
fn read(file: &Path, filter: &str) -> (bool, Vec<String>) {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-Y", filter, "-T", "fields"]);
    for field in ["frame.interface_name", "frame.comment", "eth.src", "eth.dst"] {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark is installed");
    let records = String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect();
    (output.status.success(), records)
}
