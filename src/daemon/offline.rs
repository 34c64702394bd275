//! Replays capture files: one reader, N shard threads, the same shard code as live.
//!
//! The reader alone keeps time. Every frame and event carries the `now` at which it is handled, so what a shard does
//! depends on the input only, and the archive is the same at any number of shards.

use super::{Parts, memory};
use crate::archive::pool::{BACKLOG, Finisher};
use crate::capture::file::FileSource;
use crate::capture::{Frame, LinkType, PacketSource, Progress};
use crate::cli::config::CaptureFile;
use crate::cli::one_line;
use crate::flow::ledger::Charge;
use crate::identity::Announcement;
use crate::packet::{self, FrameBatch};
use crate::sandbox::{self, Role};
use crate::shard::{EndReason, Shard};
use crate::time::{Timeline, Timestamp};
use anyhow::{Context, Result, anyhow};
use foldhash::fast::FixedState;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;
use tracing::{info, warn};

/// Replays the files one after the other with these events, archives all, and returns when all is on disk.
///
/// # Errors
/// Fails when a file could not be read to its end, because it is damaged or because of `stop`; everything before that, and
/// the other files where one is damaged, are archived first.
pub(super) fn run(
    parts: &Parts,
    files: &[CaptureFile],
    mut events: Vec<(Timestamp, Arc<Announcement>)>,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    events.sort_by_key(|(at, _)| *at);
    thread::scope(|scope| {
        let mut feeds = Vec::new();
        let mut threads = Vec::new();
        for n in 0..parts.config.shards {
            let (feed, batches) = sync_channel(QUEUE);
            feeds.push(Feed { batch: Batch::default(), queue: feed });
            let shard = parts.shard(n as u16, false);
            threads.push(
                thread::Builder::new()
                    .name(format!("shard-{n}"))
                    .spawn_scoped(scope, move || serve(parts, shard, &batches))
                    .with_context(|| format!("start shard {n}"))?,
            );
        }
        // What is in the files is others' from here on.
        sandbox::narrow(Role::Files);
        let charge = parts.ledger.charge(events.len() * EVENT_COST);
        let events = events.into_iter().peekable();
        let mut reader = Reader { parts, stop, feeds, timeline: Timeline::new(), events, charge, frames: 0, flushes: 0 };
        let mut damaged = Vec::new();
        for (number, file) in files.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // What is cut by a signal is not damaged.
            if let Err(error) = reader.read(number as u32, file)
                && !stop.load(Ordering::Relaxed)
            {
                let error = one_line(&error);
                warn!("{error}");
                damaged.push(error);
            }
        }
        let frames = reader.frames;
        let stopped = stop.load(Ordering::Relaxed);
        reader.finish(if stopped { EndReason::Shutdown } else { EndReason::EndOfInput });
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a shard thread panicked: this is a bug, and its flows are not archived"))?;
        }
        info!(frames, files = files.len(), "replayed");
        match &damaged[..] {
            [] if stopped => Err(anyhow!("stopped after {frames} frames, which are archived")),
            [] => Ok(()),
            [one] => Err(anyhow!("{one}")),
            [first, rest @ ..] => Err(anyhow!("{first} (and {} more files)", rest.len())),
        }
    })
}

struct Reader<'a> {
    parts: &'a Parts,
    stop: &'a Arc<AtomicBool>,
    feeds: Vec<Feed>,
    timeline: Timeline,
    events: std::iter::Peekable<std::vec::IntoIter<(Timestamp, Arc<Announcement>)>>,
    /// What those that are to come take.
    charge: Charge,
    frames: u64,
    flushes: u64,
}

/// A stream that ends when reading is to stop, even where nothing comes from it: a pipe may be silent for hours.
struct Stoppable {
    input: File,
    stop: Arc<AtomicBool>,
}

impl Stoppable {
    /// Standard input, without the buffer that `std` puts before it: what lay in there would not show in a poll.
    fn stdin(stop: Arc<AtomicBool>) -> io::Result<Self> {
        Ok(Self { input: io::stdin().as_fd().try_clone_to_owned()?.into(), stop })
    }

    /// A pipe with a name. Opening it does not wait for who writes; reading does (pipe_poll in fs/pipe.c tells of no end before
    /// somebody has opened the other one).
    fn named(path: &Path, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let input = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        Ok(Self { input, stop })
    }
}

/// Opens a capture file, reading of which ends when `stop` is set, also where it is a pipe that is silent.
///
/// # Errors
/// Fails when it cannot be opened or read, or is no capture file.
pub(super) fn open(file: &CaptureFile, stop: &Arc<AtomicBool>) -> Result<FileSource> {
    let stop = Arc::clone(stop);
    let (name, input) = match file {
        CaptureFile::Path(path) if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) => {
            let input = Stoppable::named(path, stop).with_context(|| format!("open the pipe {}", path.display()))?;
            (path.display().to_string(), input)
        }
        CaptureFile::Path(path) => return Ok(FileSource::open(path)?),
        CaptureFile::Stdin => ("standard input".to_owned(), Stoppable::stdin(stop).context("duplicate standard input")?),
    };
    Ok(FileSource::from_reader(name, Box::new(input))?)
}

impl Read for Stoppable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut fds = [PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(PATIENCE_MILLIS)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => match self.input.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(0)
    }
}

struct Feed {
    batch: Batch,
    queue: SyncSender<Batch>,
}

/// Frames and events for one shard, in order.
#[derive(Default)]
struct Batch {
    frames: FrameBatch,
    events: Vec<Event>,
    /// The time that the shard's timers may go to after them.
    now: Timestamp,
    /// Set with the last batch: what ends the flows that are still open.
    end: Option<EndReason>,
}

/// An announcement and when it is handled: after so many of the batch's frames.
struct Event {
    after: usize,
    now: Timestamp,
    announcement: Arc<Announcement>,
}

impl Reader<'_> {
    fn read(&mut self, number: u32, file: &CaptureFile) -> Result<()> {
        let mut source = open(file, self.stop)?;
        loop {
            // Interfaces of different files are different, so that a merged reading of two taps is deduplicated.
            let progress =
                source.next_batch(&mut |frame| self.handle_frame(&Frame { interface: number << 16 | frame.interface, ..frame }));
            if progress? == Progress::Ended || self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.wait_for_writers();
        }
    }

    fn handle_frame(&mut self, frame: &Frame<'_>) {
        self.frames += 1;
        let steps = self.timeline.backward_steps();
        while let Some((at, announcement)) = self.events.next_if(|(at, _)| *at <= frame.ts) {
            let now = self.timeline.observe_forward(at);
            self.broadcast(&announcement, now);
        }
        let now = self.timeline.observe(frame.ts);
        self.parts.metrics.capture.backward_steps.inc_by(self.timeline.backward_steps() - steps);
        let data = &frame.data[..frame.data.len().min(self.parts.config.snap_len as usize)];
        let n = self.shard_of(frame.link, data);
        let batch = &mut self.feeds[n].batch;
        batch.frames.push(&Frame { data, ..*frame }, now);
        if batch.frames.len() >= BATCH {
            self.flush();
        }
    }

    fn broadcast(&mut self, announcement: &Arc<Announcement>, now: Timestamp) {
        for feed in &mut self.feeds {
            let Batch { frames, events, .. } = &mut feed.batch;
            events.push(Event { after: frames.len(), now, announcement: Arc::clone(announcement) });
        }
    }

    /// By addresses alone, so that all fragments of a packet go where its ports go.
    fn shard_of(&self, link: LinkType, data: &[u8]) -> usize {
        if self.feeds.len() == 1 {
            return 0;
        }
        match packet::parse(link, data) {
            Ok(p) => FixedState::default().hash_one((p.src.min(p.dst), p.src.max(p.dst))) as usize % self.feeds.len(),
            Err(_) => 0,
        }
    }

    fn flush(&mut self) {
        let now = self.timeline.now();
        self.charge.resize(self.events.len() * EVENT_COST);
        self.flushes += 1;
        if self.flushes.is_multiple_of(FLUSHES_A_GIVE_BACK) {
            memory::give_back(&self.parts.ledger, self.parts.config.limits.idle_ram);
        }
        for feed in &mut self.feeds {
            let mut batch = std::mem::take(&mut feed.batch);
            batch.now = now;
            // A shard that is gone has panicked; joining it tells.
            let _ = feed.queue.send(batch);
        }
    }

    /// Reading waits while the writers are far behind: offline there is time, and memory is for flows.
    fn wait_for_writers(&self) {
        while self.parts.writers.queued() > BACKLOG && !self.stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(mut self, reason: EndReason) {
        let now = self.timeline.now();
        while let Some((_, announcement)) = self.events.next() {
            self.broadcast(&announcement, now);
        }
        for feed in &mut self.feeds {
            feed.batch.end = Some(reason);
        }
        self.flush();
    }
}

fn serve(parts: &Parts, mut shard: Shard, batches: &Receiver<Batch>) {
    sandbox::narrow(Role::Shard);
    let mut published = shard.stats().clone();
    let writers = parts.writers.clone();
    for batch in batches {
        let mut handled = 0;
        for event in &batch.events {
            shard.handle_frames(&batch.frames, handled..event.after);
            handled = event.after;
            shard.handle_event(&event.announcement, event.now);
        }
        shard.handle_frames(&batch.frames, handled..batch.frames.len());
        match batch.end {
            Some(reason) => {
                let mut finisher = Finisher::new(&writers);
                shard.finish(reason, batch.now, |op| finisher.push(op));
            }
            None => shard.advance(batch.now),
        }
        writers.submit(std::iter::from_fn(|| shard.poll_archive()));
        let now = shard.stats().clone();
        parts.metrics.shard.publish(&published, &now);
        published = now;
    }
}

/// Frames of one shard per batch: large enough that handing it over costs nothing per frame.
const BATCH: usize = 1024;
/// Batches that may wait for a shard.
const QUEUE: usize = 4;
/// Bytes charged for an event that is to come: an announcement with its text.
const EVENT_COST: usize = 400;
/// How often memory goes back to the system, which costs nothing while there is enough: what the reader frees, the shards
/// cannot use, since the allocator keeps it for the thread that took it.
const FLUSHES_A_GIVE_BACK: u64 = 64;
/// How long a silent pipe can delay the answer to a signal.
const PATIENCE_MILLIS: u8 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_silent_pipe_ends_when_reading_is_to_stop() {
        let (output, input) = nix::unistd::pipe().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut source = Stoppable { input: output.into(), stop: Arc::clone(&stop) };
        File::from(input.try_clone().unwrap()).write_all(b"head").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(source.read(&mut buffer).unwrap(), 4);
        let reading = thread::spawn(move || source.read(&mut buffer).unwrap());
        stop.store(true, Ordering::Relaxed);
        assert_eq!(reading.join().unwrap(), 0);
        drop(input);
    }

    #[test]
    fn a_named_pipe_waits_for_its_writer_and_ends_with_it_or_when_reading_is_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut source = Stoppable::named(&path, Arc::clone(&stop)).unwrap();
        let writer = path.clone();
        let writing = thread::spawn(move || fs::write(writer, "head").unwrap());
        let mut text = String::new();
        source.read_to_string(&mut text).unwrap();
        assert_eq!(text, "head");
        writing.join().unwrap();
        let mut source = Stoppable::named(&path, Arc::clone(&stop)).unwrap();
        let reading = thread::spawn(move || source.read(&mut [0; 8]).unwrap());
        stop.store(true, Ordering::Relaxed);
        assert_eq!(reading.join().unwrap(), 0);
    }
}
