//! What a cutoff would keep, for a row of cutoffs: the share of flows kept whole, and the share of their bytes.

use std::fmt;

/// Counts as packets and flows go by; no state per flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    flows: u64,
    bytes: u64,
    /// Of each cutoff: flows kept whole, and bytes kept.
    kept: [(u64, u64); CUTOFFS.len()],
}

impl Default for Report {
    fn default() -> Self {
        Self { flows: 0, bytes: 0, kept: [(0, 0); CUTOFFS.len()] }
    }
}

impl Report {
    /// Takes a packet that brings a flow's payload from `before` to `after` bytes.
    pub fn packet(&mut self, before: u64, after: u64) {
        for (cutoff, (_, bytes)) in CUTOFFS.iter().zip(&mut self.kept) {
            // The packet that does not fit any more is the first that is not kept.
            if (before..after).contains(cutoff) {
                *bytes += before;
            }
        }
    }

    /// Takes a flow that has ended with this payload.
    pub fn flow(&mut self, total: u64) {
        self.flows += 1;
        self.bytes += total;
        for (cutoff, (whole, bytes)) in CUTOFFS.iter().zip(&mut self.kept) {
            if total <= *cutoff {
                *whole += 1;
                *bytes += total;
            }
        }
    }

    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.bytes += other.bytes;
        for ((whole, bytes), (w, b)) in self.kept.iter_mut().zip(other.kept) {
            *whole += w;
            *bytes += b;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, all: u64| if all == 0 { 100.0 } else { part as f64 * 100.0 / all as f64 };
        writeln!(f, "{} flows, {} bytes of payload", self.flows, self.bytes)?;
        writeln!(f, "{:>8} {:>18} {:>12}", "cutoff", "flows kept whole", "bytes kept")?;
        for (cutoff, (whole, bytes)) in CUTOFFS.iter().zip(self.kept) {
            let (whole, bytes) = (share(whole, self.flows), share(bytes, self.bytes));
            let name = match cutoff {
                n if n % 1_000_000 == 0 => format!("{}MB", n / 1_000_000),
                n => format!("{}KB", n / 1_000),
            };
            writeln!(f, "{name:>8} {whole:>17.3}% {bytes:>11.3}%")?;
        }
        write!(f, "{:>8} {:>17.3}% {:>11.3}%", "none", 100.0, 100.0)
    }
}

/// Bytes, in the decimal units of every flag.
const CUTOFFS: [u64; 15] = {
    let mut row = [1_000; 15];
    let mut i = 1;
    while i < row.len() {
        row[i] = if i == 10 { 1_000_000 } else { row[i - 1] * 2 };
        i += 1;
    }
    row
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_that_of_powers_of_two_from_1_kb_to_16_mb() {
        assert_eq!(CUTOFFS[6], 64_000);
        assert_eq!((CUTOFFS[9], CUTOFFS[10], CUTOFFS[14]), (512_000, 1_000_000, 16_000_000));
    }

    #[test]
    fn a_flow_at_the_cutoff_is_whole_and_one_above_keeps_what_came_before() {
        let mut report = Report::default();
        // Two flows: 600 + 400 bytes, which is the first cutoff, and one byte more in a third packet.
        for sizes in [&[600, 400][..], &[600, 400, 1]] {
            let mut total = 0;
            for size in sizes {
                report.packet(total, total + size);
                total += size;
            }
            report.flow(total);
        }
        assert_eq!((report.flows, report.bytes), (2, 2001));
        assert_eq!(report.kept[0], (1, 2000));
        assert_eq!(report.kept[1], (2, 2001));
        let text = report.to_string();
        assert!(text.contains("     1KB            50.000%      99.950%"), "{text}");
    }
}
