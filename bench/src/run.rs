//! All cases, in turns.

use crate::{
    Case, Contestant, Control, Error, Machine, Plan, Progress, Report, Work,
    alone::Alone,
    measure::{Course, Sample, generator_mpps},
    micro,
    processor::Processor,
    report::{LeftOut, rows},
    switch::remove_old_pins,
    tcp,
};
use std::time::Duration;

/// Measurements of one contestant with frames of one length, by round.
pub(crate) struct Series {
    pub contestant: Contestant,
    pub work: Work,
    pub flows: u32,
    pub frame_bytes: u32,
    pub samples: Vec<Sample>,
}

/// Measures all cases of a plan. Needs root. A contestant that can not be measured is left out, and the report says why.
///
/// Waits while another benchmark measures on this machine.
///
/// # Errors
/// [`Error`] where nothing at all can be measured.
pub fn run(plan: &Plan, progress: &mut dyn Progress) -> Result<Report, Error> {
    progress.begin(steps(plan));
    progress.step("other benchmarks of this machine have to end");
    let _alone = Alone::wait()?;
    remove_old_pins();
    let on = Processor::last()?;
    progress.step("the generator alone");
    let generator_mpps = generator_mpps(&on)?;
    let mut report = Report::new(plan, Machine::this(), generator_mpps);
    for flows in plan.flows() {
        let cases: Vec<&Case> = plan.cases.iter().filter(|case| case.flows == flows).collect();
        report.rows.extend(rows(&in_turns(plan, &cases, &on, progress, &mut report.left_out)));
    }
    if plan.tcp {
        (report.tcp, report.tcp_left_out) = tcp::measure(plan.repeats, progress);
    }
    let (rows, left_out) = micro::measure(&plan.micro, plan.repeats, &on, progress);
    report.rows.extend(rows);
    report.left_out.extend(left_out);
    if plan.install {
        progress.step("a million flows into a live table");
        report.control = Some(Control::measure(plan.repeats)?);
    }
    Ok(report)
}

fn steps(plan: &Plan) -> u64 {
    let repeats = u64::from(plan.repeats);
    let cases: u64 = plan.cases.iter().map(|case| 1 + repeats * case.frame_bytes.len() as u64).sum();
    let tcp = if plan.tcp { repeats * tcp::CONTESTANTS.len() as u64 } else { 0 };
    2 + cases + tcp + repeats * plan.micro.len() as u64 + u64::from(plan.install)
}

/// A contestant that stands ready, and what has been measured of it.
struct Stand {
    course: Course,
    /// For each length of frames, how many fill a window.
    series: Vec<(u32, Series)>,
}

/// Sets all up, then measures each once a round.
fn in_turns(
    plan: &Plan,
    cases: &[&Case],
    on: &Processor,
    progress: &mut dyn Progress,
    left_out: &mut Vec<LeftOut>,
) -> Vec<Series> {
    let mut stands = Vec::new();
    for case in cases {
        progress.step(&format!("{} is set up for {} flows", case.contestant.name(), case.flows));
        let steps = u64::from(plan.repeats) * case.frame_bytes.len() as u64;
        match Stand::set_up(case, plan.window, on) {
            Ok(stand) => stands.push(stand),
            Err(why) => left_out.push(LeftOut::tell(case, &why, steps, progress)),
        }
    }
    for round in 1..=plan.repeats {
        stands.retain_mut(|stand| match stand.measure(round, on, progress) {
            Ok(()) => true,
            Err(why) => {
                let steps = u64::from(plan.repeats - round) * stand.series.len() as u64;
                left_out.push(LeftOut::tell(&stand.course.case, &why, steps, progress));
                false
            }
        });
    }
    stands.into_iter().flat_map(|stand| stand.series).map(|(_, series)| series).collect()
}

impl Stand {
    fn set_up(case: &Case, window: Duration, on: &Processor) -> Result<Self, Error> {
        let Case { contestant, work, flows, frame_bytes } = *case;
        let mut course = Course::set_up(case, on)?;
        let mut series = Vec::new();
        for &frame_bytes in frame_bytes {
            let frames = course.frames_in(window, frame_bytes, on)?;
            series.push((frames, Series { contestant, work, flows, frame_bytes, samples: Vec::new() }));
        }
        Ok(Self { course, series })
    }

    fn measure(&mut self, round: u32, on: &Processor, progress: &mut dyn Progress) -> Result<(), Error> {
        for (frames, series) in &mut self.series {
            let Series { contestant, work, flows, frame_bytes, .. } = *series;
            let (name, work) = (contestant.name(), work.name());
            progress.step(&format!("{name}: {work}, {flows} flows, {frame_bytes} octets, round {round}"));
            series.samples.push(self.course.measure(*frames, frame_bytes, round, on)?);
        }
        Ok(())
    }
}
