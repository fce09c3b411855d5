//! What the figures were measured on.

use serde::Serialize;
use std::fs;

/// What the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor, by its own name.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// Whether it is a virtual machine, so that others share the processors' caches and memory.
    pub is_virtual: bool,
    /// The kernel's release.
    pub kernel: String,
    /// What the kernel does about indirect branches (Spectre v2), which costs every program something.
    pub mitigation: String,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            processor: value(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            is_virtual: value(&cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            kernel: read("/proc/sys/kernel/osrelease"),
            mitigation: read("/sys/devices/system/cpu/vulnerabilities/spectre_v2"),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

/// The first value of that name, proc_cpuinfo(5).
fn value<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim_end() == name).map(|(_, value)| value.trim())
}
