//! The tables of docs/performance.md.

use super::{
    figures::{Figure, Wanted},
    report::{Control, LeftOut, Report, Requests, Row, TcpRow},
};

/// The tables stand between these lines of the page.
const BEGIN: &str = "<!-- tables: cargo xtask bench -->\n";
const END: &str = "<!-- end of tables -->\n";

const MILLION: u32 = 1_000_000;
/// Whose look-up is worth a table: those that find a flow's entry, at the same place in the kernel.
const LOOK_UPS: [&str; 5] = ["hash-map", "flowlane-xdp", "flowlane-tc", "linux-bridge", "linux-routing"];

/// The page with other tables; nothing if it has no place for them.
pub(super) fn with_tables(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

/// All tables.
pub(super) fn tables(report: &Report, figures: &[Figure]) -> String {
    let parts = [
        machine(report),
        wanted(figures),
        look_ups(report),
        forwarding(&report.rows, &report.left_out),
        micro(&report.rows),
        tcp(report),
        report.control.as_ref().map(control).unwrap_or_default(),
        report.requests.as_ref().map(requests).unwrap_or_default(),
    ];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let kind = if machine.is_virtual { "virtual processors, shared with other machines" } else { "processors" };
    format!(
        "{}, {} {kind}; Linux {}; Spectre v2: {}. Medians of {} measurements, least and greatest in brackets. The generator \
         alone makes {:.1} million frames a second.\n",
        machine.processor,
        machine.processors,
        machine.kernel,
        machine.mitigation,
        report.repeats,
        report.generator_mpps
    )
}

fn wanted(figures: &[Figure]) -> String {
    let row = |figure: &Figure| {
        let met = match figure.is_met() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let measured = figure.measured.map(|measured| format!("{}{}", number(measured), figure.unit));
        let measured = measured.unwrap_or_else(|| "not measured".to_owned());
        format!("{} | {} | {measured} | {met} | {}", figure.what, bound(figure), figure.limited_by)
    };
    table(
        "### Wanted and measured",
        "figure | wanted | measured | met | limited by",
        "--- | --: | --: | --- | ---",
        figures.iter().map(row),
    )
}

fn bound(figure: &Figure) -> String {
    let (words, bound) = match figure.wanted {
        Wanted::AtLeast(bound) => ("at least", bound),
        Wanted::Above(bound) => ("more than", bound),
        Wanted::Below(bound) => ("under", bound),
        Wanted::AtMost(bound) => ("at most", bound),
    };
    format!("{words} {}{}", number(bound), figure.unit)
}

fn look_ups(report: &Report) -> String {
    let row = |name: &str| {
        let ns = |contestant, flows| report.unicast(contestant, flows).map(|row| row.ns_per_packet);
        let (one, million) = (ns(name, 1)?, ns(name, MILLION)?);
        let redirect = if ["hash-map", "flowlane-xdp"].contains(&name) { "limit" } else { "tc-limit" };
        let above = ns(redirect, MILLION).map(|redirect| format!("{:.0}", million - redirect)).unwrap_or_default();
        Some(format!("{name} | {one:.0} | {million:.0} | {:.0} | {above}", million - one))
    };
    table(
        "### What a look-up costs\n\nNanoseconds for each frame of 64 octets: how much more it is with a million random flows \
         than with one, and than the bare redirect in XDP or, for socket buffers, in tc.",
        "contestant | 1 flow | 1 M flows | 1 M above 1 flow | 1 M above the redirect",
        "--- | --: | --: | --: | --:",
        LOOK_UPS.into_iter().filter_map(row),
    )
}

fn forwarding(rows: &[Row], left_out: &[LeftOut]) -> String {
    let measured = rows.iter().filter(|row| row.mode != "micro").map(|row| {
        let ratio = match row.ratio_to_limit {
            _ if !row.valid => "does not count".to_owned(),
            Some(ratio) => format!("{ratio:.2}"),
            None => String::new(),
        };
        let Row { contestant, work, flows, frame_bytes, .. } = row;
        format!("{contestant} | {work} | {flows} | {frame_bytes} | {} | {ratio}", spread(row))
    });
    let not_measured = left_out.iter().map(|LeftOut { contestant, work, flows, why }| {
        // What ends a cell would end it here, too.
        let why = why.replace('|', "/").replace('\n', " ");
        format!("{contestant} | {work} | {flows} | | not measured: {why} | ")
    });
    table(
        "### Forwarding\n\nNanoseconds of processor time for each frame: generator, contestant and sink.",
        "contestant | work | flows | octets | ns per frame | of the limit",
        "--- | --- | --: | --: | --: | --:",
        measured.chain(not_measured),
    )
}

fn micro(rows: &[Row]) -> String {
    let rows = rows.iter().filter(|row| row.mode == "micro");
    table(
        "### Without interfaces\n\n64 octets, nanoseconds of the forwarding thread for each frame.",
        "contestant | flows | ns per frame",
        "--- | --: | --:",
        rows.map(|row| format!("{} | {} | {}", row.contestant, row.flows, spread(row))),
    )
}

fn tcp(report: &Report) -> String {
    let measured = report.tcp.iter().map(|row| {
        let TcpRow { contestant, gbit_per_second, gbit_min, gbit_max, ratio_to_tc_limit } = row;
        let ratio = ratio_to_tc_limit.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        format!("{contestant} | {gbit_per_second:.1} ({gbit_min:.1}-{gbit_max:.1}) | {ratio}")
    });
    let not_measured = report.tcp_left_out.iter().map(|why| format!("all | not measured: {why} | "));
    table(
        "### One TCP connection\n\n10^9 bits of payload a second.",
        "contestant | Gbit/s | of the tc limit",
        "--- | --: | --:",
        measured.chain(not_measured),
    )
}

fn control(control: &Control) -> String {
    let Control { flows, install_ms, install_ms_min, install_ms_max } = control;
    format!(
        "### Control\n\n{flows} flows are in the kernel's live table after {install_ms:.0} ms \
         ({install_ms_min:.0}-{install_ms_max:.0}), one after the other, on pages that nobody has touched before.\n"
    )
}

fn requests(requests: &Requests) -> String {
    let Requests { leases_per_second: four, rapid_leases_per_second: two, .. } = requests;
    let Requests { kea_leases_per_second: kea, first_frame_ms: first, first_frame_ms_max: last, .. } = requests;
    let kea = match kea {
        Some(kea) => format!("ISC Kea's DHCPv6 server, which does not wait for the disk: {kea:.0}."),
        None => "ISC Kea is not measured: run as root: apt-get install kea-dhcp6-server kea-admin.".to_owned(),
    };
    let limit = requests.limit_per_second.zip(requests.rapid_limit_per_second).map(|(four, two)| {
        format!("A server that grants every client the same and keeps nothing, the limit: {four:.0} and {two:.0}. ")
    });
    let limit = limit.unwrap_or_default();
    format!(
        "Flows leased by DHCPv6, on disk before they are acknowledged: {four:.0} a second by four messages, {two:.0} by \
         two. {limit}{kea} From a host's first message until the first frame to its flow's address has come out: {first:.1} ms (at \
         most {last:.1}).\n"
    )
}

/// A table below its title, with its columns' alignment; nothing if it has no rows.
fn table(title: &str, columns: &str, alignment: &str, rows: impl Iterator<Item = String>) -> String {
    let rows: String = rows.map(|row| format!("| {row} |\n")).collect();
    if rows.is_empty() { rows } else { format!("{title}\n\n| {columns} |\n| {alignment} |\n{rows}") }
}

fn spread(row: &Row) -> String {
    let digits = digits(row.ns_per_packet);
    format!("{:.digits$} ({:.digits$}-{:.digits$})", row.ns_per_packet, row.ns_min, row.ns_max)
}

fn number(value: f64) -> String {
    // A third digit says on which side of a bound such as 0.95 a figure is.
    if value < 2.0 { format!("{value:.3}") } else { format!("{value:.*}", digits(value)) }
}

/// Below a hundred, tenths mean something.
fn digits(value: f64) -> usize {
    usize::from(value < 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        figures,
        report::tests::{empty, row},
    };
    use serde_json::json;

    fn of(report: &Report) -> String {
        tables(report, &figures::all(report, &json!({})))
    }

    #[test]
    fn tables_replace_those_before_and_leave_the_text() {
        let page = format!("before\n{BEGIN}<former>\n{END}after\n");
        let tables = of(&empty());
        let page = with_tables(&page, &tables).expect("a place");
        assert!(page.starts_with("before\n") && page.ends_with("after\n") && !page.contains("<former>"), "{page}");
        assert!(page.contains("P, 2 virtual processors"), "{page}");
        assert_eq!(with_tables(&page, &tables).as_ref(), Some(&page), "drawn again, it is the same");
        assert_eq!(with_tables("no place", &tables), None);
    }

    #[test]
    fn what_could_not_be_measured_stands_in_the_table_with_the_reason() {
        let why = "ovs-vswitchd is not there;\nrun as root: apt-get install openvswitch-switch".to_owned();
        let left_out = vec![LeftOut { contestant: "ovs-af-xdp".into(), work: "unicast".into(), flows: 1, why }];
        let tables = of(&Report { left_out, ..empty() });
        let line = tables.lines().find(|line| line.starts_with("| ovs-af-xdp")).expect("a row");
        assert!(line.ends_with("apt-get install openvswitch-switch |  |"), "{line}");
    }

    #[test]
    fn a_look_up_is_what_a_million_flows_cost_more_than_one() {
        let rows = [("limit", MILLION, 200.0), ("hash-map", 1, 240.0), ("hash-map", MILLION, 600.0)];
        let rows = rows.map(|(name, flows, ns)| row(name, flows, ns)).into();
        assert!(of(&Report { rows, ..empty() }).contains("| hash-map | 240 | 600 | 360 | 400 |"));
    }
}
