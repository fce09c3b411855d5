//! docs/performance.svg: what a frame costs as flows become more.
//!
//! The ground is white, so that it can be read on a dark page as well.

use super::report::{Report, Row};
use plotters::{
    chart::ChartBuilder,
    coord::{Shift, combinators::IntoLogRange},
    drawing::DrawingArea,
    element::{Circle, PathElement, Text},
    prelude::{DrawingAreaErrorKind, IntoDrawingArea, SVGBackend},
    series::LineSeries,
    style::{BLACK, Color, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE},
};
use std::{error::Error, ops::Range};

const SIZE: (u32, u32) = (1000, 600);
/// Where the legend begins, the distance of its lines, and the length of its samples.
const LEGEND: u32 = 790;
const LINE: i32 = 24;
const SAMPLE: i32 = 28;
const FONT: (&str, i32) = ("sans-serif", 15);
/// Contestants in the picture. Colours are told apart by the colour-blind (Okabe and Ito) as far as there are so many; peers
/// have darker ones than the executor that they are compared with.
const SHOWN: [(&str, RGBColor); 11] = [
    ("ovs-af-packet", RGBColor(120, 53, 0)),
    ("flowlane-af-packet", RGBColor(213, 94, 0)),
    ("ovs-af-xdp", RGBColor(110, 50, 90)),
    ("flowlane-af-xdp", RGBColor(204, 121, 167)),
    ("linux-routing", RGBColor(150, 130, 20)),
    ("linux-bridge", RGBColor(230, 159, 0)),
    ("flowlane-tc", RGBColor(86, 180, 233)),
    ("tc-limit", RGBColor(130, 130, 130)),
    ("hash-map", RGBColor(0, 158, 115)),
    ("flowlane-xdp", RGBColor(0, 114, 178)),
    ("limit", BLACK),
];
const FLOWS: Range<f64> = 0.7..1_500_000.0;
/// Above the slowest and below the fastest contestant, as a factor.
const ROOM: f64 = 1.25;
const FRAME_BYTES: u32 = 64;

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The picture, as text.
pub(super) fn draw(report: &Report) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    draw_into(&mut text, report).map_err(|error| error.to_string())?;
    Ok(text + "\n")
}

fn draw_into(text: &mut String, report: &Report) -> Drawn {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(LEGEND);
    let mut lines: Vec<_> = SHOWN.map(|(name, color)| (name, color, points(&report.rows, name))).into();
    lines.retain(|(.., points)| !points.is_empty());
    chart(&left, &lines)?;
    // The slowest first, as the lines are.
    let last = |points: &[(f64, f64)]| points.last().map_or(0.0, |(_, ns)| *ns);
    lines.sort_by(|(.., one), (.., other)| last(other).total_cmp(&last(one)));
    legend(&right, &lines)?;
    area.present()
}

/// A contestant, its colour, and its nanoseconds by flows.
type Line = (&'static str, RGBColor, Vec<(f64, f64)>);

fn chart(area: &Area<'_>, lines: &[Line]) -> Drawn {
    let mut chart = ChartBuilder::on(area)
        .caption("What forwarding a frame of 64 octets costs", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(52)
        .y_label_area_size(76)
        .build_cartesian_2d(FLOWS.log_scale(), nanoseconds(lines).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("flows, each frame of a random one")
        .y_desc("processor time for each frame, with generator and sink: nanoseconds")
        .axis_desc_style(FONT)
        .label_style(FONT)
        .max_light_lines(0)
        .x_label_formatter(&|flows| short(*flows))
        .y_label_formatter(&|ns| format!("{ns:.0}"))
        .draw()?;
    for (name, color, points) in lines {
        chart.draw_series(LineSeries::new(points.iter().copied(), stroke(name, *color)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, color.filled())))?;
    }
    Ok(())
}

/// What the picture reaches from and to: what lies outside would be drawn at its edge.
fn nanoseconds(lines: &[Line]) -> Range<f64> {
    let all = || lines.iter().flat_map(|(.., points)| points).map(|(_, ns)| *ns);
    let (least, greatest) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    if least > greatest { 100.0..10_000.0 } else { least / ROOM..greatest * ROOM }
}

fn legend(area: &Area<'_>, lines: &[Line]) -> Drawn {
    let style: TextStyle<'_> = FONT.into_font().into();
    for (number, (name, color, _)) in (0..).zip(lines) {
        let y = 64 + LINE * number;
        area.draw(&PathElement::new([(0, y), (SAMPLE, y)], stroke(name, *color)))?;
        area.draw(&Circle::new((SAMPLE / 2, y), 4, color.filled()))?;
        area.draw(&Text::new((*name).to_owned(), (SAMPLE + 8, y - FONT.1 / 2), style.clone()))?;
    }
    Ok(())
}

/// Lines of ours are thicker than others.
fn stroke(name: &str, color: RGBColor) -> ShapeStyle {
    color.stroke_width(if name.starts_with("flowlane") { 3 } else { 1 })
}

/// A power of ten, in few letters.
fn short(flows: f64) -> String {
    match flows {
        1_000_000.0.. => format!("{:.0} M", flows / 1e6),
        1_000.0.. => format!("{:.0} k", flows / 1e3),
        _ => format!("{flows:.0}"),
    }
}

/// Flows and nanoseconds of a contestant's plain forwarding.
fn points(rows: &[Row], contestant: &str) -> Vec<(f64, f64)> {
    let shown = |row: &&Row| {
        row.valid
            && row.contestant == contestant
            && (row.work.as_str(), row.frame_bytes) == ("unicast", FRAME_BYTES)
            && row.mode != "micro"
    };
    rows.iter().filter(shown).map(|row| (f64::from(row.flows), row.ns_per_packet)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{empty, row};

    #[test]
    fn a_contestant_that_was_measured_has_a_line_in_the_legend() {
        let rows = vec![row("flowlane-xdp", 1, 245.0), row("flowlane-xdp", 1_000_000, 380.0)];
        let picture = draw(&Report { rows, ..empty() }).expect("drawn");
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
        assert!(picture.contains("flowlane-xdp") && !picture.contains("linux-bridge"));
    }

    #[test]
    fn every_point_has_its_place() {
        let line = |fastest| ("limit", BLACK, vec![(1.0, fastest), (1e6, 300.0)]);
        for fastest in [8.0, 85.0, 223.0] {
            let range = nanoseconds(&[line(fastest), ("ovs-af-packet", BLACK, vec![(1.0, 20_000.0)])]);
            assert!(range.start < fastest && range.end > 20_000.0, "{range:?}");
        }
    }

    #[test]
    fn powers_of_ten_are_short() {
        assert_eq!([1.0, 100.0, 1e4, 1e6].map(short), ["1", "100", "10 k", "1 M"]);
    }
}
