//! Generator and sink: the programs in `data-path/kernel/src/bench/path.rs`.

use crate::{
    Error, OBJECT,
    contestant::Sink,
    frame::{Traffic, header_sum, template},
    processor::{Priority, Processor, processors},
};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use flowlane_lab::{Link, Mac};
use std::time::Duration;

const GENERATOR: &str = "bench_generate";
/// Frames that the generator sends at once.
const BATCH: u32 = 64;
/// Words of the generator's state.
const RANDOM: usize = 0;
const SENT: usize = 1;
const ARRIVED_BEFORE: usize = 2;
const SUM: usize = 3;

/// Eight words, as the programs have them.
type Words = [u64; 8];

/// Generator and sink of one path.
pub(crate) struct Ends {
    object: Ebpf,
    state: Array<MapData, Words>,
    arrived: Array<MapData, Words>,
    /// Where the generator is run: the index of the interface that it sends by is of this namespace.
    source: Link,
    paced: bool,
}

/// What the sink has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Frames with the right addresses.
    pub right: u64,
    /// Frames with others.
    pub wrong: u64,
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Frames sent.
    pub frames: u64,
    /// Processor time of the thread that ran the generator, and so of all that its frames led to at once.
    pub busy: Duration,
    /// How long it took, in which the thread may have waited.
    pub took: Duration,
}

impl Ends {
    /// A generator that sends into the cable at `source`, and a sink where frames come out of the one at `destination`.
    ///
    /// With a window, the generator waits when so many frames are on the way, and for other threads of the processor.
    pub(crate) fn join(
        traffic: &Traffic,
        source: &Link,
        destination: &Link,
        sink: Sink,
        window: Option<u32>,
    ) -> Result<Self, Error> {
        let mut ends = Self::load(traffic, source, source.index()?, window)?;
        let index = destination.index()?;
        destination.netns().run(|| attach(&mut ends.object, sink, destination.name(), index))??;
        Ok(ends)
    }

    /// A generator alone, whose frames somebody else's sink counts.
    pub(crate) fn generator(traffic: &Traffic, source: &Link) -> Result<Self, Error> {
        Self::load(traffic, source, source.index()?, None)
    }

    /// A generator whose frames are dropped before they are sent.
    pub(crate) fn alone(traffic: &Traffic, source: &Link) -> Result<Self, Error> {
        Self::load(traffic, source, 0, None)
    }

    /// A generator without a sink, whose frames go into the cable at `source`. For [`Ends::flood`].
    pub(crate) fn into_cable(traffic: &Traffic, source: &Link) -> Result<Self, Error> {
        Self::load(traffic, source, source.index()?, None)
    }

    fn load(traffic: &Traffic, source: &Link, out: u32, window: Option<u32>) -> Result<Self, Error> {
        let (paced, window) = (window.is_some(), window.unwrap_or(0));
        let processors = u32::try_from(processors()).unwrap_or(1);
        let word = |address: Option<Mac>| address.map_or(0, Mac::to_u64);
        let (first_flow, mask) = (traffic.first.to_u64(), traffic.arriving_mask);
        let (to, from) = (word(traffic.destination), word(traffic.source));
        let (arriving_to, arriving_from) = (word(traffic.arriving_destination), word(traffic.arriving_source));
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("FLOWS", &traffic.flows, true)
            .override_global("FIRST_FLOW", &first_flow, true)
            .override_global("OUT", &out, true)
            .override_global("DESTINATION", &to, true)
            .override_global("SOURCE", &from, true)
            .override_global("ARRIVING_DESTINATION", &arriving_to, true)
            .override_global("ARRIVING_MASK", &mask, true)
            .override_global("ARRIVING_SOURCE", &arriving_from, true)
            .override_global("TRAFFIC_CLASS", &traffic.traffic_class, true)
            .override_global("WINDOW", &window, true)
            .override_global("PROCESSORS", &processors, true)
            .load(OBJECT)?;
        xdp(&mut object, GENERATOR)?.load().map_err(Error::program(GENERATOR))?;
        let (state, arrived) = (array(&mut object, "STATE")?, array(&mut object, "ARRIVED")?);
        Ok(Self { object, state, arrived, source: source.clone(), paced })
    }

    /// Sends frames on one processor, as fast as they go. The same seed gives the same flows in the same order.
    pub(crate) fn send(&mut self, frames: u32, frame_bytes: u32, seed: u32, on: &Processor) -> Result<Sent, Error> {
        let netns = self.source.netns().clone();
        netns.run(|| self.send_here(frames, frame_bytes, seed, on))?
    }

    /// The same from a thread that is in the source's namespace.
    pub(crate) fn send_here(
        &mut self,
        frames: u32,
        frame_bytes: u32,
        seed: u32,
        on: &Processor,
    ) -> Result<Sent, Error> {
        let priority = if self.paced { Priority::Behind } else { Priority::Ahead };
        let before = self.prepare(frame_bytes, seed)?;
        let (ran, busy) = on.time(priority, || self.run(frames, frame_bytes))?;
        let each = ran?;
        Ok(Sent { frames: self.sent()? - before, busy, took: each * frames })
    }

    /// Sends frames on whatever processor the caller is on, with no more right to it than others. How many went.
    pub(crate) fn flood(&mut self, frames: u32, frame_bytes: u32, seed: u32) -> Result<u64, Error> {
        let before = self.prepare(frame_bytes, seed)?;
        self.source.netns().run(|| self.run(frames, frame_bytes))??;
        Ok(self.sent()? - before)
    }

    /// Sets the generator's state for a run. What it counts from.
    fn prepare(&mut self, frame_bytes: u32, seed: u32) -> Result<u64, Error> {
        let mut state = Words::default();
        // Only who keeps to a window compares the two.
        let Seen { right, wrong } = if self.paced { self.seen()? } else { Seen::default() };
        let before = right + wrong;
        (state[RANDOM], state[SENT], state[ARRIVED_BEFORE]) = (u64::from(seed), before, before);
        state[SUM] = u64::from(header_sum(&template(frame_bytes)));
        self.state.set(0, state, 0).map_err(Error::map("STATE"))?;
        Ok(before)
    }

    /// Runs the generator. How long it took for each frame.
    fn run(&self, frames: u32, frame_bytes: u32) -> Result<Duration, Error> {
        let frame = template(frame_bytes);
        let generator = self.object.program(GENERATOR).ok_or(Error::Incomplete(GENERATOR))?;
        let generator: &Xdp = generator.try_into().map_err(Error::program(GENERATOR))?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        Ok(generator.test_run(options).map_err(Error::program(GENERATOR))?.duration)
    }

    fn sent(&self) -> Result<u64, Error> {
        Ok(self.state.get(&0, 0).map_err(Error::map("STATE"))?[SENT])
    }

    /// What the sink has seen since it is there.
    pub(crate) fn seen(&self) -> Result<Seen, Error> {
        let mut seen = Seen::default();
        for words in self.arrived.iter() {
            let [right, wrong, ..] = words.map_err(Error::map("ARRIVED"))?;
            seen.right += right;
            seen.wrong += wrong;
        }
        Ok(seen)
    }
}

fn attach(object: &mut Ebpf, sink: Sink, interface: &str, index: u32) -> Result<(), Error> {
    match sink {
        Sink::Xdp => {
            const NAME: &str = "bench_sink_xdp";
            attach_xdp(object, NAME, index)
        }
        Sink::Tc => {
            const NAME: &str = "bench_sink_tc";
            attach_tc(object, NAME, interface)
        }
    }
}

/// Runs a program at the driver. It is detached with the object.
pub(crate) fn attach_xdp(object: &mut Ebpf, name: &'static str, index: u32) -> Result<(), Error> {
    let program = xdp(object, name)?;
    program.load().map_err(Error::program(name))?;
    program.attach_to_if_index(index, XdpMode::Driver).map_err(Error::program(name))?;
    Ok(())
}

/// Runs a program on socket buffers that come in. It is detached with the object.
pub(crate) fn attach_tc(object: &mut Ebpf, name: &'static str, interface: &str) -> Result<(), Error> {
    let failed = Error::program(name);
    let program = object.program_mut(name).ok_or(Error::Incomplete(name))?;
    let program: &mut SchedClassifier = program.try_into().map_err(&failed)?;
    program.load().map_err(&failed)?;
    program.attach(interface, TcAttachType::Ingress).map_err(&failed)?;
    Ok(())
}

fn xdp<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    object.program_mut(name).ok_or(Error::Incomplete(name))?.try_into().map_err(Error::program(name))
}

fn array(object: &mut Ebpf, name: &'static str) -> Result<Array<MapData, Words>, Error> {
    Array::try_from(object.take_map(name).ok_or(Error::Incomplete(name))?).map_err(Error::map(name))
}
