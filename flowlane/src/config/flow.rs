//! Flows that are there without a lease, for `replay`.

use super::{ConfigError, PortConfig, Source, flag::restore};
use flowlane_tables::{GROUPS, NextHop, RECEIVERS_MAX, Tuple};
use flowlane_wire::{Block, Flag, FlowAddress, PortId, Restore, header::protocol};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
};
use toml::Spanned;

/// A flow that needs no lease.
#[derive(Clone, Debug)]
pub struct FlowConfig {
    /// Its address.
    pub address: FlowAddress,
    /// The port that its frames come in by.
    pub port: PortId,
    /// Bits per second.
    pub rate: Option<u64>,
    /// The next hop; without one the first packet decides by the routes.
    pub next: Option<NextHop>,
    /// The next hop while the first one's port is down.
    pub backup: Option<NextHop>,
    /// The receivers of its group, where it has one (claim 20).
    pub receivers: Option<Vec<NextHop>>,
    /// What is done to the DSCP.
    pub restore: Restore,
    /// The flagged packets that are the flow's (claim 24).
    pub flagged: Vec<Tuple>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowFile {
    address: Spanned<String>,
    port: Spanned<String>,
    rate: Option<Spanned<toml::Value>>,
    next: Option<HopFile>,
    backup: Option<HopFile>,
    receivers: Option<Spanned<Vec<HopFile>>>,
    restore: Option<Spanned<toml::Value>>,
    #[serde(default, deserialize_with = "one_or_several")]
    flagged: Vec<TupleFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HopFile {
    mac: Spanned<String>,
    port: Spanned<String>,
    #[serde(default)]
    routed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TupleFile {
    protocol: Spanned<toml::Value>,
    source: Spanned<String>,
    destination: Spanned<String>,
}

/// The ports, by number.
type Ports = BTreeMap<PortId, PortConfig>;

impl Source<'_> {
    /// The flows of a file.
    pub(super) fn flows(
        &self,
        files: &[FlowFile],
        block: Block,
        ports: &Ports,
    ) -> Result<Vec<FlowConfig>, ConfigError> {
        let (mut groups, mut known) = (0, HashSet::new());
        let flow = |file: &FlowFile| {
            let flow = self.flow(file, block, ports)?;
            groups += u32::from(flow.receivers.is_some());
            if let Some(receivers) = file.receivers.as_ref().filter(|_| groups > GROUPS) {
                let message = format!("a switch has at most {GROUPS} groups");
                return Err(self.wrong(receivers.span(), message, "one too many"));
            }
            for (tuple, of) in flow.flagged.iter().zip(&file.flagged) {
                if !known.insert(*tuple) {
                    let message = "these packets are another flow's already";
                    return Err(self.wrong(of.source.span(), message, "a packet is in one flow"));
                }
            }
            Ok(flow)
        };
        files.iter().map(flow).collect()
    }

    fn flow(&self, file: &FlowFile, block: Block, ports: &Ports) -> Result<FlowConfig, ConfigError> {
        let mac = self.mac(&file.address)?;
        let address = block.flow_address(mac).ok_or_else(|| {
            let message = format!("{mac} is not in the block {block}");
            self.wrong(file.address.span(), message, "flow addresses are the switch's own")
        })?;
        let port = self.port(&file.port, ports)?;
        Ok(FlowConfig {
            address,
            port,
            rate: file.rate.as_ref().map(|rate| self.rate(rate)).transpose()?,
            next: file.next.as_ref().map(|hop| self.hop(hop, ports)).transpose()?,
            backup: file.backup.as_ref().map(|hop| self.hop(hop, ports)).transpose()?,
            receivers: self.receivers(file, ports)?,
            restore: self.restore(file, port, ports)?,
            flagged: file.flagged.iter().map(|tuple| self.tuple(tuple, port)).collect::<Result<_, _>>()?,
        })
    }

    fn hop(&self, hop: &HopFile, ports: &Ports) -> Result<NextHop, ConfigError> {
        Ok(NextHop { mac: self.host(&hop.mac)?, port: self.port(&hop.port, ports)?, routed: hop.routed })
    }

    fn receivers(&self, file: &FlowFile, ports: &Ports) -> Result<Option<Vec<NextHop>>, ConfigError> {
        let Some(receivers) = &file.receivers else { return Ok(None) };
        if file.next.is_some() || file.backup.is_some() {
            let message = "a flow has a next hop or receivers, not both";
            return Err(self.wrong(receivers.span(), message, "leave these or the others out"));
        }
        if receivers.get_ref().len() > RECEIVERS_MAX {
            let message = format!("{} receivers are too many", receivers.get_ref().len());
            return Err(self.wrong(receivers.span(), message, "a group has at most 64"));
        }
        receivers.get_ref().iter().map(|hop| self.hop(hop, ports)).collect::<Result<_, _>>().map(Some)
    }

    fn restore(&self, file: &FlowFile, port: PortId, ports: &Ports) -> Result<Restore, ConfigError> {
        let Some(value) = &file.restore else { return Ok(Restore::Keep) };
        let flag = ports.get(&port).and_then(|port| port.flag).map_or(Flag::DEFAULT, |flag| flag.flag);
        restore(value.get_ref(), flag).ok_or_else(|| {
            let message = format!("{} is nothing that the DSCP can become", value.get_ref());
            self.wrong(value.span(), message, "\"clear\", \"keep\", or a DSCP from 0 to 63")
        })
    }

    fn tuple(&self, file: &TupleFile, port: PortId) -> Result<Tuple, ConfigError> {
        let (source, source_port) = self.end(&file.source)?;
        let (destination, destination_port) = self.end(&file.destination)?;
        if source.is_ipv4() != destination.is_ipv4() {
            let message = "source and destination are of different versions of IP";
            return Err(self.wrong(file.destination.span(), message, "both IPv4, or both IPv6"));
        }
        let protocol = protocol_number(file.protocol.get_ref()).ok_or_else(|| {
            let message = format!("{} is no protocol", file.protocol.get_ref());
            self.wrong(file.protocol.span(), message, "\"tcp\", \"udp\", \"icmp\", \"icmpv6\", or a number up to 255")
        })?;
        Ok(Tuple {
            source: octets(source),
            destination: octets(destination),
            source_port: source_port.to_be_bytes(),
            destination_port: destination_port.to_be_bytes(),
            protocol,
            version: if source.is_ipv4() { 4 } else { 6 },
            ingress: port.0.to_be_bytes(),
        })
    }

    /// An address with or without a port; 0 is none.
    fn end(&self, text: &Spanned<String>) -> Result<(IpAddr, u16), ConfigError> {
        let with_port = text.get_ref().parse::<SocketAddr>().map(|end| (end.ip(), end.port()));
        with_port.or_else(|_| text.get_ref().parse().map(|address| (address, 0))).map_err(|_| {
            let message = format!("{:?} is no address", text.get_ref());
            self.wrong(text.span(), message, "such as \"10.1.0.2:4000\", \"[2001:db8::2]:4000\" or \"10.1.0.2\"")
        })
    }
}

/// The number of a protocol, by number or by name.
fn protocol_number(value: &toml::Value) -> Option<u8> {
    match value {
        toml::Value::Integer(number) => u8::try_from(*number).ok(),
        toml::Value::String(name) => match name.as_str() {
            "icmp" => Some(1),
            "tcp" => Some(protocol::TCP),
            "udp" => Some(protocol::UDP),
            "icmpv6" => Some(58),
            _ => None,
        },
        _ => None,
    }
}

/// An address as it stands in a tuple.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// Reads one table, or an array of tables.
fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TupleFile>, D::Error> {
    struct OneOrSeveral;

    impl<'de> Visitor<'de> for OneOrSeveral {
        type Value = Vec<TupleFile>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("{ protocol, source, destination }, or an array of them")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            TupleFile::deserialize(MapAccessDeserializer::new(map)).map(|tuple| vec![tuple])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut tuples = Vec::new();
            while let Some(tuple) = seq.next_element()? {
                tuples.push(tuple);
            }
            Ok(tuples)
        }
    }

    deserializer.deserialize_any(OneOrSeveral)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// The flow of these settings, which begin at line 8, or the line of what is wrong.
    fn flow(settings: &str) -> Result<FlowConfig, (usize, String)> {
        let text = format!(
            "[[port]]\ninterface = \"p1\"\nflag = \"read\"\nflag_dscp = \"101xxx\"\n\
             [[flow]]\naddress = \"a2:f1:00:00:00:01\"\nport = \"p1\"\n{settings}"
        );
        match Config::parse("test.toml", &text) {
            Ok(mut config) => Ok(config.flows.remove(0)),
            Err(ConfigError::Wrong { line, message, .. }) => Err((line, message)),
            Err(other) => panic!("{other}"),
        }
    }

    fn line_of(settings: &str) -> usize {
        flow(settings).expect_err("something is wrong").0
    }

    #[test]
    fn a_flow_has_receivers_instead_of_a_next_hop() {
        let receiver = "{ mac = \"02:00:00:00:00:02\", port = \"p1\" }";
        let group = flow(&format!("receivers = [{receiver}, {receiver}]")).expect("valid");
        assert_eq!(group.receivers.map(|receivers| receivers.len()), Some(2));
        assert_eq!(flow("receivers = []").expect("valid").receivers, Some(Vec::new()));
        assert_eq!(flow("").expect("valid").receivers, None);
        assert_eq!(line_of(&format!("next = {receiver}\nreceivers = [{receiver}]")), 9);
        assert_eq!(line_of(&format!("receivers = [{}]", vec![receiver; 65].join(", "))), 8);
        assert_eq!(line_of("\nreceivers = [{ mac = \"02:00:00:00:00:02\", port = \"p9\" }]"), 9);
    }

    #[test]
    fn the_dscp_is_kept_cleared_or_set() {
        let restore = |value: &str| flow(&format!("restore = {value}")).map(|flow| flow.restore);
        assert_eq!(flow("").map(|flow| flow.restore), Ok(Restore::Keep));
        assert_eq!(restore("\"keep\""), Ok(Restore::Keep));
        assert_eq!(restore("\"clear\""), Ok(Restore::Clear(0b11_1000)), "what the port's flag looks at");
        assert_eq!(restore("46"), Ok(Restore::Set(46)));
        assert_eq!(restore("64").map_err(|(line, _)| line), Err(8));
    }

    #[test]
    fn flagged_packets_are_named_by_their_addresses_and_ports() {
        let udp = "{ protocol = \"udp\", source = \"10.1.0.2:4000\", destination = \"10.2.0.2:5000\" }";
        let icmp = "{ protocol = 58, source = \"2001:db8::1\", destination = \"2001:db8::2\" }";
        let tuple = Tuple {
            source: octets([10, 1, 0, 2].into()),
            destination: octets([10, 2, 0, 2].into()),
            source_port: [0x0f, 0xa0],
            destination_port: [0x13, 0x88],
            protocol: 17,
            version: 4,
            ingress: [0, 1],
        };
        assert_eq!(flow(&format!("flagged = {udp}")).expect("valid").flagged, [tuple]);
        let both = flow(&format!("flagged = [{udp}, {icmp}]")).expect("valid").flagged;
        assert_eq!((both[0], both[1].version, both[1].source_port), (tuple, 6, [0, 0]));
        assert_eq!(line_of(&format!("flagged = [{udp}, {udp}]")), 8, "twice the same");
        let with = |key: &str, value: &str| {
            let mut keys = vec![("protocol", "6"), ("source", "\"10.1.0.2\""), ("destination", "\"10.2.0.2\"")];
            keys.iter_mut().filter(|(name, _)| *name == key).for_each(|entry| entry.1 = value);
            let keys: Vec<_> = keys.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
            line_of(&format!("\n[flow.flagged]\n{}", keys.join("\n")))
        };
        assert_eq!(with("protocol", "256"), 10);
        assert_eq!(with("source", "\"10.1.0.2:99999\""), 11);
        assert_eq!(with("destination", "\"2001:db8::1\""), 12);
    }
}
