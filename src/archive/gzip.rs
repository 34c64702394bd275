//! gzip members (RFC 1952): one-shot compression with room for metadata in the header, and reading members back.

use super::deflate::Deflater;
use super::metadata::Metadata;
use super::tcp_info::FinalTcpInfo;
use libdeflater::crc32;
use std::io::Read;

/// Where the extra field's first byte is in a member that has metadata. No checksum covers it, so that it can be
/// overwritten in place once the flow has ended, by one of the same length.
pub const EXTRA_OFFSET: usize = HEADER_LEN + XLEN_LEN;

/// Compresses members; holds the compressor's tables and buffers, so one per thread and never one per flow.
pub struct Encoder {
    deflater: Deflater,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder without anything to encode.
    pub fn new() -> Self {
        Self { deflater: Deflater::new(), input: Vec::new(), output: Vec::new() }
    }

    /// Compresses `parts`, one after the other, as one member.
    pub fn member(&mut self, metadata: Option<&Metadata>, parts: &[&[u8]]) -> Box<[u8]> {
        self.input.clear();
        for part in parts {
            self.input.extend_from_slice(part);
        }
        self.output.clear();
        let has_extra = if metadata.is_some() { FEXTRA } else { 0 };
        self.output.extend([0x1f, 0x8b, DEFLATE, has_extra, 0, 0, 0, 0, 0, OS_UNKNOWN]);
        if let Some(metadata) = metadata {
            let extra = metadata.extra_field();
            self.output.extend((extra.as_bytes().len() as u16).to_le_bytes());
            self.output.extend(extra.as_bytes());
        }
        self.deflater.deflate(&mut self.input, &mut self.output);
        self.output.extend(crc32(&self.input).to_le_bytes());
        self.output.extend((self.input.len() as u32).to_le_bytes());
        // Neither buffer stays large after a large input.
        self.input.shrink_to(SCRATCH_KEPT);
        let member = self.output.as_slice().into();
        self.output.shrink_to(SCRATCH_KEPT);
        member
    }
}

/// What the whole members at the beginning of a file hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decoded {
    /// Their content, joined.
    pub bytes: Vec<u8>,
    /// The first member's metadata.
    pub metadata: Option<Metadata>,
    /// How many there are.
    pub members: usize,
    /// Those whose header holds anything but the metadata's subfields in the first one: no checksum covers it.
    pub strange_headers: usize,
    /// Bytes after the last whole one: a member that was cut, or garbage.
    pub leftover: usize,
}

/// Reads members until one is not whole, by structure or by checksum. The predecessor left garbage behind the member
/// where it wrote a file twice.
///
/// # Errors
/// Fails where the content is larger than [`MAX_DECODED`].
pub fn decode(file: &[u8]) -> Result<Decoded, TooLarge> {
    decode_within(file, MAX_DECODED)
}

/// As [`decode`], with another limit to the content's bytes.
pub(super) fn decode_within(file: &[u8], limit: u64) -> Result<Decoded, TooLarge> {
    let mut decoded = Decoded::default();
    let mut rest = file;
    while !rest.is_empty() {
        let whole = decoded.bytes.len();
        let room = limit.saturating_sub(whole as u64);
        let mut after = rest;
        let mut member = flate2::bufread::GzDecoder::new(&mut after);
        let read = member.by_ref().take(room + 1).read_to_end(&mut decoded.bytes);
        if (decoded.bytes.len() - whole) as u64 > room {
            return Err(TooLarge { limit });
        }
        if read.is_err() {
            decoded.bytes.truncate(whole);
            break;
        }
        if decoded.members == 0 {
            decoded.metadata = member.header().and_then(|h| h.extra()).and_then(Metadata::find);
        }
        drop(member);
        decoded.strange_headers += usize::from(!is_ours(rest, decoded.metadata.filter(|_| decoded.members == 0).as_ref()));
        decoded.members += 1;
        rest = after;
    }
    decoded.leftover = rest.len();
    Ok(decoded)
}

/// Whether a member begins as an encoder of this version writes it.
fn is_ours(member: &[u8], metadata: Option<&Metadata>) -> bool {
    let Some((fixed, rest)) = member.split_first_chunk::<HEADER_LEN>() else { return false };
    let flags = if metadata.is_some() { FEXTRA } else { 0 };
    if *fixed != [0x1f, 0x8b, DEFLATE, flags, 0, 0, 0, 0, 0, OS_UNKNOWN] {
        return false;
    }
    let Some(metadata) = metadata else { return true };
    let extra = metadata.extra_field();
    // Room that was not used reads as none.
    let room = Metadata { tcp_info: Some(FinalTcpInfo::room()), ..*metadata }.extra_field();
    let Some((len, rest)) = rest.split_first_chunk() else { return false };
    rest.get(..u16::from_le_bytes(*len).into()).is_some_and(|field| [extra.as_bytes(), room.as_bytes()].contains(&field))
}

/// The metadata of a file that begins with these bytes.
pub fn metadata(start: &[u8]) -> Option<Metadata> {
    let (head, rest) = start.split_first_chunk::<{ HEADER_LEN + XLEN_LEN }>()?;
    if head[..3] != [0x1f, 0x8b, DEFLATE] || head[3] & FEXTRA == 0 {
        return None;
    }
    Metadata::find(rest.get(..u16::from_le_bytes([head[10], head[11]]).into())?)
}

/// Most bytes that [`decode`] gives: no header archive of one flow comes near, a crafted file could.
pub const MAX_DECODED: u64 = 1 << 30;

/// The content is larger than the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("holds more than {limit} bytes")]
pub struct TooLarge {
    /// The limit in bytes.
    pub limit: u64,
}

const HEADER_LEN: usize = 10;
const XLEN_LEN: usize = 2;
const DEFLATE: u8 = 8;
const FEXTRA: u8 = 4;
const OS_UNKNOWN: u8 = 255;
/// Room for a segment: nearly all inputs.
const SCRATCH_KEPT: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_that_holds_what_no_encoder_wrote_is_told() {
        let strange = |file: &[u8]| decode(file).unwrap().strange_headers;
        let mut encoder = Encoder::new();
        let used = FinalTcpInfo { cookie: 7, rtt: 9, ..FinalTcpInfo::default() };
        for tcp_info in [None, Some(FinalTcpInfo::room()), Some(used)] {
            let metadata = Metadata { tcp_info, ..Metadata::UNFINISHED };
            let file = [encoder.member(Some(&metadata), &[b"ab"]), encoder.member(None, &[b"cd"])].concat();
            assert_eq!(strange(&file), 0);
            let xlen = u16::from_le_bytes([file[10], file[11]]);
            let mut more = file.clone();
            more[10..12].copy_from_slice(&(xlen + 7).to_le_bytes());
            more.splice(12 + usize::from(xlen)..12 + usize::from(xlen), *b"XX\x03\x00abc");
            assert_eq!((strange(&more), decode(&more).unwrap().members), (1, 2), "another subfield");
            let mut reserved = file.clone();
            reserved[EXTRA_OFFSET + 4 + 7] = b'p';
            assert_eq!(strange(&reserved), 1, "a reserved byte");
            let mut time = file.clone();
            time[4] = 1;
            assert_eq!(strange(&time), 1);
        }
        let named = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 255][..], b"secret\0", &encoder.member(None, &[b"x"])[10..]].concat();
        assert_eq!((strange(&named), decode(&named).unwrap().members), (1, 1), "a file name");
    }

    #[test]
    fn members_join_and_the_first_ones_metadata_is_found() {
        let mut encoder = Encoder::new();
        let file = [encoder.member(Some(&Metadata::UNFINISHED), &[b"ab", b"cd"]), encoder.member(None, &[b"ef"])].concat();
        let extra = Metadata::UNFINISHED.extra_field();
        assert_eq!(&file[EXTRA_OFFSET..][..extra.as_bytes().len()], extra.as_bytes());
        let decoded = decode(&file).unwrap();
        let expected = Decoded {
            bytes: b"abcdef".to_vec(),
            metadata: Some(Metadata::UNFINISHED),
            members: 2,
            strange_headers: 0,
            leftover: 0,
        };
        assert_eq!(decoded, expected);
    }

    #[test]
    fn what_follows_the_last_whole_member_is_left() {
        let mut encoder = Encoder::new();
        let first = encoder.member(None, &[b"kept"]);
        let mut damaged = encoder.member(None, &[b"a checksum that does not hold"]);
        let at = damaged.len() - 6;
        damaged[at] ^= 1;
        for tail in [&b"garbage"[..], &[0x1f], &first[..first.len() - 1], &damaged] {
            let decoded = decode(&[&first, tail].concat()).unwrap();
            assert_eq!((decoded.bytes.as_slice(), decoded.members, decoded.leftover), (&b"kept"[..], 1, tail.len()));
        }
    }

    #[test]
    fn a_file_that_swells_past_the_limit_is_refused() {
        let file = Encoder::new().member(None, &[&[0; 1000]]).repeat(3);
        for (limit, expected) in [(2_999, Err(TooLarge { limit: 2_999 })), (3_000, Ok(3_000)), (3_001, Ok(3_000))] {
            assert_eq!(decode_within(&file, limit).map(|decoded| decoded.bytes.len()), expected);
        }
    }

    proptest! {
        #[test]
        fn any_content_comes_back(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..4)) {
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let decoded = decode(&Encoder::new().member(None, &slices)).unwrap();
            prop_assert_eq!(decoded.bytes, parts.concat());
        }

        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
            if magic {
                bytes.splice(0..0, [0x1f, 0x8b, 8]);
            }
            let decoded = decode(&bytes).unwrap();
            prop_assert!(decoded.leftover <= bytes.len());
        }
    }
}
