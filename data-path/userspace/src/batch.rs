//! A batch of frames: decided for together, then carried out in order.

use crate::{Control, Seen, Senders, Work, copies};
use flowlane_pipeline::{Tables as _, Verdict, give_back, is_flagged, run_batch, size, withdraw};
use flowlane_ports::af_packet::{Offload, RxFrame};
use flowlane_tables::{End, SNAP};
use flowlane_wire::PortId;

/// What a thread does with its frames.
pub(crate) struct Batch<C> {
    work: Work<C>,
    senders: Senders,
    verdicts: Vec<Verdict>,
    /// How the frames have ended, by place.
    ends: Vec<End>,
    outgoing: Vec<Outgoing>,
    /// The copies to be shown, with the places of the frames.
    copies: Vec<(usize, Seen)>,
}

/// One frame of a batch that is to be sent.
struct Outgoing {
    place: usize,
    egress: PortId,
    end: End,
    segments: u64,
}

impl<C: Control> Batch<C> {
    pub(crate) fn new(work: Work<C>, senders: Senders) -> Self {
        let (verdicts, ends, outgoing, copies) = Default::default();
        Self { work, senders, verdicts, ends, outgoing, copies }
    }

    /// Handles frames that have come in.
    pub(crate) fn handle(&mut self, frames: &mut [RxFrame<'_>]) {
        let before: Vec<_> = if self.work.show { frames.iter().map(snap).collect() } else { Vec::new() };
        let mut verdicts = std::mem::take(&mut self.verdicts);
        verdicts.clear();
        self.ends.clear();
        run_batch(frames, self.work.port, self.work.tables.as_ref(), |_, verdict| verdicts.push(verdict));
        for (place, verdict) in verdicts.iter().enumerate() {
            let end = self.carry_out(frames, place, *verdict);
            self.ends.push(end);
        }
        self.send(frames);
        for (place, (before, verdict)) in before.into_iter().zip(&verdicts).enumerate() {
            self.show(frames, place, *verdict, before);
        }
        self.verdicts = verdicts;
    }

    /// Counts frames that came in by the port.
    pub(crate) fn count(&self, end: End, frames: u64) {
        if frames > 0 {
            self.work.tables.count(self.work.port, end, frames);
        }
    }

    /// How the frame ends. What is to be forwarded is sent later, and counted then.
    fn carry_out(&mut self, frames: &mut [RxFrame<'_>], place: usize, verdict: Verdict) -> End {
        let Some(frame) = frames.get_mut(place) else { return verdict.end() };
        let segments = size(frame).frames;
        let end = match verdict {
            Verdict::Forward { port: egress, end } => {
                self.outgoing.push(Outgoing { place, egress, end, segments });
                return end;
            }
            Verdict::Replicate { slot, group } => {
                // What came before it leaves before it.
                self.send(frames);
                let Some(frame) = frames.get_mut(place) else { return verdict.end() };
                let (end, copies) = copies::send(&self.work, frame, slot, group, &mut self.senders);
                self.copies.extend(copies.into_iter().map(|copy| (place, copy)));
                end
            }
            Verdict::Resolve { slot } if !self.work.control.wait(slot, self.work.port, frame) => {
                self.work.tables.slot(slot).inspect(|slot| give_back(slot));
                End::QueueFull
            }
            Verdict::Ask if !self.work.control.ask(self.work.port, frame) => {
                self.work.tables.port(self.work.port).inspect(|port| withdraw(port));
                End::FlagRefused
            }
            Verdict::ToLinux(end) => {
                self.work.control.give_to_linux(frame.bytes);
                end
            }
            // Linux has not seen it: flagged packets are kept from it.
            Verdict::Pass if self.work.flag.is_some_and(|flag| is_flagged(frame, flag)) => {
                self.work.control.give_to_linux(frame.bytes);
                End::Pass
            }
            other => other.end(),
        };
        self.count(end, segments);
        end
    }

    /// Sends what is to be sent: runs of frames for one port with one call, in the order in which they came.
    fn send(&mut self, frames: &[RxFrame<'_>]) {
        let outgoing = std::mem::take(&mut self.outgoing);
        for run in outgoing.chunk_by(|a, b| (a.egress, a.end) == (b.egress, b.end)) {
            let Some(first) = run.first() else { continue };
            let ifindex = self.work.tables.port(first.egress).map_or(0, |port| port.ifindex());
            let octets = run.iter().filter_map(|out| frames.get(out.place));
            let octets: Vec<(&[u8], Offload)> = octets.map(|frame| (&*frame.bytes, frame.offload)).collect();
            let sent = self.senders.send(ifindex, &octets);
            let segments = |run: &[Outgoing]| run.iter().map(|out| out.segments).sum();
            let (sent, not_sent) = run.split_at(sent.min(run.len()));
            self.count(first.end, segments(sent));
            self.count(End::NotSent, segments(not_sent));
            for out in not_sent {
                self.ends.get_mut(out.place).into_iter().for_each(|end| *end = End::NotSent);
            }
        }
        self.outgoing = outgoing;
        self.outgoing.clear();
    }

    /// Shows a frame and its copies.
    fn show(&mut self, frames: &[RxFrame<'_>], place: usize, verdict: Verdict, before: Vec<u8>) {
        let (Some(frame), Some(end)) = (frames.get(place), self.ends.get(place).copied()) else { return };
        let egress = match verdict {
            Verdict::Forward { port, .. } if end != End::NotSent => Some(port),
            _ => None,
        };
        let (at, ingress, length, after) = (frame.timestamp, self.work.port, frame.bytes.len(), snap(frame));
        self.work.control.show(Seen { at, ingress, egress, end, copy: false, length, before, after });
        let copies = self.copies.extract_if(.., |(of, _)| *of == place);
        copies.for_each(|(_, copy)| self.work.control.show(copy));
    }
}

/// As much of a frame as is shown.
pub(crate) fn snap(frame: &RxFrame<'_>) -> Vec<u8> {
    frame.bytes.get(..SNAP.min(frame.bytes.len())).unwrap_or_default().to_vec()
}
