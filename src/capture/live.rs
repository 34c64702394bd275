//! Frames from network interfaces, through libpcap.
//!
//! [`LiveSource`] is one interface's ring for one shard: a non-blocking TPACKET_V3 ring, read by `dispatch`, whose
//! descriptor the caller polls. The rings of an interface are opened together: they share the interface's packets by a
//! hash of the flow (PACKET_FANOUT), and none hands out a frame from before all of them had joined.
//!
//! Which interfaces to open, and when to open them again, is for the caller: see [`super::interfaces`].

use super::{Frame, LinkType, PacketSource, Progress, clock, filter};
use crate::time::Timestamp;
use libc::{c_int, c_void};
use nix::sys::socket::{getsockopt, setsockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use pcap::{Active, Capture, Inactive, Precision};
use std::fs;
use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

/// How the rings of an interface are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingOptions {
    /// Bytes of each frame to capture, at most 262,144; a VLAN tag that is put back counts.
    pub snaplen: u32,
    /// Memory of each ring in bytes; rounded up to blocks of 256 KiB. The kernel may give less where memory is short.
    pub ring_bytes: u32,
    /// Which frames to capture.
    pub filter: filter::RingFilter,
    /// Whether the interface shall take frames that are not for this host.
    pub promiscuous: bool,
}

/// What a ring has seen since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LiveStats {
    /// Frames that passed the filter, those dropped included.
    pub received: u64,
    /// Frames that passed the filter and found the ring full.
    pub dropped: u64,
    /// Frames that the interface or its driver lost before the kernel saw them (rx_missed_errors and rx_fifo_errors).
    /// They have no ring: the first ring of an interface counts them, so that sums over rings are right.
    pub if_dropped: u64,
}

/// Why a ring cannot be opened or read. The ring is of no further use: drop it.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The process may not capture.
    #[error("open ring on {interface}: operation not permitted (needs CAP_NET_RAW: setcap cap_net_raw=ep FILE or run as root)")]
    NotPermitted {
        /// The interface's name.
        interface: String,
    },
    /// The interface was removed, renamed or set down: wait for it to come back.
    #[error("capture on {interface}: the interface is gone or down (capture goes on when it is up again)")]
    Gone {
        /// The interface's name.
        interface: String,
    },
    /// The interface's frames are of a kind that cannot be parsed, such as those of 802.11 in monitor mode.
    #[error(
        "open ring on {interface}: link type {datalink} is not supported (Ethernet, raw IP and Linux cooked are: name other interfaces, or leave monitor mode)"
    )]
    UnsupportedLink {
        /// The interface's name.
        interface: String,
        /// The DLT_ number.
        datalink: i32,
    },
    /// The kernel or libpcap refused a step of opening.
    #[error("open ring on {interface}: {step}: {reason}")]
    Open {
        /// The interface's name.
        interface: String,
        /// What was tried.
        step: &'static str,
        /// What came back.
        reason: String,
    },
    /// The ring cannot be read any more.
    #[error("read ring on {interface}: {reason} (the ring must be opened again)")]
    Read {
        /// The interface's name.
        interface: String,
        /// libpcap's words.
        reason: String,
    },
}

/// Has libpcap load what it loads when it is first used, while the process may still load programs: with RDMA devices, their
/// drivers (libibverbs).
pub fn prepare() {
    // Any name does; a handle that is not activated opens nothing.
    let _ = Capture::from_device("lo");
}

/// One interface's ring for one shard.
///
/// Timestamps are the kernel's CLOCK_REALTIME in nanoseconds. On loopback, libpcap hides the outgoing copy of each frame.
/// With several shards, the fragments of an IPv4 packet arrive as the one packet that the kernel made of them.
pub struct LiveSource {
    capture: Capture<Active>,
    interface: String,
    index: u32,
    link: LinkType,
    options: RingOptions,
    received: Running,
    dropped: Running,
    if_drops: Option<InterfaceDrops>,
}

impl LiveSource {
    /// Opens an interface's rings, one for each shard.
    ///
    /// On an interface with traffic this takes 50 ms, in which the caller's thread cannot look at other rings.
    ///
    /// # Errors
    /// Fails if the interface is not there and up, if its link type is not supported, without CAP_NET_RAW, and where
    /// the kernel has no room for the rings.
    pub fn open(interface: &str, shards: NonZeroUsize, options: RingOptions) -> Result<Vec<Self>, LiveError> {
        let mut rings = Vec::with_capacity(shards.get());
        for shard in 0..shards.get() {
            rings.push(Self::open_closed(interface, shard, options)?);
        }
        if rings.len() > 1 {
            join(&rings)?;
        }
        // What came before the rings were closed and joined is in several of them, and in blocks not yet handed over.
        if rings.iter_mut().any(|ring| ring.capture.stats().is_ok_and(|stat| stat.received > 0)) {
            std::thread::sleep(SETTLE);
        }
        for ring in &mut rings {
            ring.drain()?;
            ring.attach_filter()?;
        }
        Ok(rings)
    }

    /// Makes the ring's own filter the one that counts, after another program was attached to its socket.
    ///
    /// # Errors
    /// Fails where the kernel has no memory; the ring keeps what it had.
    pub fn attach_filter(&self) -> Result<(), LiveError> {
        self.attach(&self.options.filter.program(self.link, self.options.snaplen))
    }

    /// Reads the ring's counters.
    pub fn stats(&mut self) -> LiveStats {
        if let Ok(stat) = self.capture.stats() {
            self.received.advance(stat.received);
            self.dropped.advance(stat.dropped);
        }
        let if_dropped = self.if_drops.as_mut().map_or(0, InterfaceDrops::total);
        LiveStats { received: self.received.total, dropped: self.dropped.total, if_dropped }
    }

    /// The interface's name when the ring was opened.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The kernel's index of the interface: what the ring is bound to, whatever its name becomes.
    pub fn interface_index(&self) -> u32 {
        self.index
    }

    /// What frames begin with.
    pub fn link(&self) -> LinkType {
        self.link
    }

    /// Opens a ring that captures nothing yet.
    fn open_closed(interface: &str, shard: usize, options: RingOptions) -> Result<Self, LiveError> {
        let open = |step| move |reason: String| LiveError::Open { interface: interface.to_owned(), step, reason };
        let inactive = Capture::from_device(interface)
            .map_err(|e| open("create the handle")(pcap_reason(&e)))?
            .snaplen(c_int::try_from(options.snaplen).unwrap_or(c_int::MAX))
            .buffer_size(c_int::try_from(options.ring_bytes).unwrap_or(c_int::MAX))
            .timeout(BLOCK_RETIRE.as_millis() as i32)
            .precision(Precision::Nano)
            .promisc(options.promiscuous)
            .immediate_mode(false);
        let capture =
            activate(inactive, interface)?.setnonblock().map_err(|e| open("make the handle non-blocking")(pcap_reason(&e)))?;
        let index = bound_index(capture.as_fd()).map_err(|e| open("read the bound address")(e.to_string()))?;
        let index = u32::try_from(index).map_err(|_| LiveError::Gone { interface: interface.to_owned() })?;
        let datalink = capture.get_datalink().0;
        let link = supported(datalink).ok_or_else(|| LiveError::UnsupportedLink { interface: interface.to_owned(), datalink })?;
        let ring = Self {
            capture,
            interface: interface.to_owned(),
            index,
            link,
            options,
            received: Running::default(),
            dropped: Running::default(),
            if_drops: (shard == 0).then(|| InterfaceDrops::since_now(interface)),
        };
        ring.attach(&filter::reject_all())?;
        Ok(ring)
    }

    /// Throws away what the ring holds from before its filter, and counts from here.
    fn drain(&mut self) -> Result<(), LiveError> {
        while self.capture.dispatch(Some(BATCH), |_| ()).map_err(|e| read_error(&self.interface, &e))? > 0 {}
        let stat = self.capture.stats().map_err(|e| read_error(&self.interface, &e))?;
        self.received = Running::from(stat.received);
        self.dropped = Running::from(stat.dropped);
        Ok(())
    }

    fn attach(&self, program: &[libc::sock_filter]) -> Result<(), LiveError> {
        attach_filter(self.as_fd(), program).map_err(|e| LiveError::Open {
            interface: self.interface.clone(),
            step: "attach the filter",
            reason: e.to_string(),
        })
    }
}

impl PacketSource for LiveSource {
    type Error = LiveError;

    /// Hands out at most 4,096 frames. The watermark of an idle ring is the clock less the longest time that a frame may
    /// lie in a block which the kernel still fills.
    fn next_batch(&mut self, sink: &mut dyn FnMut(Frame<'_>)) -> Result<Progress, LiveError> {
        // Before looking into the ring: what comes later is younger, however long this thread is kept from its core.
        let looked = clock::now();
        let (link, interface) = (self.link, self.index);
        let frames = self
            .capture
            .dispatch(Some(BATCH), |packet| {
                // With Precision::Nano, the microseconds of libpcap's timeval are nanoseconds.
                let ts = packet.header.ts;
                let ts = Timestamp::from_parts(ts.tv_sec as u64, ts.tv_usec as u32);
                sink(Frame { ts, wire_len: packet.header.len, link, interface, data: packet.data });
            })
            .map_err(|e| read_error(&self.interface, &e))?;
        Ok(if frames > 0 { Progress::Frames(frames) } else { Progress::Idle { watermark: looked - IDLE_MARGIN } })
    }
}

impl AsFd for LiveSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.capture.as_fd()
    }
}

impl AsRawFd for LiveSource {
    /// The descriptor to poll for reading. It must be polled with a timeout: a frame is announced when its block is
    /// full or 10 to 20 ms old, and the removal of an interface that was set down before is not announced at all.
    fn as_raw_fd(&self) -> RawFd {
        self.capture.as_raw_fd()
    }
}

/// A 64-bit total of a counter that libpcap keeps in 32 bits and lets wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Running {
    last: u32,
    total: u64,
}

impl Running {
    /// Counts from this reading on.
    fn from(reading: u32) -> Self {
        Self { last: reading, total: 0 }
    }

    /// Takes a reading; right as long as fewer than 2^32 are counted between two of them.
    fn advance(&mut self, reading: u32) {
        self.total += u64::from(reading.wrapping_sub(self.last));
        self.last = reading;
    }
}

/// What an interface and its driver lost, from sysfs: libpcap reads it in promiscuous mode only (pcap-linux.c,
/// `pcap_stats_linux`).
struct InterfaceDrops {
    files: [String; 2],
    last: u64,
    total: u64,
}

impl InterfaceDrops {
    fn since_now(interface: &str) -> Self {
        let file = |counter| format!("/sys/class/net/{interface}/statistics/{counter}");
        let mut drops = Self { files: [file("rx_missed_errors"), file("rx_fifo_errors")], last: 0, total: 0 };
        drops.last = drops.read();
        drops
    }

    /// A driver that starts again from zero loses what it counted in between, and no more.
    fn total(&mut self) -> u64 {
        let reading = self.read();
        self.total += reading.saturating_sub(self.last);
        self.last = reading;
        self.total
    }

    /// Without sysfs, or once the interface is gone, there is nothing to add.
    fn read(&self) -> u64 {
        self.files.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()).sum()
    }
}

/// Makes the rings share their interface's packets, each flow's in one ring, both directions.
fn join(rings: &[LiveSource]) -> Result<(), LiveError> {
    // The kernel chooses a number that no other group of the network namespace has, and tells it in the form in which
    // the others may ask for it.
    let mut group = (PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_DEFRAG | PACKET_FANOUT_FLAG_UNIQUEID) << 16;
    for (shard, ring) in rings.iter().enumerate() {
        let joined = setsockopt(ring, PacketFanout, &group).and_then(|()| getsockopt(ring, PacketFanout));
        let joined = joined.map_err(|e| LiveError::Open {
            interface: ring.interface.clone(),
            step: "join the rings of the shards",
            reason: e.to_string(),
        })?;
        if shard == 0 {
            group = joined;
        }
    }
    Ok(())
}

/// The link type, if its frames can be parsed.
fn supported(datalink: i32) -> Option<LinkType> {
    match LinkType::from_number(u16::try_from(datalink).ok()?) {
        LinkType::Other(_) => None,
        link => Some(link),
    }
}

fn read_error(interface: &str, error: &pcap::Error) -> LiveError {
    let (interface, reason) = (interface.to_owned(), pcap_reason(error));
    if tells_gone(&reason) { LiveError::Gone { interface } } else { LiveError::Read { interface, reason } }
}

/// libpcap tells a lost interface from other errors by words only; which, depends on its version and on what came first.
fn tells_gone(reason: &str) -> bool {
    let errnos = [nix::errno::Errno::ENETDOWN, nix::errno::Errno::ENXIO, nix::errno::Errno::ENODEV];
    let words = ["The interface disappeared", "The interface went down"];
    words.into_iter().chain(errnos.into_iter().map(nix::errno::Errno::desc)).any(|words| reason.contains(words))
}

/// libpcap's own words, without the crate's "libpcap error: ".
fn pcap_reason(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(reason) => reason.clone(),
        other => other.to_string(),
    }
}

/// Activates a handle as [`Capture::open`] does, but takes warnings for success, where the crate fails: libpcap warns
/// when it captures in cooked mode because it does not know the hardware type, as with GRE tunnels. The status also
/// says what is wrong, where the crate leaves only words.
fn activate(inactive: Capture<Inactive>, interface: &str) -> Result<Capture<Active>, LiveError> {
    // SAFETY: the handle is a live `pcap_t` that `inactive` owns, and nothing else uses it.
    let status = unsafe { pcap_activate(inactive.as_ptr().cast()) };
    let interface = interface.to_owned();
    match status {
        // SAFETY: both are the same struct but for a marker of size zero, and `Capture::open` converts in this way once
        // the handle is active, which a status of zero or more says.
        0.. => Ok(unsafe { mem::transmute::<Capture<Inactive>, Capture<Active>>(inactive) }),
        PCAP_ERROR_PERM_DENIED => Err(LiveError::NotPermitted { interface }),
        PCAP_ERROR_NO_SUCH_DEVICE | PCAP_ERROR_IFACE_NOT_UP => Err(LiveError::Gone { interface }),
        // SAFETY: the handle is alive, and libpcap keeps its message for as long as the handle lives.
        _ => match unsafe { std::ffi::CStr::from_ptr(pcap_geterr(inactive.as_ptr().cast())) }.to_string_lossy() {
            reason if tells_gone(&reason) => Err(LiveError::Gone { interface }),
            reason => Err(LiveError::Open { interface, step: "activate the handle", reason: reason.into_owned() }),
        },
    }
}

/// The index of the interface that a packet socket is bound to; -1 once the interface is gone. (The wrapper in nix
/// refuses packet(7) addresses as short as the kernel's.)
fn bound_index(socket: BorrowedFd<'_>) -> io::Result<c_int> {
    let mut address = mem::MaybeUninit::<libc::sockaddr_ll>::zeroed();
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of the address.
    let status = unsafe { libc::getsockname(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut len) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes are initialised, with zeros if not by the kernel, and the struct has only integers.
    Ok(unsafe { address.assume_init() }.sll_ifindex)
}

/// Makes the kernel run a filter on what the socket receives from now on; the last one attached counts.
fn attach_filter(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the option's value is a `sock_fprog` (socket(7)) that outlives the call, as do the `len` instructions that
    // it points to; the kernel only reads them.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const fprog).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

sockopt_impl!(
    /// The group of packet sockets that share an interface's packets: its number, and what is done with them, shifted by 16.
    PacketFanout,
    Both,
    libc::SOL_PACKET,
    PACKET_FANOUT,
    c_int
);

unsafe extern "C" {
    /// pcap_activate(3PCAP). The crate's own declaration is private.
    fn pcap_activate(handle: *mut c_void) -> c_int;
    /// pcap_geterr(3PCAP).
    fn pcap_geterr(handle: *mut c_void) -> *mut libc::c_char;
}

/// Frames handed out at once: a few milliseconds of work, so that announcements and deadlines do not wait for a flood.
const BATCH: usize = 4_096;
/// After this time the kernel hands over a block that is not full.
const BLOCK_RETIRE: Duration = Duration::from_millis(10);
/// A block's timer may fire up to twice before the block counts as old (net/packet/af_packet.c,
/// `prb_retire_rx_blk_timer_expired`), each time rounded up to a tick of 10 ms or less, and a busy core is late.
const IDLE_MARGIN: Duration = Duration::from_millis(50);
/// When the kernel has surely handed over all frames that came before the rings were closed.
const SETTLE: Duration = IDLE_MARGIN;

/// include/uapi/linux/if_packet.h.
const PACKET_FANOUT: c_int = 18;
const PACKET_FANOUT_HASH: c_int = 0;
/// Since Linux 4.12.
const PACKET_FANOUT_FLAG_UNIQUEID: c_int = 0x2000;
const PACKET_FANOUT_FLAG_DEFRAG: c_int = 0x8000;

/// pcap/pcap.h.
const PCAP_ERROR_NO_SUCH_DEVICE: c_int = -5;
const PCAP_ERROR_PERM_DENIED: c_int = -8;
const PCAP_ERROR_IFACE_NOT_UP: c_int = -9;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn totals_go_on_where_a_counter_wraps() {
        let mut running = Running::from(u32::MAX - 9);
        running.advance(u32::MAX);
        assert_eq!(running.total, 9);
        running.advance(5);
        assert_eq!(running.total, 15);
        running.advance(5);
        assert_eq!(running.total, 15);
        running.advance(4);
        assert_eq!(running.total, 15 + u64::from(u32::MAX));
    }

    #[test]
    fn totals_do_not_count_what_was_before() {
        let mut running = Running::from(1_000);
        running.advance(1_001);
        assert_eq!(running.total, 1);
    }

    #[test]
    fn an_interface_counter_that_starts_again_adds_what_it_counts_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut drops = InterfaceDrops { files: [file("missed"), file("fifo")], last: 100, total: 0 };
        let mut total_at = |missed: &str, fifo: &str| {
            fs::write(folder.path().join("missed"), missed).unwrap();
            fs::write(folder.path().join("fifo"), fifo).unwrap();
            drops.total()
        };
        assert_eq!(total_at("90\n", "15\n"), 5);
        assert_eq!(total_at("3\n", "0\n"), 5);
        assert_eq!(total_at("4\n", "2\n"), 8);
    }

    #[test]
    fn an_interface_without_counters_lost_nothing() {
        assert_eq!(InterfaceDrops::since_now("no such interface").total(), 0);
    }

    #[test]
    fn a_lost_interface_is_told_from_a_broken_ring() {
        for reason in [
            "The interface disappeared",
            "The interface went down",
            "recvfrom failed: Network is down",
            "eth0: Can't get flags: No such device",
            "bind: No such device or address",
        ] {
            assert!(matches!(read_error("eth0", &pcap::Error::PcapError(reason.into())), LiveError::Gone { .. }), "{reason}");
        }
        let broken = pcap::Error::PcapError("corrupted frame on kernel ring mac offset 1 + caplen 2 > frame len 2".into());
        assert!(matches!(read_error("eth0", &broken), LiveError::Read { .. }));
    }

    #[test]
    fn frames_that_cannot_be_parsed_are_refused() {
        assert_eq!(supported(1), Some(LinkType::Ethernet));
        assert_eq!(supported(12), Some(LinkType::Raw));
        assert_eq!(supported(113), Some(LinkType::LinuxSll));
        for datalink in [105, 127, 119, -1, 1 << 20] {
            assert_eq!(supported(datalink), None, "{datalink}");
        }
    }

    #[test]
    fn the_kernel_accepts_every_program() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        attach_filter(socket.as_fd(), &filter::reject_all()).unwrap();
        for link in [LinkType::Ethernet, LinkType::Raw, LinkType::LinuxSll] {
            attach_filter(socket.as_fd(), &filter::tcp_filter(link, 256)).unwrap();
        }
    }

    #[test]
    fn the_remedy_is_in_the_message() {
        let error = LiveError::NotPermitted { interface: "eth0".into() };
        assert_eq!(
            error.to_string(),
            "open ring on eth0: operation not permitted (needs CAP_NET_RAW: setcap cap_net_raw=ep FILE or run as root)"
        );
    }
}
