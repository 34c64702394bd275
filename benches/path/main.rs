//! What each stage of a packet's way costs, what a flow costs in memory, and how the cost grows with the flows.
//!
//! ```text
//! cargo bench --bench path                       all tables, and docs/growth.svg anew
//! cargo bench --bench path -- --quick            smaller tables, no plot
//! cargo bench --bench path -- --only STAGE       one: parse, scrub, append, shard, path, files
//! cargo bench --bench path -- --count STAGE      a fixed small piece of work, for callgrind (scripts/instructions.sh)
//! ```

mod plot;
mod traffic;

use flowarc::archive::gzip::Encoder;
use flowarc::archive::metadata::Metadata;
use flowarc::archive::metrics::ArchiveMetrics;
use flowarc::archive::path::Tree;
use flowarc::archive::pcap;
use flowarc::archive::writer::{ArchiveConfig, DiskHealth, Mode, Writer};
use flowarc::capture::LinkType;
use flowarc::flow::ledger::Ledger;
use flowarc::flow::segment::{Arena, Chain};
use flowarc::flow::state::Timers;
use flowarc::metrics::PredecessorMetrics;
use flowarc::packet::{self, FrameBatch, Packet};
use flowarc::scrub::{Anonymize, Hide, ScrubPolicy, Scrubber};
use flowarc::shard::{ArchiveOp, EndReason, FlowLimit, Naming, Shard, ShardConfig};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use traffic::{Announcer, Order, PACKETS, Traffic};

fn main() {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => all(&Sizes::WHOLE),
        ["--quick"] => all(&Sizes::QUICK),
        ["--only", stage] => only(stage, &Sizes::WHOLE),
        ["--count", stage] => println!("{}", count(stage)),
        _ => eprintln!("usage: path [--quick | --only STAGE | --count STAGE]"),
    }
}

/// How much work a table stands on.
struct Sizes {
    /// Concurrent flows of the growth table.
    growth: &'static [u32],
    /// Packets of each line of it.
    packets: u64,
    /// Flows of the whole path, and how many of them at once.
    path_flows: u32,
    concurrent: u32,
    /// Files.
    files: u32,
    plot: bool,
}

impl Sizes {
    const WHOLE: Self = Self {
        growth: &[1_000, 10_000, 100_000, 1_000_000, 5_000_000],
        packets: 5_000_000,
        path_flows: 500_000,
        concurrent: 50_000,
        files: 50_000,
        plot: true,
    };
    const QUICK: Self = Self {
        growth: &[1_000, 10_000, 100_000],
        packets: 500_000,
        path_flows: 50_000,
        concurrent: 5_000,
        files: 5_000,
        plot: false,
    };
}

fn all(sizes: &Sizes) {
    for stage in ["parse", "scrub", "append", "shard", "path", "files"] {
        only(stage, sizes);
        println!();
    }
}

fn only(stage: &str, sizes: &Sizes) {
    match stage {
        "parse" => {
            println!("| parse, ns a frame | |\n|---|---:|");
            let frames = Frames::new();
            println!("| Ethernet, IPv4, TCP | {:.1} |", best(frames.len(), || frames.parse()));
        }
        "scrub" => {
            println!("| scrub, ns a packet | |\n|---|---:|");
            for (name, policy, hide) in SCRUBS {
                let (frames, mut scrubber) = (Frames::new(), Scrubber::new(policy));
                println!("| {name} | {:.1} |", best(frames.len(), || frames.scrub(&mut scrubber, hide)));
            }
        }
        "append" => {
            println!("| scrub and append, ns a packet | |\n|---|---:|");
            for chains in [64, 50_000] {
                let (frames, mut append) = (Frames::new(), Append::new(chains));
                println!("| {chains} flows | {:.1} |", best(frames.len(), || append.run(&frames)));
            }
        }
        "shard" => growth(sizes),
        "path" => path(sizes),
        "files" => files(sizes),
        other => eprintln!("no stage {other}"),
    }
}

/// A piece of work of fixed size; returns how many packets, or flows of [`PACKETS`] packets, it was.
fn count(stage: &str) -> usize {
    match stage {
        "parse" => Frames::new().parse(),
        "scrub" => Frames::new().scrub(&mut Scrubber::new(SCRUBS[1].1), SCRUBS[1].2),
        "append" => Append::new(64).run(&Frames::new()),
        "shard" => {
            let mut load = Load::new(1_000);
            load.open();
            load.packets(10_000, Order::RoundRobin, Together::Yes);
            10_000
        }
        "compress" => compress_flows(100),
        other => panic!("no stage {other}"),
    }
}

const SCRUBS: [(&str, ScrubPolicy, Hide); 2] = [
    (
        "headers only",
        ScrubPolicy {
            anonymize: Anonymize::None,
            keep_linktype: false,
            mac: false,
            ip_id: false,
            tcp_timestamps: false,
            tcp_checksums: false,
        },
        Hide { src: false, dst: false },
    ),
    (
        "netblock, one end masked",
        ScrubPolicy {
            anonymize: Anonymize::Netblock,
            keep_linktype: false,
            mac: false,
            ip_id: false,
            tcp_timestamps: false,
            tcp_checksums: false,
        },
        Hide { src: true, dst: false },
    ),
];

/// Some frames and what is in them.
struct Frames {
    batch: FrameBatch,
    packets: Vec<Packet>,
}

impl Frames {
    fn new() -> Self {
        let mut traffic = Traffic::new(64);
        let mut batch = FrameBatch::default();
        (0..1024).for_each(|_| traffic.next(Order::RoundRobin, |frame, now| batch.push(frame, now)));
        let packets = (0..batch.len()).map(|i| batch.packet(i).expect("TCP")).collect();
        Self { batch, packets }
    }

    fn len(&self) -> usize {
        self.batch.len()
    }

    #[inline(never)]
    fn parse(&self) -> usize {
        for i in 0..self.len() {
            let _ = black_box(packet::parse(LinkType::Ethernet, black_box(self.batch.get(i).0.data)));
        }
        self.len()
    }

    #[inline(never)]
    fn scrub(&self, scrubber: &mut Scrubber, hide: Hide) -> usize {
        for (i, packet) in self.packets.iter().enumerate() {
            let (frame, _) = self.batch.get(i);
            black_box(scrubber.scrub(frame.link, frame.data, frame.wire_len, packet, hide).bytes());
        }
        self.len()
    }
}

/// Segments of several flows.
struct Append {
    arena: Arena,
    scrubber: Scrubber,
    chains: Vec<Chain>,
    next: usize,
}

impl Append {
    fn new(chains: usize) -> Self {
        let arena = Arena::new(Ledger::new(u64::MAX));
        Self { arena, scrubber: Scrubber::new(SCRUBS[0].1), chains: vec![Chain::EMPTY; chains], next: 0 }
    }

    #[inline(never)]
    fn run(&mut self, frames: &Frames) -> usize {
        for (i, packet) in frames.packets.iter().enumerate() {
            let (frame, _) = frames.batch.get(i);
            // A stride that is prime to the number of flows: the next flow is never the neighbour in memory.
            self.next = (self.next + 7_919) % self.chains.len();
            let chain = &mut self.chains[self.next];
            if chain.len() > 2_000 {
                self.arena.clear(chain);
            }
            let scrubbed = self.scrubber.scrub(frame.link, frame.data, frame.wire_len, packet, SCRUBS[0].2);
            self.arena.append(chain, frame.ts, &scrubbed);
        }
        frames.len()
    }
}

/// A shard under a load of so many flows.
struct Load {
    shard: Shard,
    ledger: Arc<Ledger>,
    traffic: Traffic,
    announcer: Announcer,
    flows: u32,
    batch: FrameBatch,
}

/// Whether the shard is given frames in batches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Together {
    Yes,
    No,
}

impl Load {
    fn new(flows: u32) -> Self {
        let ledger = Ledger::new(u64::MAX);
        // The clock of the traffic stands nearly still, so that no timer ends a flow.
        let hour = Duration::from_secs(3600);
        let config = ShardConfig {
            timers: Timers {
                capture: hour,
                uuid_wait: hour,
                idle: hour,
                unnamed_idle: hour,
                half_open: hour,
                linger: Duration::ZERO,
                seal: None,
            },
            naming: Naming::Announced,
            announcement_wait: None,
            half_open_max: usize::MAX,
            scrub: SCRUBS[0].1,
            deduplicate: false,
            shed: true,
            ask: false,
            compare: false,
            shunt: false,
            idle_bytes: usize::MAX,
        };
        let shard = Shard::new(0, config, Arc::clone(&ledger), FlowLimit::new(0));
        let announcer = Announcer::new();
        Self { shard, ledger, traffic: Traffic::new(flows), announcer, flows, batch: FrameBatch::default() }
    }

    /// A SYN for each flow.
    fn open(&mut self) {
        self.packets(self.flows.into(), Order::RoundRobin, Together::Yes);
    }

    /// Names each flow, as a UUID source does.
    fn name(&mut self) {
        for flow in 0..self.flows {
            let announcement = self.announcer.announce(&self.traffic, flow);
            self.shard.handle_event(&announcement, self.traffic.now());
        }
    }

    fn packets(&mut self, n: u64, order: Order, together: Together) {
        for _ in 0..n {
            self.traffic.next(order, |frame, now| self.batch.push(frame, now));
            if self.batch.len() == BATCH {
                self.handle(together);
            }
        }
        self.handle(together);
    }

    #[inline(never)]
    fn handle(&mut self, together: Together) {
        match together {
            Together::Yes => self.shard.handle_frames(&self.batch, 0..self.batch.len()),
            Together::No => (0..self.batch.len()).for_each(|i| self.shard.handle_frames(&self.batch, i..i + 1)),
        }
        self.batch.clear();
        // Full segments are not what is measured.
        while let Some(op) = self.shard.poll_archive() {
            drop(op);
        }
    }
}

/// Cost and memory by the number of concurrent flows.
fn growth(sizes: &Sizes) {
    println!(
        "| flows at once | SYN, ns | packet in turn, ns | at random, ns | at random, one by one, ns | longest batch, ms | ledger, bytes a SYN | resident, bytes a SYN | resident, bytes a named flow of 3 packets |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut lines = [const { Vec::new() }; 3];
    for &flows in sizes.growth {
        forget_memory();
        let before = resident();
        let mut load = Load::new(flows);
        let generating = generating(flows, sizes.packets);
        let start = Instant::now();
        let (mut last, mut longest) = (start, Duration::ZERO);
        for _ in 0..flows.div_ceil(BATCH as u32) {
            load.packets(BATCH as u64, Order::RoundRobin, Together::Yes);
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        let syn = start.elapsed().as_nanos() as f64 / f64::from(flows) - generating;
        let ledger = load.ledger.held() / u64::from(flows);
        let half_open = resident().saturating_sub(before) / u64::from(flows);
        load.name();
        load.packets(2 * u64::from(flows), Order::RoundRobin, Together::Yes);
        let named = resident().saturating_sub(before) / u64::from(flows);
        let mut packet = |order, together| {
            let start = Instant::now();
            load.packets(sizes.packets, order, together);
            start.elapsed().as_nanos() as f64 / sizes.packets as f64 - generating
        };
        let turn = packet(Order::RoundRobin, Together::Yes);
        let random = packet(Order::Random, Together::Yes);
        let alone = packet(Order::Random, Together::No);
        println!(
            "| {flows} | {syn:.0} | {turn:.0} | {random:.0} | {alone:.0} | {:.1} | {ledger} | {half_open} | {named} |",
            longest.as_secs_f64() * 1e3
        );
        for (line, ns) in lines.iter_mut().zip([turn, random, alone]) {
            line.push((f64::from(flows), ns));
        }
    }
    if sizes.plot {
        let [turn, random, alone] = lines;
        let svg = plot::lines(
            "ns a packet in a shard, by flows at once",
            &[("in turn", turn), ("at random", random), ("at random, one by one", alone)],
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/growth.svg");
        std::fs::write(path, svg).expect("the docs folder is there");
    }
}

/// What making the frames themselves costs, in ns a frame.
fn generating(flows: u32, packets: u64) -> f64 {
    let mut traffic = Traffic::new(flows);
    let start = Instant::now();
    for _ in 0..packets {
        traffic.next(Order::RoundRobin, |frame, now| {
            black_box((frame, now));
        });
    }
    start.elapsed().as_nanos() as f64 / packets as f64
}

/// Frames to files, step by step.
fn path(sizes: &Sizes) {
    println!(
        "| {} flows of {PACKETS} packets, {} at once | ns a packet | packets/s | flows/s | peak resident, MB |",
        sizes.path_flows, sizes.concurrent
    );
    println!("|---|---:|---:|---:|---:|");
    for (name, end) in
        [("without compression", End::Drop), ("with compression", End::Compress), ("with files on /dev/shm", End::Write)]
    {
        if end == End::Write && !std::path::Path::new("/dev/shm").is_dir() {
            println!("| {name} | no such folder here | | | |");
            continue;
        }
        forget_memory();
        let generating = generating(sizes.concurrent, 1_000_000);
        let start = Instant::now();
        let packets = whole_path(sizes.path_flows, sizes.concurrent, end);
        let ns = start.elapsed().as_nanos() as f64 / packets as f64 - generating;
        println!("| {name} | {ns:.0} | {:.2} M | {:.0} | {} |", 1e3 / ns, 1e9 / ns / f64::from(PACKETS), peak_resident() >> 20);
    }
}

/// What happens to a flow that has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Drop,
    Compress,
    Write,
}

fn whole_path(flows: u32, concurrent: u32, end: End) -> u64 {
    let folder = (end == End::Write).then(|| Folder::new("/dev/shm"));
    let mut encoder = Encoder::new();
    let mut packets = 0;
    let mut load = Load::new(concurrent);
    let mut writer = folder.as_ref().map(|folder| folder.writer(&load.ledger));
    for _ in 0..flows / concurrent {
        load.open();
        load.name();
        for _ in 0..(u64::from(concurrent) * u64::from(PACKETS - 1)).div_ceil(BATCH as u64) {
            load.packets(BATCH as u64, Order::RoundRobin, Together::Yes);
        }
        load.shard.finish(EndReason::EndOfInput, load.traffic.now(), |op| match (&mut writer, end) {
            (Some(writer), _) => {
                writer.handle_op(op, Instant::now());
                writer.poll_outcome();
            }
            (None, End::Compress) => drop(compress(&mut encoder, op)),
            (None, _) => drop(op),
        });
        packets += u64::from(concurrent) * u64::from(PACKETS);
        load.traffic.renew();
    }
    packets
}

fn compress(encoder: &mut Encoder, op: ArchiveOp) -> Box<[u8]> {
    let ArchiveOp::Finish { records, .. } = op else { return Box::default() };
    encoder.member(Some(&Metadata::UNFINISHED), &[&pcap::file_header(LinkType::Ethernet, 256), &records.bytes])
}

/// Flows of [`PACKETS`] packets, compressed; returns how many packets.
fn compress_flows(flows: u32) -> usize {
    let (mut encoder, mut load) = (Encoder::new(), Load::new(flows));
    load.open();
    load.name();
    load.packets(u64::from(flows) * u64::from(PACKETS - 1), Order::RoundRobin, Together::Yes);
    let mut ops = Vec::new();
    load.shard.finish(EndReason::EndOfInput, load.traffic.now(), |op| ops.push(op));
    compress_all(&mut encoder, ops);
    (flows * PACKETS) as usize
}

#[inline(never)]
fn compress_all(encoder: &mut Encoder, ops: Vec<ArchiveOp>) {
    for op in ops {
        black_box(compress(encoder, op));
    }
}

/// Files of short flows per second and thread, compressed before.
fn files(sizes: &Sizes) {
    println!("| files of {PACKETS} packets, compressed, one writer | us a file | files/s |\n|---|---:|---:|");
    for parent in ["/dev/shm", "target"] {
        let Ok(true) = std::fs::exists(parent) else { continue };
        let folder = Folder::new(parent);
        let mut load = Load::new(sizes.files);
        let mut writer = folder.writer(&load.ledger);
        load.open();
        load.name();
        load.packets(u64::from(sizes.files) * u64::from(PACKETS - 1), Order::RoundRobin, Together::Yes);
        let mut ops = Vec::new();
        load.shard.finish(EndReason::EndOfInput, load.traffic.now(), |op| ops.push(op));
        let start = Instant::now();
        for op in ops {
            writer.handle_op(op, Instant::now());
            writer.poll_outcome();
        }
        let us = start.elapsed().as_micros() as f64 / f64::from(sizes.files);
        println!("| {parent} | {us:.1} | {:.0} |", 1e6 / us);
    }
}

/// A data folder that is removed afterwards.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new(parent: &str) -> Self {
        Self { dir: tempfile::tempdir_in(parent).expect("a folder to write in") }
    }

    fn writer(&self, ledger: &Arc<Ledger>) -> Writer {
        let tree = Arc::new(Tree::open(&self.dir.path().join("data"), None).expect("a data folder"));
        let registry = prometheus::Registry::new();
        let metrics = ArchiveMetrics::register(&registry, PredecessorMetrics::register(&registry));
        let config = ArchiveConfig { mode: Mode::Buffered, snaplen: 256, fsync: false, tcp_info: false };
        Writer::new(config, tree, Arc::clone(ledger), metrics, Arc::new(DiskHealth::default()))
    }
}

/// ns for each of `n`, in the best of several repetitions: the one that others' work disturbed least.
fn best(n: usize, mut run: impl FnMut() -> usize) -> f64 {
    let (end, mut best) = (Instant::now() + Duration::from_millis(300), Duration::MAX);
    while Instant::now() < end {
        let start = Instant::now();
        black_box(run());
        best = best.min(start.elapsed());
    }
    best.as_nanos() as f64 / n as f64
}

/// Bytes of memory that the process has now.
fn resident() -> u64 {
    status("VmRSS:")
}

/// Gives freed memory back and begins a new peak (proc_pid_clear_refs(5)), so that what comes is measured and not what was.
fn forget_memory() {
    // SAFETY: takes no pointers and may be called at any time (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
    std::fs::write("/proc/self/clear_refs", "5").expect("a process of one's own");
}

/// Bytes of memory that it had at most since [`forget_memory`].
fn peak_resident() -> u64 {
    status("VmHWM:")
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("proc(5) has the field");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Frames that a shard is given at once, as in the live loop.
const BATCH: usize = 64;
