//! The loop around a live recorder: rings in, blocks out.

use super::capture::Parts;
use super::rings::{Read, RingSet};
use super::shard_thread::{BLOCK_AGE, Command, LAST_READ, Mailbox, RingLost};
use super::shunting::Shunting;
use crate::sandbox::{self, Role};
use crate::spool::cutoff::Seen;
use crate::spool::recorder::{Recorder, Stats};
use crate::spool::report::Report;
use crate::spool::writer::{SpoolWriter, WhenFull};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// Runs a recorder until it is told to finish; with the report of what passed. Without a writer nothing is written.
pub(super) fn run(
    parts: &Parts,
    number: usize,
    shunting: Option<Shunting>,
    writer: Option<&SpoolWriter>,
    mailbox: &Mailbox,
    lost: &UnboundedSender<RingLost>,
) -> Report {
    sandbox::narrow(Role::Shard);
    let mut thread = CaptureThread {
        parts,
        number,
        recorder: parts.recorder(),
        shunting,
        writer,
        rings: RingSet::default(),
        published: Stats::default(),
        told: Stats::default(),
        expired: (Instant::now(), 0),
        flows: 0,
        housekeeping: Instant::now(),
    };
    loop {
        mailbox.beats.fetch_add(1, Ordering::Relaxed);
        if thread.take_mail(mailbox) {
            break;
        }
        thread.rings.watch_clock(&parts.rings);
        let idle = thread.read_rings(lost);
        thread.shunt();
        thread.hand_over();
        thread.publish();
        if thread.housekeeping.elapsed() >= HOUSEKEEPING {
            thread.housekeeping = Instant::now();
            thread.count();
        }
        if idle {
            thread.rings.sleep(mailbox.wake.as_fd());
            let _ = mailbox.wake.read();
        }
    }
    thread.finish(lost)
}

struct CaptureThread<'a> {
    parts: &'a Parts,
    number: usize,
    recorder: Recorder,
    shunting: Option<Shunting>,
    writer: Option<&'a SpoolWriter>,
    rings: RingSet,
    published: Stats,
    /// What gotm's metrics know.
    told: Stats,
    /// When gotm's metrics were told of ended flows, and how many had ended then.
    expired: (Instant, u64),
    /// Flows that the gauge knows of.
    flows: usize,
    housekeeping: Instant,
}

impl CaptureThread<'_> {
    /// Does what the control plane says; true if that is to finish.
    fn take_mail(&mut self, mailbox: &Mailbox) -> bool {
        for command in mailbox.take_commands() {
            match command {
                Command::Add(source) => {
                    self.recorder.set_name(source.interface_index(), source.interface());
                    if let Some(shunting) = &self.shunting {
                        shunting.meet(&source);
                    }
                    self.rings.add(source);
                }
                Command::Remove(index) => self.rings.remove(index, &self.parts.rings),
                Command::Suspend(target) => {
                    self.recorder.suspend(target);
                    if let Some(shunting) = &mut self.shunting {
                        shunting.suspend(target);
                    }
                }
                Command::Resume(target) => self.recorder.resume(target),
                Command::Finish => return true,
                // Addresses matter only where some are masked.
                Command::Local(_) => {}
            }
        }
        false
    }

    fn read_rings(&mut self, lost: &UnboundedSender<RingLost>) -> bool {
        let Self { parts, number, recorder, rings, .. } = self;
        let read = rings.read(lost, &parts.rings, |frame, now| recorder.handle_frame(frame, now));
        if let Some(gotm) = &parts.gotm {
            let begin = Instant::now();
            recorder.advance(rings.now(), rings.latest());
            gotm.expiring(*number, begin.elapsed());
        }
        match read {
            Read::Frames => false,
            Read::Idle(now) => {
                if let Some(now) = now {
                    recorder.advance(now, rings.latest());
                }
                true
            }
        }
    }

    /// Tells the recorder what the kernel has dropped of flows that are cut off.
    fn shunt(&mut self) {
        let Self { shunting, recorder, rings, .. } = self;
        let Some(shunting) = shunting else { return };
        shunting.turn(rings, |tuple, direction, more| {
            let payload = more.bytes.saturating_sub(more.packets * HEADERS);
            recorder.cutoff_mut().note_unseen(tuple, direction, Seen { packets: more.packets, bytes: payload }, rings.now());
        });
    }

    /// Capture never waits for the disk.
    fn hand_over(&mut self) {
        self.parts.take_events(&mut self.recorder, self.shunting.as_mut());
        while let Some(op) = self.recorder.poll_op() {
            if let Some(writer) = self.writer {
                writer.submit(op, WhenFull::Lose);
                if let Some(memory) = writer.spare() {
                    self.recorder.recycle(memory);
                }
            }
        }
    }

    /// What is done once a second: the kernel's counts, and gotm's.
    fn count(&mut self) {
        self.rings.count(&self.parts.rings);
        if let Some(gotm) = &self.parts.gotm {
            let stats = self.recorder.stats();
            gotm.publish(self.number, &self.told, stats, self.recorder.flows());
            if self.expired.0.elapsed() >= gotm.interval() {
                let ended = stats.flows_ended.iter().sum();
                gotm.expired(self.number, ended - self.expired.1);
                self.expired = (Instant::now(), ended);
            }
            // The program's runs are those of all workers; one of them tells.
            if self.number == 0 {
                let commands = |outcome| self.parts.metrics.commands.with_label_values(&[outcome]).get();
                gotm.filtered(commands("ok"), commands("failed") + commands("skipped"));
            }
            self.told.clone_from(self.recorder.stats());
            for (interface, stats) in self.rings.stats() {
                gotm.ring(interface, self.number, stats.received, stats.dropped, stats.if_dropped);
            }
        }
    }

    fn publish(&mut self) {
        self.published = self.parts.publish(&self.recorder, &self.published);
        let flows = self.recorder.flows();
        self.parts.metrics.flows.add(flows as i64 - self.flows as i64);
        self.flows = flows;
    }

    /// Reads what is still in the rings, ends all flows and hands over.
    fn finish(mut self, lost: &UnboundedSender<RingLost>) -> Report {
        // The youngest frames lie in blocks that the kernel hands over when they are full or have aged.
        std::thread::sleep(BLOCK_AGE);
        let deadline = Instant::now() + LAST_READ;
        while !self.read_rings(lost) && Instant::now() < deadline {
            self.hand_over();
        }
        self.count();
        self.recorder.finish(self.rings.now());
        self.hand_over();
        self.publish();
        self.recorder.report().clone()
    }
}

/// What is not payload of a frame whose headers nobody reads: Ethernet, IPv4, TCP with timestamps.
const HEADERS: u64 = 66;
/// How often the kernel's counters are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
