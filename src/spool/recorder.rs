//! One thread's way from a frame to the writer: filter, cutoff, block.
//!
//! No I/O, no clock, no thread.

use super::block::{Blocks, SpoolOp};
use super::cutoff::{Cutoff, FlowEvent, Target, Verdict};
use super::filter::{Filter, Matcher};
use super::report::Report;
use crate::capture::Frame;
use crate::packet::parse;
use crate::time::Timestamp;
use std::collections::VecDeque;

/// Decides about frames and collects those that are kept.
#[derive(Debug)]
pub struct Recorder {
    filter: Option<Matcher>,
    cutoff: Cutoff,
    blocks: Blocks,
    events: VecDeque<FlowEvent>,
    stats: Stats,
}

/// What a recorder has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Frames by verdict, in the order of its variants.
    pub frames: [u64; 5],
    /// Frames that the filter does not mean.
    pub filtered: u64,
    /// Bytes on the wire of all frames.
    pub bytes_seen: u64,
    /// Captured bytes of the frames that are kept.
    pub bytes_kept: u64,
    /// Held frames that were kept when their flow ended.
    pub tail_frames: u64,
    /// Flows begun in each class, those of none last.
    pub flows_started: Vec<u64>,
    /// Flows ended by reason, in the order of its variants.
    pub flows_ended: [u64; 5],
    /// Flows, or directions of flows, that reached the cutoff.
    pub flows_cut_off: u64,
    /// Times that a flow was told as large.
    pub large_flows: u64,
}

impl Recorder {
    /// A recorder that has seen nothing.
    pub fn new(filter: Option<&Filter>, cutoff: Cutoff, blocks: Blocks) -> Self {
        Self { filter: filter.map(Filter::matcher), cutoff, blocks, events: VecDeque::new(), stats: Stats::default() }
    }

    /// Takes a frame.
    pub fn handle_frame(&mut self, frame: &Frame<'_>, now: Timestamp) {
        self.stats.bytes_seen += u64::from(frame.wire_len);
        // Another stream's block may be due by the time of this frame.
        self.blocks.advance(now, frame.ts);
        if self.filter.as_mut().is_some_and(|f| !f.matches(frame.link, frame.data)) {
            self.stats.filtered += 1;
            return;
        }
        let (tuple, verdict) = self.cutoff.handle_frame(frame, now);
        self.take_events(now);
        self.stats.frames[verdict as usize] += 1;
        // An end behind the cutoff may carry payload, for which there is no room any more: its headers tell the end.
        let data = match verdict {
            Verdict::Kept | Verdict::KeptSuspended => frame.data,
            Verdict::KeptEnd => headers(frame),
            Verdict::Held | Verdict::CutOff => return,
        };
        self.stats.bytes_kept += data.len() as u64;
        self.blocks.handle_frame(&Frame { data, ..*frame }, tuple, now);
    }

    /// Goes on in time without a frame: `latest` is the time that captures have reached.
    pub fn advance(&mut self, now: Timestamp, latest: Timestamp) {
        self.cutoff.advance(now);
        self.take_events(now);
        self.blocks.advance(now, latest);
    }

    /// Ends all flows and seals all blocks.
    pub fn finish(&mut self, now: Timestamp) {
        self.cutoff.finish();
        self.take_events(now);
        self.blocks.finish();
    }

    /// Keeps everything of some flows.
    pub fn suspend(&mut self, target: Target) {
        self.cutoff.suspend(target);
    }

    /// Lets the cutoff hold for them again.
    pub fn resume(&mut self, target: Target) {
        self.cutoff.resume(target);
    }

    /// Names an interface.
    pub fn set_name(&mut self, interface: u32, name: &str) {
        self.blocks.set_name(interface, name);
    }

    /// The next thing for the writer.
    pub fn poll_op(&mut self) -> Option<SpoolOp> {
        self.blocks.poll_op()
    }

    /// Takes back the memory of a block that was written.
    pub fn recycle(&mut self, data: Vec<u8>) {
        self.blocks.recycle(data);
    }

    /// What has happened to a flow next.
    pub fn poll_event(&mut self) -> Option<FlowEvent> {
        self.events.pop_front()
    }

    /// The cutoff, for those who know of packets that no frame told of.
    pub fn cutoff_mut(&mut self) -> &mut Cutoff {
        &mut self.cutoff
    }

    /// What was done.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Flows followed now.
    pub fn flows(&self) -> usize {
        self.cutoff.flows()
    }

    /// What cutoffs would keep.
    pub fn report(&self) -> &Report {
        self.cutoff.report()
    }

    fn take_events(&mut self, now: Timestamp) {
        self.stats.flows_started.resize(self.cutoff.started().len(), 0);
        self.stats.flows_started.copy_from_slice(self.cutoff.started());
        while let Some(event) = self.cutoff.poll_event() {
            match event {
                FlowEvent::CutOff(..) => self.stats.flows_cut_off += 1,
                FlowEvent::Ended(_, reason, _) => self.stats.flows_ended[reason as usize] += 1,
                FlowEvent::Large(..) => self.stats.large_flows += 1,
            }
            self.events.push_back(event);
        }
        while let Some(tail) = self.cutoff.poll_tail() {
            self.stats.tail_frames += 1;
            self.stats.bytes_kept += tail.data.len() as u64;
            let frame =
                Frame { ts: tail.ts, wire_len: tail.wire_len, link: tail.link, interface: tail.interface, data: &tail.data };
            self.blocks.handle_frame(&frame, tail.tuple, now);
        }
    }
}

/// The headers of a frame with a TCP packet.
fn headers<'a>(frame: &Frame<'a>) -> &'a [u8] {
    let len = parse(frame.link, frame.data).map_or(0, |packet| packet.header_len);
    &frame.data[..len.min(frame.data.len())]
}
