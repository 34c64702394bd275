//! The loop around a live recorder: rings in, blocks out.

use super::capture::Parts;
use super::rings::{Read, RingSet};
use super::shard_thread::{BLOCK_AGE, Command, LAST_READ, Mailbox, RingLost};
use super::shunting::Shunting;
use crate::sandbox::{self, Role};
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
        if let Some(shunting) = &mut thread.shunting {
            shunting.sweep(&mut thread.recorder, &thread.rings);
        }
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
                        shunting.attach(&source);
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
        let Self { parts, recorder, rings, .. } = self;
        match rings.read(lost, &parts.rings, |frame, now| recorder.handle_frame(frame, now)) {
            Read::Frames => false,
            Read::Idle(now) => {
                if let Some(now) = now {
                    recorder.advance(now, rings.latest());
                }
                true
            }
        }
    }

    /// Capture never waits for the disk.
    fn hand_over(&mut self) {
        self.parts.take_events(&mut self.recorder, self.shunting.as_mut());
        while let Some(op) = self.recorder.poll_op() {
            if let Some(writer) = self.writer {
                writer.submit(op, WhenFull::Lose);
            }
        }
    }

    /// What is done once a second: the kernel's counts, and gotm's.
    fn count(&mut self) {
        self.rings.count(&self.parts.rings);
        if let Some(gotm) = &self.parts.gotm {
            gotm.publish(self.number, &self.told, self.recorder.stats(), self.recorder.flows());
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

/// How often the kernel's counters are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
