//! IPv6 extension headers (RFC 8200 section 4) and the Authentication Header (RFC 4302), which IPv4 has too.
//!
//! The parser and the scrubber walk the same chains; this is what they must agree on.

/// Hop-by-Hop Options, RFC 8200 section 4.3: only ever the first.
pub(crate) const HOP_BY_HOP: u8 = 0;
/// Routing, RFC 8200 section 4.4.
pub(crate) const ROUTING: u8 = 43;
/// Fragment, RFC 8200 section 4.5.
pub(crate) const FRAGMENT: u8 = 44;
/// Authentication Header, RFC 4302.
pub(crate) const AUTHENTICATION: u8 = 51;
/// Destination Options, RFC 8200 section 4.6.
pub(crate) const DESTINATION: u8 = 60;
/// Mobility, RFC 6275 section 6.1.
pub(crate) const MOBILITY: u8 = 135;
/// Host Identity Protocol, RFC 7401 section 5.1.
pub(crate) const HOST_IDENTITY: u8 = 139;
/// Shim6, RFC 5533 section 5.
pub(crate) const SHIM6: u8 = 140;

/// The Authentication Header's bytes before its integrity check value.
pub(crate) const AUTHENTICATION_FIXED: usize = 12;

/// The length in bytes of the extension header of this number, given its second byte; at least 8. `None` if no such
/// header is known, or if its length contradicts its fixed part.
#[inline]
pub(crate) fn len(number: u8, second_byte: u8) -> Option<usize> {
    let units = usize::from(second_byte);
    match number {
        HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => Some((units + 1) * 8),
        FRAGMENT => Some(8),
        AUTHENTICATION if units > 0 => Some((units + 2) * 4),
        _ => None,
    }
}

/// Whether this number is that of an extension header at all.
#[inline]
pub(crate) fn is_extension(number: u8) -> bool {
    matches!(number, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6)
}

/// Hands each header of a chain that begins with this number to `each`, with its number; returns what is behind the last that
/// is whole and known.
pub(crate) fn walk(mut number: u8, mut rest: &mut [u8], mut each: impl FnMut(u8, &mut [u8])) -> &mut [u8] {
    while let [next, second_byte, ..] = *rest {
        let Some(len) = len(number, second_byte).filter(|len| *len <= rest.len()) else { break };
        let (header, following) = rest.split_at_mut(len);
        each(number, header);
        (number, rest) = (next, following);
    }
    rest
}
