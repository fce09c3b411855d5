//! Three namespaces in a row, and the cables between them.

use crate::{Error, frame};
use flowlane_lab::{End, Link, Mac, Netns, veth};
use std::path::Path as File;

/// The path that frames take: `source` to `ingress`, through the switch, `egress` to `destination`.
pub struct Path {
    /// The switch's namespace.
    pub switch: Netns,
    /// Where frames are sent, in a namespace of its own.
    pub source: Link,
    /// The switch's port `p1`.
    pub ingress: Link,
    /// The switch's port `p2`.
    pub egress: Link,
    /// Where frames come out, in a namespace of its own.
    pub destination: Link,
}

impl Path {
    /// A path of its own. It is gone when this is dropped, or the process is gone.
    ///
    /// # Errors
    /// [`Error::Lab`] where there can be no such network, as without root.
    pub fn new() -> Result<Self, Error> {
        let (from, switch, to) = (quiet("source")?, quiet("switch")?, quiet("destination")?);
        let (ingress, source) = cable((&switch, "p1", frame::INGRESS), (&from, "h1", frame::SOURCE))?;
        let (egress, destination) = cable((&switch, "p2", frame::EGRESS), (&to, "h2", frame::NEXT_HOP))?;
        Ok(Self { switch, source, ingress, egress, destination })
    }

    /// One whose first cable has IPv6, with link-local addresses.
    pub(crate) fn with_ipv6() -> Result<Self, Error> {
        let path = Self::new()?;
        for link in [&path.source, &path.ingress] {
            for key in ["all", "default", link.name()] {
                link.netns().sysctl(&format!("net/ipv6/conf/{key}/disable_ipv6"), "0")?;
            }
        }
        Ok(path)
    }
}

/// A namespace that sends nothing by itself.
fn quiet(label: &str) -> Result<Netns, Error> {
    let netns = Netns::new(label)?;
    if File::new("/proc/sys/net/ipv6").exists() {
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    }
    Ok(netns)
}

fn cable(one: (&Netns, &str, Mac), other: (&Netns, &str, Mac)) -> Result<(Link, Link), Error> {
    let [one, other] = [one, other].map(|(netns, name, mac)| End { netns, name, mac: Some(mac) });
    let (one, other) = veth(one, other)?;
    one.connect(&other)?;
    Ok((one, other))
}
