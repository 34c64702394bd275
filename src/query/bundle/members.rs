//! The members of a bundle by path, in blocks that are read one at a time.
//!
//! A block is lines of `OFFSET LENGTH PATH`, packed with zstd. The directory has for each block its place, and its first path:
//! two words of 64 bits, the path's length in two bytes, the path.

use std::io;

/// A file within the bundle.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Member {
    pub(super) path: String,
    /// Of its content within the unpacked bundle.
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Some members in succession.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// Where it is within the index.
    pub(super) at: u64,
    pub(super) len: u64,
    /// The first member's path.
    pub(super) first: String,
}

/// Blocks and their directory.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub(super) blocks: Vec<u8>,
    pub(super) directory: Vec<u8>,
}

/// Packs members that are in the order of their paths; the blocks will be at `at` within the index.
pub(super) fn pack(members: &[Member], at: u64) -> io::Result<Packed> {
    let mut packed = Packed::default();
    for block in members.chunks(MEMBERS) {
        let lines: String = block.iter().map(|m| format!("{} {} {}\n", m.offset, m.len, m.path)).collect();
        let bytes = zstd::stream::encode_all(lines.as_bytes(), 3)?;
        let path = block.first().map_or("", |member| &member.path);
        for word in [at + packed.blocks.len() as u64, bytes.len() as u64] {
            packed.directory.extend(word.to_le_bytes());
        }
        packed.directory.extend((path.len() as u16).to_le_bytes());
        packed.directory.extend_from_slice(path.as_bytes());
        packed.blocks.extend(bytes);
    }
    Ok(packed)
}

/// Reads a directory, as far as it makes sense.
pub(super) fn blocks(mut directory: &[u8]) -> Vec<Block> {
    let mut blocks = Vec::new();
    while let Some((block, rest)) = next(directory) {
        blocks.push(block);
        directory = rest;
    }
    blocks
}

fn next(directory: &[u8]) -> Option<(Block, &[u8])> {
    let (at, rest) = directory.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (path, rest) = rest.split_first_chunk()?;
    let (path, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*path)))?;
    let first = String::from_utf8(path.to_vec()).ok()?;
    Some((Block { at: u64::from_le_bytes(*at), len: u64::from_le_bytes(*len), first }, rest))
}

/// Reads a block.
pub(super) fn unpack(block: &[u8]) -> io::Result<Vec<Member>> {
    let text = String::from_utf8(zstd::stream::decode_all(block)?).map_err(io::Error::other)?;
    Ok(text.lines().filter_map(of_line).collect())
}

fn of_line(line: &str) -> Option<Member> {
    let mut words = line.splitn(3, ' ');
    let [offset, len] = [words.next()?, words.next()?].map(|w| w.parse().ok());
    let (offset, len): (u64, u64) = (offset?, len?);
    offset.checked_add(len)?;
    Some(Member { offset, len, path: words.next()?.to_owned() })
}

/// Of a block: one is unpacked for each look-up, some 100 KB of text.
const MEMBERS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_are_the_same_behind_packing() {
        let path = |n: u64| format!("2026/11/21/a b \u{e9}{n:06}.pcap.gz");
        let members: Vec<Member> = (0..2_500).map(|n| Member { path: path(n), offset: n * 1_024, len: n }).collect();
        let packed = pack(&members, 80).unwrap();
        let blocks = blocks(&packed.directory);
        assert_eq!(blocks.iter().map(|b| &*b.first).collect::<Vec<_>>(), [path(0), path(1_024), path(2_048)]);
        let bytes = |block: &Block| &packed.blocks[(block.at - 80) as usize..][..block.len as usize];
        assert_eq!(blocks.iter().flat_map(|b| unpack(bytes(b)).unwrap()).collect::<Vec<_>>(), members);
    }

    #[test]
    fn a_member_that_ends_behind_all_that_can_be_is_none() {
        let lines = format!("{} 1 a\n{} 0 b\n", u64::MAX, u64::MAX);
        let members = unpack(&zstd::stream::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
        assert_eq!(members.iter().map(|m| &*m.path).collect::<Vec<_>>(), ["b"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            blocks(&bytes);
            let _ = unpack(&bytes);
        }
    }
}
