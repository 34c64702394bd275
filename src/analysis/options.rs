//! The options of a TCP header, as far as they were captured.

/// What a TCP header's options say.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Options {
    /// Maximum segment size (RFC 9293 section 3.2).
    pub(super) mss: Option<u16>,
    /// Window scale shift (RFC 7323 section 2); at most 14 counts.
    pub(super) window_scale: Option<u8>,
    /// SACK permitted (RFC 2018 section 2).
    pub(super) sack_permitted: bool,
    /// TSval and TSecr (RFC 7323 section 3.2).
    pub(super) timestamps: Option<(u32, u32)>,
    /// Fast Open, as option 34 (RFC 7413) or experiment 254 with its magic number.
    pub(super) fast_open: bool,
    /// Multipath TCP (RFC 8684).
    pub(super) multipath: bool,
    /// SACK blocks in their order (RFC 2018 section 3).
    pub(super) sack: [(u32, u32); MAX_BLOCKS],
    /// How many of `sack` there are.
    pub(super) sack_blocks: usize,
}

/// No more SACK blocks fit in a header.
pub(super) const MAX_BLOCKS: usize = 4;

impl Options {
    /// Reads options up to the first that is broken or cut.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut options = Self::default();
        // What nearly every segment of a connection with timestamps has, and nothing else (RFC 7323 appendix A).
        if let &[NOP, NOP, TIMESTAMPS, 10, a, b, c, d, e, f, g, h] = bytes {
            options.timestamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
            return options;
        }
        let mut rest = bytes;
        while let &[kind, ..] = rest {
            match kind {
                END => break,
                NOP => rest = &rest[1..],
                _ => {
                    let Some(len) = rest.get(1).map(|len| usize::from(*len)).filter(|len| *len >= 2) else { break };
                    let Some((option, next)) = rest.split_at_checked(len) else { break };
                    options.take(kind, &option[2..]);
                    rest = next;
                }
            }
        }
        options
    }

    fn take(&mut self, kind: u8, data: &[u8]) {
        match (kind, data) {
            (MSS, &[hi, lo]) => self.mss = Some(u16::from_be_bytes([hi, lo])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(MAX_SHIFT)),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (SACK, blocks) => {
                for (block, kept) in blocks.as_chunks::<8>().0.iter().zip(&mut self.sack) {
                    let [a, b, c, d, e, f, g, h] = *block;
                    *kept = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                    self.sack_blocks += 1;
                }
            }
            (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                self.timestamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
            }
            (MULTIPATH, _) => self.multipath = true,
            (FAST_OPEN, _) | (EXPERIMENT, &[0xf9, 0x89, ..]) => self.fast_open = true,
            _ => {}
        }
    }
}

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const MULTIPATH: u8 = 30;
const FAST_OPEN: u8 = 34;
const EXPERIMENT: u8 = 254;

/// RFC 7323 section 2.3: a larger shift counts as this one.
const MAX_SHIFT: u8 = 14;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_options_of_a_syn_are_read() {
        let options = Options::parse(&[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7, 34, 2, 30, 4, 0, 0]);
        assert_eq!((options.mss, options.window_scale, options.timestamps), (Some(1460), Some(7), Some((1, 2))));
        assert!(options.sack_permitted && options.fast_open && options.multipath);
        assert_eq!(Options::parse(&[3, 3, 200]).window_scale, Some(14));
    }

    #[test]
    fn sack_blocks_keep_their_order() {
        let mut bytes = vec![1, 1, 5, 18];
        bytes.extend([0, 0, 0, 9, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 4]);
        let options = Options::parse(&bytes);
        assert_eq!(&options.sack[..options.sack_blocks], [(9, 12), (1, 4)]);
    }

    #[test]
    fn what_is_cut_is_not_there_and_what_came_before_it_is() {
        let options = Options::parse(&[2, 4, 5, 180, 8, 10, 0, 0]);
        assert_eq!((options.mss, options.timestamps), (Some(1460), None));
    }

    proptest! {
        #[test]
        fn the_short_cut_for_timestamps_reads_what_the_long_way_does(value: u32, echo: u32) {
            let mut bytes = vec![1, 1, 8, 10];
            bytes.extend(value.to_be_bytes());
            bytes.extend(echo.to_be_bytes());
            let long = [&bytes[..], &[1]].concat();
            prop_assert_eq!(Options::parse(&bytes), Options::parse(&long));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..45)) {
            prop_assert!(Options::parse(&bytes).sack_blocks <= MAX_BLOCKS);
        }
    }
}
