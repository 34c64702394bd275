//! Netblock masking that cannot be undone: addresses lose their host part, and so does everything else in the headers
//! that holds an address or was computed from one.
//!
//! What cannot be walked is zeroed from there on: a doubt costs information, never privacy.

use super::options::{self, walk};
use super::{Hide, hardware_addresses};
use crate::capture::LinkType;
use crate::key::Address;
use crate::packet::{IpVersion, extension};

/// Masks an IP header with its options and extension headers. The IPv4 checksum is left to [`fill_ipv4_checksum`].
pub(super) fn ip(version: IpVersion, ip: &mut [u8], hide: Hide) {
    match version {
        IpVersion::V4 => ipv4(ip, hide),
        IpVersion::V6 => ipv6(ip, hide),
    }
}

fn ipv4(ip: &mut [u8], hide: Hide) {
    let Some((fixed, rest)) = ip.split_first_chunk_mut::<20>() else {
        return ip.fill(0);
    };
    if hide.src {
        fixed[15] = 0;
    }
    if hide.dst {
        fixed[19] = 0;
    }
    let options_len = (usize::from(fixed[0] & 0x0f) * 4).saturating_sub(fixed.len());
    if options_len == 0 && rest.is_empty() {
        return;
    }
    let Some((options, after)) = rest.split_at_mut_checked(options_len) else {
        return rest.fill(0);
    };
    walk(options, options::hide_ipv4);
    extension_headers(fixed[9], after);
}

fn ipv6(ip: &mut [u8], hide: Hide) {
    let Some((fixed, rest)) = ip.split_first_chunk_mut::<40>() else {
        return ip.fill(0);
    };
    for (hidden, at) in [(hide.src, 8), (hide.dst, 24)] {
        if let (true, Some(address)) = (hidden, fixed[at..].first_chunk_mut()) {
            *address = Address(*address).netblock().0;
        }
    }
    extension_headers(fixed[6], rest);
}

/// Clears what extension headers tell of addresses; `rest` ends where the chain does.
fn extension_headers(number: u8, rest: &mut [u8]) {
    let behind = extension::walk(number, rest, |number, header| match number {
        extension::HOP_BY_HOP | extension::DESTINATION => options::hide_ipv6(&mut header[2..]),
        // Type and segments left stay.
        extension::ROUTING => header[4..].fill(0),
        extension::FRAGMENT => {}
        // The integrity check value covers the addresses (RFC 4302 section 3.3.3).
        extension::AUTHENTICATION => header[extension::AUTHENTICATION_FIXED..].fill(0),
        // Mobility, HIP and Shim6 exist to carry addresses, and have checksums over them.
        _ => header[2..].fill(0),
    });
    behind.fill(0);
}

/// Clears the checksum, which covers the addresses, and the options that may hold one or a digest of one.
pub(super) fn tcp(tcp: &mut [u8]) {
    if let Some((fixed, options)) = tcp.split_first_chunk_mut::<20>() {
        clear_tcp_checksum(fixed);
        if !options::are_timestamps(options) {
            walk(options, options::hide_tcp);
        }
    } else {
        tcp.fill(0);
    }
}

/// Zeroes the values of timestamp options; where the options cannot be walked, all the rest, which may hold one.
pub(super) fn tcp_timestamps(tcp: &mut [u8]) {
    let Some((fixed, options)) = tcp.split_first_chunk_mut::<20>() else { return };
    let mut found = false;
    let untouched = walk(options, |option| {
        if option[0] == options::TCP_TIMESTAMPS {
            option[2..].fill(0);
            found = true;
        }
    });
    if found || !untouched {
        clear_tcp_checksum(fixed);
    }
}

/// Zeroes the checksum of a TCP header, and what its options hold of sums over the payload.
pub(super) fn tcp_checksum(tcp: &mut [u8]) {
    if let Some((fixed, options)) = tcp.split_first_chunk_mut::<20>() {
        clear_tcp_checksum(fixed);
        if !options::are_timestamps(options) {
            walk(options, options::hide_payload_sum);
        }
    }
}

fn clear_tcp_checksum(fixed: &mut [u8; 20]) {
    fixed[16..18].fill(0);
}

/// Zeroes the hardware addresses of hidden ends, whatever they are: an IPv6 interface identifier may be made of one (RFC 4291
/// appendix A), and bridges of containers and clouds make them of IPv4 addresses (02:42:, 0a:58: or 42:01: and the four
/// bytes). To zero those alone would not do: the same one stands in files of the host's other address.
pub(super) fn link_layer(link: LinkType, header: &mut [u8], hide: Hide) {
    match link {
        LinkType::Ethernet => {
            for (address, hidden) in hardware_addresses(link, header).chunks_mut(6).zip([hide.dst, hide.src]) {
                if hidden {
                    address.fill(0);
                }
            }
        }
        // Only the sender's. One that is not of six bytes is a tunnel's outer IP address.
        LinkType::LinuxSll | LinkType::LinuxSll2 => {
            let address_len = if link == LinkType::LinuxSll { header.get(4..6) } else { header.get(11..12) };
            let is_hardware = matches!(address_len, Some([0, 6] | [6]));
            let keep = if is_hardware && !hide.src { 6 } else { 0 };
            hardware_addresses(link, header).iter_mut().skip(keep).for_each(|b| *b = 0);
        }
        LinkType::Null | LinkType::Loop | LinkType::Raw | LinkType::Other(_) => {}
    }
}

/// Computes the IPv4 header checksum anew (RFC 791 section 3.1, RFC 1071).
pub(super) fn fill_ipv4_checksum(ip: &mut [u8]) {
    match ip.first_chunk_mut::<20>() {
        // Of known length, so without a loop.
        Some(header) if header[0] & 0x0f == 5 => fill_checksum(header),
        _ => {
            let header_len = ip.first().map_or(0, |b| usize::from(b & 0x0f) * 4);
            ip.get_mut(..header_len).into_iter().for_each(fill_checksum);
        }
    }
}

#[inline(always)]
fn fill_checksum(header: &mut [u8]) {
    let Some(checksum) = header.get_mut(10..12) else { return };
    checksum.fill(0);
    // The header is whole words of 32 bits; their sum folds to that of its words of 16.
    let mut sum: u64 = header.chunks_exact(4).map(|b| u64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
