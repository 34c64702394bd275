//! Flows as a server sees them, as pcap files of headers: for the benches, and for finding the canned codes.
//!
//! What varies in real headers varies here: nanoseconds, IP identification, checksums, sequence numbers, windows, TCP
//! timestamps. Deterministic for a seed.

/// A little-endian nanosecond pcap file of one flow with `packets` packets.
pub(crate) fn flow(seed: u64, packets: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
    for _ in 0..4 {
        random.next();
    }
    let mut flow = Flow::new(random);
    let mut pcap = Vec::with_capacity(24 + packets * 100);
    for field in [0xa1b2_3c4d, 0x0004_0002, 0, 0, 256, 1u32] {
        pcap.extend(field.to_le_bytes());
    }
    for n in 0..packets {
        flow.packet(n, packets, &mut pcap);
    }
    pcap
}

struct Flow {
    random: Random,
    v6: bool,
    timestamps: bool,
    /// Of a capture on Ethernet; all zero where the capture had none.
    macs: bool,
    nanos: u64,
    rtt: u64,
    download: bool,
    /// Client, server.
    ends: [End; 2],
    mss: u32,
}

struct End {
    mac: [u8; 6],
    address: [u8; 16],
    port: u16,
    ttl: u8,
    seq: u32,
    acked: u32,
    window: u32,
    scale: u8,
    id: u16,
    id_step: u16,
    clock: u32,
    seen_clock: u32,
}

impl Flow {
    fn new(mut random: Random) -> Self {
        let v6 = random.below(100) < 35;
        let timestamps = random.below(100) < 75;
        let macs = random.below(100) < 80;
        let ends = [0, 1].map(|server| {
            let mut address = [0; 16];
            random.fill(&mut address);
            address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
            if v6 && server == 1 {
                address[6..15].fill(0);
            }
            let mut mac = [0; 6];
            random.fill(&mut mac);
            End {
                mac,
                address,
                port: if server == 1 {
                    [443, 443, 80, 3001, 5201][random.below(5) as usize]
                } else {
                    32_768 + random.below(28_000) as u16
                },
                ttl: if server == 1 { 64 } else { 40 + random.below(24) as u8 },
                seq: random.next() as u32,
                acked: 0,
                window: 64_240 - 1_024 * random.below(20) as u32,
                scale: 7 + random.below(3) as u8,
                id: random.next() as u16,
                id_step: u16::from(random.below(100) < 80),
                clock: random.next() as u32,
                seen_clock: 0,
            }
        });
        let nanos = 1_795_218_624_000_000_000 + random.below(100_000_000_000_000);
        let rtt = 300_000 << random.below(9);
        let download = random.below(100) < 75;
        Self { v6, timestamps, macs, nanos, rtt, download, ends, mss: 1448, random }
    }

    fn packet(&mut self, n: usize, packets: usize, pcap: &mut Vec<u8>) {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const PSH: u8 = 8;
        const ACK: u8 = 16;
        let r = &mut self.random;
        let bulk_sender = usize::from(self.download);
        let (from, flags, payload) = match n {
            0 => (0, SYN, 0),
            1 => (1, SYN | ACK, 0),
            2 => (0, ACK, 0),
            3 => (0, ACK | PSH, 100 + r.below(600) as u32),
            4 => (1, ACK, 0),
            _ if n + 3 >= packets && packets > 8 => match packets - n {
                3 => (1, ACK | FIN, 0),
                2 => (0, ACK | FIN, 0),
                _ => (1, ACK, 0),
            },
            _ => match r.below(100) {
                0..=49 => (bulk_sender, ACK, self.mss * (1 + r.below(100).saturating_sub(80) as u32 / 4)),
                50..=64 => (bulk_sender, ACK | PSH, 1 + r.below(1_400) as u32),
                65..=69 => (1 - bulk_sender, ACK | PSH, 20 + r.below(400) as u32),
                _ => (1 - bulk_sender, ACK, 0),
            },
        };
        let pause = if matches!(n, 1 | 2 | 4) { self.rtt / 2 } else { [3_000, 20_000, 200_000, self.rtt][r.below(4) as usize] };
        let pause = pause / 2 + r.below(pause);
        self.nanos += pause;
        for end in &mut self.ends {
            end.clock = end.clock.wrapping_add(((self.nanos / 1_000_000) - (self.nanos - pause) / 1_000_000) as u32);
        }
        let [client, server] = &mut self.ends;
        let (us, them) = if from == 0 { (client, server) } else { (server, client) };
        let mut tcp = Vec::with_capacity(60);
        tcp.extend(us.port.to_be_bytes());
        tcp.extend(them.port.to_be_bytes());
        tcp.extend(us.seq.to_be_bytes());
        let sack = flags == ACK && payload == 0 && n > 8 && r.below(100) < 3;
        if flags & ACK != 0 {
            us.acked = them.seq;
            us.seen_clock = them.clock;
        }
        tcp.extend(us.acked.to_be_bytes());
        tcp.extend([0, flags]);
        if r.below(100) < 30 {
            us.window = us.window.wrapping_add(r.below(2_000) as u32) & 0xff_ffff;
        }
        let window = if flags & SYN != 0 { us.window as u16 } else { (us.window >> us.scale) as u16 };
        tcp.extend(window.to_be_bytes());
        tcp.extend((r.next() as u16).to_be_bytes());
        tcp.extend([0, 0]);
        if flags & SYN != 0 {
            tcp.extend([2, 4]);
            tcp.extend((if self.v6 { 1440u16 } else { 1460 }).to_be_bytes());
            if self.timestamps {
                tcp.extend([4, 2, 8, 10]);
                tcp.extend(us.clock.to_be_bytes());
                tcp.extend(us.seen_clock.to_be_bytes());
                tcp.extend([1, 3, 3, us.scale]);
            } else {
                tcp.extend([1, 3, 3, us.scale, 1, 1, 4, 2]);
            }
        } else if self.timestamps {
            tcp.extend([1, 1, 8, 10]);
            tcp.extend(us.clock.to_be_bytes());
            tcp.extend(us.seen_clock.to_be_bytes());
        }
        if sack {
            tcp.extend([1, 1, 5, 10]);
            tcp.extend((us.acked + 2 * self.mss).to_be_bytes());
            tcp.extend((us.acked + 3 * self.mss).to_be_bytes());
        }
        tcp[12] = (tcp.len() as u8 / 4) << 4;
        us.seq = us.seq.wrapping_add(payload + u32::from(flags & (SYN | FIN) != 0));

        let mut data = Vec::with_capacity(128);
        for end in [&*them, &*us] {
            data.extend(if self.macs { end.mac } else { [0; 6] });
        }
        let after_ip = tcp.len() as u32 + payload;
        if self.v6 {
            data.extend([0x86, 0xdd, 0x60, (us.id & 0xf) as u8]);
            data.extend((us.seq_label()).to_be_bytes());
            data.extend((after_ip as u16).to_be_bytes());
            data.extend([6, us.ttl]);
            data.extend(us.address);
            data.extend(them.address);
        } else {
            let start = data.len() + 2;
            data.extend([8, 0, 0x45, 0]);
            data.extend((20 + after_ip as u16).to_be_bytes());
            let id = if flags == SYN | ACK || us.id_step == 0 { 0 } else { us.id };
            us.id = us.id.wrapping_add(us.id_step);
            data.extend(id.to_be_bytes());
            data.extend([0x40, 0, us.ttl, 6, 0, 0]);
            data.extend(&us.address[8..12]);
            data.extend(&them.address[8..12]);
            let sum: u32 = data[start..].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            data[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        }
        data.extend(tcp);
        let fields = [
            (self.nanos / 1_000_000_000) as u32,
            (self.nanos % 1_000_000_000) as u32,
            data.len() as u32,
            data.len() as u32 + payload,
        ];
        pcap.extend(fields.into_iter().flat_map(u32::to_le_bytes));
        pcap.extend(data);
    }
}

impl End {
    /// The low half of an IPv6 flow label: one for the flow's life.
    fn seq_label(&self) -> u16 {
        self.port.wrapping_mul(31).wrapping_add(u16::from(self.mac[5]))
    }
}

/// Marsaglia's xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|b| *b = self.next() as u8);
    }
}
