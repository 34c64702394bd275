//! The kernel's `struct tcp_info` (include/uapi/linux/tcp.h).

/// The kernel's last word on a connection: what it knew when the socket was destroyed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastWord {
    /// The socket's number, which its UUID ends with.
    pub cookie: u64,
    /// What was known of the connection at this socket.
    pub tcp_info: TcpInfo,
}

/// What the kernel knows of a connection.
///
/// The structure grows with the kernel: a field that the running one does not have is 0, and fields that it has beyond
/// these are passed over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TcpInfo {
    /// Congestion state: 0 open, 1 disorder, 2 window reduced (CWR), 3 recovery, 4 loss.
    pub ca_state: u8,
    /// Retransmissions of the segment at the head of the queue, unanswered at this time.
    pub retransmits: u8,
    /// Negotiated options: 1 timestamps, 2 SACK, 4 window scale, 8 ECN, 16 ECN seen, 32 data in the SYN acknowledged.
    pub options: u8,
    /// Window scale of this end's and of the other end's windows, in this order: shifts of 0 to 14.
    pub window_scales: [u8; 2],
    /// Retransmission time-out, microseconds.
    pub rto: u32,
    /// Segment size for sending, bytes.
    pub snd_mss: u32,
    /// Estimate of the other end's segment size, bytes.
    pub rcv_mss: u32,
    /// Segments in flight.
    pub unacked: u32,
    /// Segments taken for lost at this time.
    pub lost: u32,
    /// Path MTU, bytes.
    pub pmtu: u32,
    /// Smoothed round-trip time, microseconds; 0 if it was never measured.
    pub rtt: u32,
    /// Its mean deviation, microseconds.
    pub rttvar: u32,
    /// Slow start threshold, segments; `0x7fffffff` before the first loss.
    pub snd_ssthresh: u32,
    /// Congestion window, segments.
    pub snd_cwnd: u32,
    /// How far segments are taken to be reordered, in segments: 3 where none was seen to be.
    pub reordering: u32,
    /// Round-trip time as the receiver sees it, microseconds.
    pub rcv_rtt: u32,
    /// Segments retransmitted, in all.
    pub total_retrans: u32,
    /// Pacing rate, bytes a second; `u64::MAX` without a limit.
    pub pacing_rate: u64,
    /// Bytes sent and acknowledged. This end's FIN counts one, and so does its SYN if it connected (an accepted socket begins behind it).
    pub bytes_acked: u64,
    /// Bytes received in order. The FIN of the other end counts one.
    pub bytes_received: u64,
    /// Segments sent, with and without data.
    pub segs_out: u32,
    /// Segments received, with and without data.
    pub segs_in: u32,
    /// Smallest round-trip time of the last minutes, microseconds; `u32::MAX` if it was never measured.
    pub min_rtt: u32,
    /// Segments with data received.
    pub data_segs_in: u32,
    /// Segments with data sent.
    pub data_segs_out: u32,
    /// The newest measure of delivery, bytes a second.
    pub delivery_rate: u64,
    /// Time with data to send, microseconds.
    pub busy_time: u64,
    /// The part of it that the other end's window limited, microseconds.
    pub rwnd_limited: u64,
    /// The part of it that the send buffer limited, microseconds.
    pub sndbuf_limited: u64,
    /// Data segments delivered, those counted twice by a needless retransmission included.
    pub delivered: u32,
    /// Of these, marked by ECN.
    pub delivered_ce: u32,
    /// Bytes of data sent, retransmissions included.
    pub bytes_sent: u64,
    /// Bytes of data retransmitted.
    pub bytes_retrans: u64,
    /// Duplicate segments that the other end reported.
    pub dsack_dups: u32,
    /// Reordering events seen.
    pub reord_seen: u32,
    /// Segments received out of order.
    pub rcv_ooopack: u32,
    /// The other end's window, bytes.
    pub snd_wnd: u32,
}

impl TcpInfo {
    /// Reads the structure as far as there is one.
    pub fn parse(bytes: &[u8]) -> Self {
        let u8_at = |at: usize| bytes.get(at).copied().unwrap_or_default();
        let u32_at = |at| u32::from_ne_bytes(array(bytes, at));
        let u64_at = |at| u64::from_ne_bytes(array(bytes, at));
        // Bit fields begin at the low end on little-endian machines, at the high end on the others.
        let scales = if cfg!(target_endian = "little") { u8_at(6) } else { u8_at(6).rotate_left(4) };
        Self {
            ca_state: u8_at(1),
            retransmits: u8_at(2),
            options: u8_at(5),
            // The header's snd_wscale is what the other end shifts its windows by.
            window_scales: [scales >> 4, scales & 0xf],
            rto: u32_at(8),
            snd_mss: u32_at(16),
            rcv_mss: u32_at(20),
            unacked: u32_at(24),
            lost: u32_at(32),
            pmtu: u32_at(60),
            rtt: u32_at(68),
            rttvar: u32_at(72),
            snd_ssthresh: u32_at(76),
            snd_cwnd: u32_at(80),
            reordering: u32_at(88),
            rcv_rtt: u32_at(92),
            total_retrans: u32_at(100),
            pacing_rate: u64_at(104),
            bytes_acked: u64_at(120),
            bytes_received: u64_at(128),
            segs_out: u32_at(136),
            segs_in: u32_at(140),
            min_rtt: u32_at(148),
            data_segs_in: u32_at(152),
            data_segs_out: u32_at(156),
            delivery_rate: u64_at(160),
            busy_time: u64_at(168),
            rwnd_limited: u64_at(176),
            sndbuf_limited: u64_at(184),
            delivered: u32_at(192),
            delivered_ce: u32_at(196),
            bytes_sent: u64_at(200),
            bytes_retrans: u64_at(208),
            dsack_dups: u32_at(216),
            reord_seen: u32_at(220),
            rcv_ooopack: u32_at(224),
            snd_wnd: u32_at(228),
        }
    }

    /// The congestion state's name.
    pub fn ca_state_name(&self) -> &'static str {
        match self.ca_state {
            0 => "open",
            1 => "disorder",
            2 => "cwr",
            3 => "recovery",
            4 => "loss",
            _ => "unknown",
        }
    }
}

/// The field at this offset; zeroes unless it is there whole.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|field| field.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_structure_that_ends_early_has_zeroes_for_the_rest() {
        let mut bytes = vec![0; 300];
        bytes[100..104].copy_from_slice(&7u32.to_ne_bytes());
        bytes[120..128].copy_from_slice(&9u64.to_ne_bytes());
        for (len, total_retrans, bytes_acked) in [(0, 0, 0), (103, 0, 0), (104, 7, 0), (127, 7, 0), (128, 7, 9), (300, 7, 9)] {
            let info = TcpInfo::parse(&bytes[..len]);
            assert_eq!((info.total_retrans, info.bytes_acked), (total_retrans, bytes_acked), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            TcpInfo::parse(&bytes);
        }
    }
}
