//! What is written for `nft -f`: nft(8).

use super::{Group, MARK_BASE, MARK_MASK, NftError, Result};
use flowlane_tables::RunKey;
use flowlane_wire::Mac;
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// How often the daemon is told of one destination that has no flow.
const TOLD_SECONDS: u32 = 1;

/// How many such destinations are remembered; of more, the daemon is not told until some are forgotten.
const TOLD_MAX: u32 = 8_192;

/// Enough of a packet for its IP destination.
const TOLD_OCTETS: u32 = 64;

/// What the chain of a flow does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Packets leave as they are.
    Pass,
    Drop,
    /// Packets get one of these addresses.
    Open {
        addresses: Vec<Mac>,
        source_field: bool,
    },
}

impl Verdict {
    pub(super) fn paths(&self) -> usize {
        match self {
            Self::Open { addresses, .. } => addresses.len(),
            Self::Pass | Self::Drop => 0,
        }
    }
}

/// The name of a flow's chain, and of the counter of its packets without a flow address.
pub(super) fn chain(index: u32) -> String {
    format!("f{index}")
}

/// The name of the counter of one of a flow's paths.
pub(super) fn path_counter(index: u32, path: usize) -> String {
    format!("f{index}p{path}")
}

/// The chain of an interface.
pub(super) fn interface_chain(ifindex: u32) -> String {
    format!("if{ifindex}")
}

/// The name by which a cgroup is shown to the program. Its own may hold anything.
pub(super) fn group_name(id: u64) -> String {
    format!("c{id}")
}

/// Lines of one transaction, for the tables of one name.
#[derive(Debug)]
pub(super) struct Script {
    table: String,
    text: String,
}

impl Script {
    pub(super) fn new(name: &str) -> Result<Self> {
        let written = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(written) {
            return Err(NftError::Name(name.to_owned()));
        }
        Ok(Self { table: format!("flowlane_{name}"), text: String::new() })
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// The lines so far; none are left.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// All that does not depend on runs and interfaces. What is there already stays.
    pub(super) fn set_up(&mut self, log_group: u16) {
        let table = self.table.clone();
        self.line(format_args!("add table inet {table}"));
        self.line(format_args!("add set inet {table} interfaces {{ type iface_index; }}"));
        self.line(format_args!(
            "add chain inet {table} runs {{ type filter hook output priority 400; policy accept; }}"
        ));
        self.line(format_args!("add table netdev {table}"));
        self.line(format_args!("add set netdev {table} required {{ type mark; }}"));
        for (flows, told, family) in [("flows4", "told4", "ipv4_addr"), ("flows6", "told6", "ipv6_addr")] {
            let key = format!("type iface_index . mark . {family}");
            self.line(format_args!("add map netdev {table} {flows} {{ {key} : verdict; flags timeout; }}"));
            let flags = format!("flags timeout, dynamic; size {TOLD_MAX};");
            self.line(format_args!("add set netdev {table} {told} {{ {key}; {flags} }}"));
        }
        self.out(log_group);
    }

    /// What becomes of a packet that leaves by an attached interface.
    fn out(&mut self, log_group: u16) {
        let table = self.table.clone();
        self.line(format_args!("add chain netdev {table} out"));
        self.line(format_args!("flush chain netdev {table} out"));
        let mut rule = |text: &str| self.line(format_args!("add rule netdev {table} out {text}"));
        rule(&format!("meta mark & {MARK_MASK:#x} != {MARK_BASE:#x} accept"));
        let group = "01:00:00:00:00:00";
        rule(&format!("ether daddr & {group} == {group} meta mark set 0 accept"));
        let of = |destination: &str| format!("meta oif . meta mark . {destination}");
        for (flows, destination) in [("flows4", "ip daddr"), ("flows6", "ip6 daddr")] {
            rule(&format!("{} vmap @{flows}", of(destination)));
        }
        for (told, destination) in [("told4", "ip daddr"), ("told6", "ip6 daddr")] {
            let key = of(destination);
            let remember = format!("add @{told} {{ {key} timeout {TOLD_SECONDS}s }}");
            rule(&format!("{key} != @{told} {remember} log group {log_group} snaplen {TOLD_OCTETS}"));
        }
        rule("meta protocol { ip, ip6 } meta mark @required drop");
        rule("meta mark set 0");
    }

    /// Marks the packets of these cgroups, the deepest first, and of the namespace. For one transaction of its own.
    pub(super) fn runs(&self, groups: &[&Group], namespace: Option<(u32, bool)>) -> String {
        let table = &self.table;
        let mut lines = vec![format!("flush chain inet {table} runs"), format!("flush set netdev {table} required")];
        let mut rule = |text: &str| lines.push(format!("add rule inet {table} runs {text}"));
        rule("meta mark != 0 accept");
        rule("oif != @interfaces accept");
        // What goes to this host, to groups and to the link alone needs no flow: the same as for the BPF program.
        rule("ip daddr { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 } accept");
        rule("ip6 daddr { ::/64, fe80::/10, ff00::/8 } accept");
        // Neighbours are found outside of flows: without them there is nobody to send to.
        let neighbours = "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect";
        rule(&format!("icmpv6 type {{ {neighbours} }} accept"));
        let mut levels = BTreeMap::<u32, Vec<String>>::new();
        for Group { id, level, run, .. } in groups {
            levels.entry(*level).or_default().push(format!("\"{}\" : {:#x}", group_name(*id), MARK_BASE | run));
        }
        for (level, groups) in levels.iter().rev() {
            let map = format!("socket cgroupv2 level {level} map {{ {} }}", groups.join(", "));
            rule(&format!("meta mark 0 meta mark set {map}"));
        }
        if let Some((run, _)) = namespace {
            rule(&format!("meta mark 0 meta mark set {:#x}", MARK_BASE | run));
        }
        let of_groups = groups.iter().map(|group| (group.run, group.required));
        for (run, _) in of_groups.chain(namespace).filter(|(_, required)| *required) {
            lines.push(format!("add element netdev {table} required {{ {:#x} }}", MARK_BASE | run));
        }
        lines.join("\n") + "\n"
    }

    pub(super) fn attach(&mut self, interface: &str, ifindex: u32) -> Result<()> {
        // A name ends at the quotation mark; `*` stands for several interfaces.
        let written = |c: char| c.is_ascii_graphic() && !['"', '*', '\\'].contains(&c);
        if interface.is_empty() || !interface.chars().all(written) {
            return Err(NftError::Name(interface.to_owned()));
        }
        let (table, chain) = (self.table.clone(), interface_chain(ifindex));
        let hook = format!("type filter hook egress device \"{interface}\" priority 300; policy accept;");
        self.line(format_args!("add chain netdev {table} {chain} {{ {hook} }}"));
        self.line(format_args!("flush chain netdev {table} {chain}"));
        self.line(format_args!("add rule netdev {table} {chain} jump out"));
        self.line(format_args!("add element inet {table} interfaces {{ {ifindex} }}"));
        Ok(())
    }

    pub(super) fn detach(&mut self, ifindex: u32) {
        let (table, chain) = (self.table.clone(), interface_chain(ifindex));
        // Added first, because the kernel may have removed it together with the interface.
        self.line(format_args!("add chain netdev {table} {chain}"));
        self.line(format_args!("delete chain netdev {table} {chain}"));
        self.line(format_args!("add element inet {table} interfaces {{ {ifindex} }}"));
        self.line(format_args!("delete element inet {table} interfaces {{ {ifindex} }}"));
    }

    /// The chain of a flow.
    pub(super) fn flow(&mut self, index: u32, verdict: &Verdict) {
        let (table, chain) = (self.table.clone(), chain(index));
        self.line(format_args!("add chain netdev {table} {chain}"));
        self.line(format_args!("flush chain netdev {table} {chain}"));
        self.line(format_args!("add counter netdev {table} {chain}"));
        match verdict {
            Verdict::Pass => self.flow_rule(index, &format!("meta mark set 0 counter name \"{chain}\" accept")),
            Verdict::Drop => self.flow_rule(index, &format!("counter name \"{chain}\" drop")),
            Verdict::Open { addresses, source_field } => self.paths(index, addresses, *source_field),
        }
    }

    fn paths(&mut self, index: u32, addresses: &[Mac], source_field: bool) {
        let table = self.table.clone();
        let field = if source_field { "saddr" } else { "daddr" };
        for (path, address) in addresses.iter().enumerate() {
            let counter = path_counter(index, path);
            self.line(format_args!("add counter netdev {table} {counter}"));
            let chosen =
                if addresses.len() > 1 { format!("symhash mod {} {path} ", addresses.len()) } else { String::new() };
            let count = format!("counter name \"{counter}\"");
            self.flow_rule(index, &format!("{chosen}meta mark set 0 {count} ether {field} set {address} accept"));
        }
    }

    fn flow_rule(&mut self, index: u32, text: &str) {
        let (table, chain) = (self.table.clone(), chain(index));
        self.line(format_args!("add rule netdev {table} {chain} {text}"));
    }

    /// The element that leads to the chain of a flow, for so long.
    pub(super) fn element(&mut self, key: &RunKey, index: u32, lifetime: Option<Duration>) {
        self.remove_element(key, index);
        let timeout = lifetime.map(|time| format!(" timeout {}ms", time.as_millis())).unwrap_or_default();
        let (table, (map, written)) = (self.table.clone(), element_key(key));
        // The comment is for who adopts: the program lists an interface by its name.
        let comment = format!("comment \"{}\"", key.ifindex);
        self.line(format_args!(
            "add element netdev {table} {map} {{ {written}{timeout} {comment} : goto {} }}",
            chain(index)
        ));
    }

    fn remove_element(&mut self, key: &RunKey, index: u32) {
        let (table, (map, written)) = (self.table.clone(), element_key(key));
        // Added first, because its time may have passed; what is there already is no error.
        self.line(format_args!("add element netdev {table} {map} {{ {written} : goto {} }}", chain(index)));
        self.line(format_args!("delete element netdev {table} {map} {{ {written} }}"));
    }

    /// Empties the entry of a flow. Its chain stays for the next one: an element whose time has passed may refer to it.
    pub(super) fn forget(&mut self, key: &RunKey, index: u32, paths: usize) {
        let (table, chain) = (self.table.clone(), chain(index));
        self.remove_element(key, index);
        self.line(format_args!("flush chain netdev {table} {chain}"));
        self.line(format_args!("delete counter netdev {table} {chain}"));
        for path in 0..paths {
            self.line(format_args!("delete counter netdev {table} {}", path_counter(index, path)));
        }
    }

    /// Removes both tables, also if they are not there.
    pub(super) fn remove(&mut self) {
        let table = self.table.clone();
        for family in ["inet", "netdev"] {
            self.line(format_args!("add table {family} {table}"));
            self.line(format_args!("delete table {family} {table}"));
        }
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{text}");
    }
}

/// The map that a key stands in, and how.
fn element_key(key: &RunKey) -> (&'static str, String) {
    let destination = Ipv6Addr::from(key.destination).to_canonical();
    let map = match destination {
        IpAddr::V4(_) => "flows4",
        IpAddr::V6(_) => "flows6",
    };
    (map, format!("{} . {:#x} . {destination}", key.ifindex, MARK_BASE | key.run))
}
