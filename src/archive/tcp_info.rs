//! The kernel's last word on a connection, as a file keeps it: a gzip FEXTRA subfield beside that of the metadata.
//!
//! docs/FORMAT.md specifies the layout. Fields are those of `struct tcp_info` (include/uapi/linux/tcp.h); one that the
//! kernel which was asked did not know yet is 0.

use super::metadata::subfield;
use crate::identity::kernel::LastWord;

/// The subfield's identifier bytes SI1 and SI2.
pub const TCP_INFO_ID: [u8; 2] = *b"FT";

/// Bytes of the subfield's data.
pub const TCP_INFO_LEN: usize = 128;

/// What the kernel knew of a connection when its socket was destroyed, as seen from the end that this socket was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FinalTcpInfo {
    /// The socket's number, which its UUID ends with: of a connection within the host it tells whose values these are.
    pub cookie: u64,
    /// Congestion state: 0 open, 1 disorder, 2 window reduced (CWR), 3 recovery, 4 loss.
    pub ca_state: u8,
    /// Negotiated options: 1 timestamps, 2 SACK, 4 window scale, 8 ECN, 16 ECN seen, 32 data in the SYN acknowledged.
    pub options: u8,
    /// Window scale of this end's and of the other end's windows: shifts of 0 to 14.
    pub window_scales: [u8; 2],
    /// Segment size for sending, bytes.
    pub snd_mss: u32,
    /// Smoothed round-trip time, microseconds; 0 if it was never measured.
    pub rtt: u32,
    /// Its mean deviation, microseconds.
    pub rttvar: u32,
    /// Smallest round-trip time of the last minutes, microseconds; `None` if it was never measured.
    pub min_rtt: Option<u32>,
    /// Congestion window, segments.
    pub snd_cwnd: u32,
    /// Slow start threshold, segments; `0x7fffffff` before the first loss.
    pub snd_ssthresh: u32,
    /// Segments retransmitted.
    pub total_retrans: u32,
    /// Segments sent, with and without data.
    pub segs_out: u32,
    /// Segments received, with and without data.
    pub segs_in: u32,
    /// Segments with data sent.
    pub data_segs_out: u32,
    /// Segments with data received.
    pub data_segs_in: u32,
    /// Duplicate segments that the other end reported.
    pub dsack_dups: u32,
    /// Reordering events seen.
    pub reord_seen: u32,
    /// How far segments were taken to be reordered, in segments: 3 where none was seen to be.
    pub reordering: u32,
    /// Segments received out of order.
    pub rcv_ooopack: u32,
    /// Bytes sent and acknowledged. This end's FIN counts one, and so does its SYN if it connected (an accepted socket begins behind it).
    pub bytes_acked: u64,
    /// Bytes received in order. The FIN of the other end counts one.
    pub bytes_received: u64,
    /// Bytes of data retransmitted.
    pub bytes_retrans: u64,
    /// The newest measure of delivery, bytes a second.
    pub delivery_rate: u64,
    /// Time with data to send, microseconds.
    pub busy_time: u64,
    /// The part of it that the other end's window limited, microseconds.
    pub rwnd_limited: u64,
    /// The part of it that the send buffer limited, microseconds.
    pub sndbuf_limited: u64,
}

impl FinalTcpInfo {
    /// Room in a file's header for what is not known yet. No socket has cookie 0.
    pub fn room() -> Self {
        Self::default()
    }

    /// What is kept of the kernel's last word.
    pub fn of(word: &LastWord) -> Self {
        let info = &word.tcp_info;
        Self {
            cookie: word.cookie,
            ca_state: info.ca_state,
            options: info.options,
            window_scales: info.window_scales,
            snd_mss: info.snd_mss,
            rtt: info.rtt,
            rttvar: info.rttvar,
            min_rtt: Some(info.min_rtt).filter(|min| *min != NEVER),
            snd_cwnd: info.snd_cwnd,
            snd_ssthresh: info.snd_ssthresh,
            total_retrans: info.total_retrans,
            segs_out: info.segs_out,
            segs_in: info.segs_in,
            data_segs_out: info.data_segs_out,
            data_segs_in: info.data_segs_in,
            dsack_dups: info.dsack_dups,
            reord_seen: info.reord_seen,
            reordering: info.reordering,
            rcv_ooopack: info.rcv_ooopack,
            bytes_acked: info.bytes_acked,
            bytes_received: info.bytes_received,
            bytes_retrans: info.bytes_retrans,
            delivery_rate: info.delivery_rate,
            busy_time: info.busy_time,
            rwnd_limited: info.rwnd_limited,
            sndbuf_limited: info.sndbuf_limited,
        }
    }

    /// The subfield's data; zeroes for [`Self::room`].
    pub fn encode(&self) -> [u8; TCP_INFO_LEN] {
        let mut data = [0; TCP_INFO_LEN];
        if self.cookie == 0 {
            return data;
        }
        let [ours, theirs] = self.window_scales;
        data[..4].copy_from_slice(&[VERSION, self.ca_state, self.options, ours << 4 | theirs & 0xf]);
        data[4..8].copy_from_slice(&self.snd_mss.to_le_bytes());
        data[8..16].copy_from_slice(&self.cookie.to_le_bytes());
        let words = [
            self.rtt,
            self.rttvar,
            self.min_rtt.unwrap_or(NEVER),
            self.snd_cwnd,
            self.snd_ssthresh,
            self.total_retrans,
            self.segs_out,
            self.segs_in,
            self.data_segs_out,
            self.data_segs_in,
            self.dsack_dups,
            self.reord_seen,
            self.reordering,
            self.rcv_ooopack,
        ];
        let longs = [
            self.bytes_acked,
            self.bytes_received,
            self.bytes_retrans,
            self.delivery_rate,
            self.busy_time,
            self.rwnd_limited,
            self.sndbuf_limited,
        ];
        for (to, word) in data[WORDS..LONGS].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        for (to, long) in data[LONGS..].chunks_exact_mut(8).zip(longs) {
            to.copy_from_slice(&long.to_le_bytes());
        }
        data
    }

    /// Reads the data of a subfield of this version or a later one; `None` where it is too short to be either, and for room
    /// that was not used.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let data: &[u8; TCP_INFO_LEN] = data.first_chunk()?;
        let word = |n: usize| u32::from_le_bytes(std::array::from_fn(|i| data[WORDS + 4 * n + i]));
        let long = |n: usize| u64::from_le_bytes(std::array::from_fn(|i| data[LONGS + 8 * n + i]));
        let cookie = u64::from_le_bytes(std::array::from_fn(|i| data[8 + i]));
        if data[0] < VERSION || cookie == 0 {
            return None;
        }
        Some(Self {
            cookie,
            ca_state: data[1],
            options: data[2],
            window_scales: [data[3] >> 4, data[3] & 0xf],
            snd_mss: u32::from_le_bytes(std::array::from_fn(|i| data[4 + i])),
            rtt: word(0),
            rttvar: word(1),
            min_rtt: Some(word(2)).filter(|min| *min != NEVER),
            snd_cwnd: word(3),
            snd_ssthresh: word(4),
            total_retrans: word(5),
            segs_out: word(6),
            segs_in: word(7),
            data_segs_out: word(8),
            data_segs_in: word(9),
            dsack_dups: word(10),
            reord_seen: word(11),
            reordering: word(12),
            rcv_ooopack: word(13),
            bytes_acked: long(0),
            bytes_received: long(1),
            bytes_retrans: long(2),
            delivery_rate: long(3),
            busy_time: long(4),
            rwnd_limited: long(5),
            sndbuf_limited: long(6),
        })
    }

    /// Finds the subfield among all those of a gzip member's FEXTRA field.
    pub fn find(extra: &[u8]) -> Option<Self> {
        subfield(extra, TCP_INFO_ID).and_then(Self::decode)
    }

    /// Of two files of one name, what the joined file keeps: whoever has seen more segments was later.
    pub(super) fn later(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        // The bytes only make the choice independent of the order of joining.
        let key = |info: &Self| (u64::from(info.segs_in) + u64::from(info.segs_out), info.encode());
        a.into_iter().chain(b).max_by_key(key)
    }
}

const VERSION: u8 = 1;
/// Offset of the fields of four bytes.
const WORDS: usize = 16;
/// Offset of the fields of eight bytes.
const LONGS: usize = 72;
/// The kernel's smallest round-trip time before the first measure.
const NEVER: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::metadata::Metadata;
    use crate::identity::kernel::TcpInfo;
    use proptest::prelude::*;

    /// Any values that a kernel could have, and a cookie.
    fn some_info() -> impl Strategy<Value = FinalTcpInfo> {
        (1u64.., proptest::collection::vec(any::<u8>(), 232)).prop_map(|(cookie, bytes)| {
            let mut tcp_info = TcpInfo::parse(&bytes);
            tcp_info.window_scales = tcp_info.window_scales.map(|scale| scale & 0xf);
            FinalTcpInfo::of(&LastWord { cookie, tcp_info })
        })
    }

    proptest! {
        #[test]
        fn the_last_word_reads_back(info in some_info()) {
            prop_assert_eq!(FinalTcpInfo::decode(&info.encode()), Some(info));
            let metadata = Metadata { tcp_info: Some(info), ..Metadata::UNFINISHED };
            prop_assert_eq!(Metadata::find(metadata.extra_field().as_bytes()), Some(metadata));
        }

        #[test]
        fn a_later_longer_version_is_read_by_its_prefix(info in some_info(), version in 2u8.., more in any::<[u8; 9]>()) {
            let mut data = [&info.encode()[..], &more].concat();
            data[0] = version;
            prop_assert_eq!(FinalTcpInfo::decode(&data), Some(info));
        }

        #[test]
        fn any_extra_field_is_searched_without_panic(extra in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = FinalTcpInfo::find(&extra);
            let _ = FinalTcpInfo::decode(&extra);
        }
    }

    #[test]
    fn room_that_was_not_used_says_nothing() {
        assert_eq!(FinalTcpInfo::room().encode(), [0; TCP_INFO_LEN]);
        assert_eq!(FinalTcpInfo::decode(&[0; TCP_INFO_LEN]), None);
        let metadata = Metadata { tcp_info: Some(FinalTcpInfo::room()), ..Metadata::UNFINISHED };
        assert_eq!(metadata.extra_field().as_bytes().len(), 4 + 36 + 4 + 128);
        assert_eq!(Metadata::find(metadata.extra_field().as_bytes()), Some(Metadata::UNFINISHED));
    }

    #[test]
    fn each_field_is_where_the_page_has_it() {
        let mut bytes = [0; 232];
        (0..232).for_each(|at| bytes[at] = at as u8);
        let word = LastWord { cookie: 0x0102_0304_0506_0708, tcp_info: TcpInfo::parse(&bytes) };
        let data = FinalTcpInfo::of(&word).encode();
        let field = |at: usize, from: usize, len: usize| assert_eq!(data[at..at + len], bytes[from..from + len], "offset {at}");
        assert_eq!(data[..3], [1, 1, 5]);
        assert_eq!(data[8..16], [8, 7, 6, 5, 4, 3, 2, 1]);
        // Offsets on the page, and in struct tcp_info.
        let words = [(4, 16), (16, 68), (20, 72), (24, 148), (28, 80), (32, 76), (36, 100), (40, 136), (44, 140), (48, 156)];
        let more = [(52, 152), (56, 216), (60, 220), (64, 88), (68, 224)];
        words.into_iter().chain(more).for_each(|(at, from)| field(at, from, 4));
        let longs = [(72, 120), (80, 128), (88, 208), (96, 160), (104, 168), (112, 176), (120, 184)];
        longs.into_iter().for_each(|(at, from)| field(at, from, 8));
    }
}
