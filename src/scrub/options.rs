//! Options of IPv4, IPv6 and TCP: which may stay as they are when addresses are hidden, and what is left of the others.

/// TCP option kind of timestamps (RFC 7323 section 3.2).
pub(super) const TCP_TIMESTAMPS: u8 = 8;

/// Hands each option of an IPv4 or TCP header to `each`, kind and length bytes included, so at least two bytes.
///
/// The two share one form: kind 0 ends the list, kind 1 is a byte alone, all others have a length that counts kind and
/// length. What follows the end is zeroed, and so is everything from an option that cannot be one. Returns whether
/// neither changed a byte.
pub(super) fn walk(options: &mut [u8], mut each: impl FnMut(&mut [u8])) -> bool {
    let mut rest = options;
    loop {
        match *rest {
            [] => return true,
            [END, ..] => {
                let was_zero = rest.iter().all(|b| *b == 0);
                rest.fill(0);
                return was_zero;
            }
            [NOP, ..] => rest = &mut rest[1..],
            [_, len, ..] if len >= 2 && usize::from(len) <= rest.len() => {
                let (option, following) = rest.split_at_mut(usize::from(len));
                each(option);
                rest = following;
            }
            _ => {
                rest.fill(0);
                return false;
            }
        }
    }
}

/// Whether TCP options are what nearly all packets have, and tell no address: two bytes of padding and timestamps (RFC 7323
/// appendix A).
pub(super) fn are_timestamps(options: &[u8]) -> bool {
    options.len() == 12 && options.starts_with(&[NOP, NOP, TCP_TIMESTAMPS, 10])
}

/// Hides what an IPv4 option may tell of addresses.
pub(super) fn hide_ipv4(option: &mut [u8]) {
    match (option[0], option.len()) {
        // Record route, loose and strict source route, timestamp: kind, length and pointer say how far it was filled.
        (7 | 131 | 137 | 68, len) => option[len.min(3)..].fill(0),
        // Router alert (RFC 2113), stream id (RFC 791), security (RFC 791, RFC 1108).
        (148 | 136, 4) | (130, 3..=11) => {}
        _ => option.fill(NOP),
    }
}

/// Hides what a TCP option may tell of addresses.
pub(super) fn hide_tcp(option: &mut [u8]) {
    match *option {
        // Segment size, window scale, SACK permitted, SACK, timestamps, quick-start response, user timeout.
        [2, 4, ..]
        | [3, 3, ..]
        | [4, 2, ..]
        | [5, 10 | 18 | 26 | 34, ..]
        | [TCP_TIMESTAMPS, 10, ..]
        | [27, 8, ..]
        | [28, 4, ..] => {}
        // Multipath TCP (RFC 8684): ADD_ADDR (subtype 3) holds an address, and a digest of it; 9 and above may.
        [30, len, subtype, ..] => {
            if matches!(subtype >> 4, 3 | 9..) {
                option[usize::from(len).min(4)..].fill(0);
            }
            hide_payload_sum(option);
        }
        // Signatures cover the addresses (RFC 2385, RFC 5925), a Fast Open cookie is made of them (RFC 7413); of the rest
        // nothing is known.
        _ => option[2..].fill(0),
    }
}

/// Hides what a TCP option has of a sum over the payload: as the checksum, it gives short ones back.
pub(super) fn hide_payload_sum(option: &mut [u8]) {
    let data = match *option {
        // Alternate checksum data (RFC 1146), trailer checksum (kind 18 at IANA).
        [15 | 18, ..] => 2,
        // Multipath TCP (RFC 8684): MP_CAPABLE with a data length has the sum behind it, a data sequence signal behind its mapping.
        [30, 24, subtype, ..] if subtype >> 4 == 0 => 22,
        [30, _, 0x20..=0x2f, flags, ..] => {
            let numbers = if flags & 1 == 0 { 0 } else { 4 + usize::from(flags & 2) * 2 };
            let mapping = if flags & 4 == 0 { 0 } else { 4 + usize::from(flags & 8) / 2 + 6 };
            4 + numbers + mapping
        }
        _ => return,
    };
    option.iter_mut().skip(data).for_each(|b| *b = 0);
}

/// Hides what the options of an IPv6 hop-by-hop or destination options header may tell of addresses. Lengths here count
/// the data alone (RFC 8200 section 4.2).
pub(super) fn hide_ipv6(options: &mut [u8]) {
    let mut rest = options;
    loop {
        match *rest {
            [] => return,
            [PAD1, ..] => rest = &mut rest[1..],
            [kind, len, ..] if usize::from(len) + 2 <= rest.len() => {
                let (option, following) = rest.split_at_mut(usize::from(len) + 2);
                // Router alert (RFC 2711), tunnel encapsulation limit (RFC 2473), jumbo payload (RFC 2675).
                if !matches!((kind, len), (0x05, 2) | (0x04, 1) | (0xc2, 4)) {
                    option[2..].fill(0);
                }
                rest = following;
            }
            _ => return rest.fill(0),
        }
    }
}

const END: u8 = 0;
const NOP: u8 = 1;
const PAD1: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(options: &[u8]) -> Vec<u8> {
        let mut o = options.to_vec();
        walk(&mut o, hide_ipv4);
        o
    }

    fn tcp(options: &[u8]) -> Vec<u8> {
        let mut o = options.to_vec();
        walk(&mut o, hide_tcp);
        o
    }

    fn ipv6(options: &[u8]) -> Vec<u8> {
        let mut o = options.to_vec();
        hide_ipv6(&mut o);
        o
    }

    #[test]
    fn ipv4_route_and_timestamp_options_keep_kind_length_and_pointer() {
        for kind in [7, 131, 137, 68] {
            assert_eq!(ipv4(&[1, kind, 7, 8, 192, 0, 2, 9]), [1, kind, 7, 8, 0, 0, 0, 0]);
            assert_eq!(ipv4(&[kind, 2, 1, 1]), [kind, 2, 1, 1]);
        }
    }

    #[test]
    fn ipv4_options_that_hold_no_address_stay_and_unknown_ones_become_no_operation() {
        assert_eq!(ipv4(&[148, 4, 0, 0]), [148, 4, 0, 0]);
        assert_eq!(ipv4(&[136, 4, 0, 9]), [136, 4, 0, 9]);
        assert_eq!(ipv4(&[130, 3, 0xab, 1]), [130, 3, 0xab, 1]);
        assert_eq!(ipv4(&[94, 6, 1, 2, 3, 4, 148, 4, 0, 1]), [1, 1, 1, 1, 1, 1, 148, 4, 0, 1]);
        assert_eq!(ipv4(&[148, 6, 1, 2, 3, 4]), [1; 6], "a length that is not router alert's");
        assert_eq!(ipv4(&[&[130, 12][..], &[9; 10]].concat()), [1; 12], "longer than any security option");
    }

    #[test]
    fn the_rest_after_the_end_of_the_options_or_after_a_broken_one_is_zeroed() {
        assert_eq!(ipv4(&[1, 0, 5, 6]), [1, 0, 0, 0]);
        assert_eq!(ipv4(&[1, 7, 1, 6]), [1, 0, 0, 0]);
        assert_eq!(ipv4(&[1, 7, 9, 6]), [1, 0, 0, 0]);
        assert_eq!(tcp(&[2, 4, 5, 180, 8, 0, 1, 2]), [2, 4, 5, 180, 0, 0, 0, 0]);
        assert_eq!(tcp(&[1, 1, 1, 8]), [1, 1, 1, 0]);
        assert_eq!(tcp(&[8, 10, 1, 2, 3]), [0; 5], "cut by the snap length");
        assert_eq!(ipv6(&[5, 2, 0, 0, 0xc9, 9, 1]), [5, 2, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn tcp_options_that_hold_no_address_stay() {
        let handshake = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7];
        assert_eq!(tcp(&handshake), handshake);
        for blocks in 1..=4 {
            let sack = [&[1, 1, 5, 2 + 8 * blocks][..], &vec![0xee; 8 * usize::from(blocks)]].concat();
            assert_eq!(tcp(&sack), sack);
        }
        let rest = [27, 8, 1, 2, 3, 4, 5, 6, 28, 4, 1, 2];
        assert_eq!(tcp(&rest), rest);
    }

    #[test]
    fn tcp_options_made_of_addresses_and_unknown_ones_keep_kind_and_length() {
        for kind in [19, 29, 34, 6, 200, 253, 254] {
            assert_eq!(tcp(&[kind, 6, 1, 2, 3, 4]), [kind, 6, 0, 0, 0, 0]);
        }
        assert_eq!(tcp(&[2, 6, 1, 2, 3, 4]), [2, 6, 0, 0, 0, 0], "a length that is not the segment size's");
    }

    #[test]
    fn multipath_options_stay_except_those_that_announce_an_address() {
        let dss = [30, 8, 0x20, 1, 9, 9, 9, 9];
        assert_eq!(tcp(&dss), dss);
        assert_eq!(tcp(&[30, 8, 0x30, 5, 192, 0, 2, 1]), [30, 8, 0x30, 5, 0, 0, 0, 0]);
        assert_eq!(tcp(&[30, 8, 0xf0, 5, 192, 0, 2, 1]), [30, 8, 0xf0, 5, 0, 0, 0, 0]);
        assert_eq!(tcp(&[30, 3, 0x30, 1]), [30, 3, 0x30, 1]);
        assert_eq!(tcp(&[30, 2, 1, 1]), [30, 2, 1, 1]);
    }

    #[test]
    fn ipv6_options_keep_data_only_where_it_cannot_be_an_address() {
        assert_eq!(ipv6(&[0, 5, 2, 0, 9, 4, 1, 7]), [0, 5, 2, 0, 9, 4, 1, 7]);
        assert_eq!(ipv6(&[0xc2, 4, 0, 1, 2, 3]), [0xc2, 4, 0, 1, 2, 3]);
        assert_eq!(ipv6(&[1, 3, 7, 7, 7]), [1, 3, 0, 0, 0], "padding");
        let home_address = [&[0xc9, 16][..], &[9; 16]].concat();
        assert_eq!(ipv6(&home_address), [&[0xc9, 16][..], &[0; 16]].concat());
        assert_eq!(ipv6(&[5, 3, 1, 2, 3]), [5, 3, 0, 0, 0], "a length that is not router alert's");
    }
}
