//! Finds the files in a tar stream (POSIX ustar and pax, and GNU's long names), given in pieces.

use std::io;

/// A file in a tar stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Its path, without a leading `./`.
    pub(super) path: String,
    /// Where its content begins in the stream.
    pub(super) offset: u64,
    /// The bytes of its content.
    pub(super) content: Vec<u8>,
}

/// Takes a stream and gives files.
#[derive(Debug)]
pub(super) struct Reader {
    /// What of the current header or file has come.
    gathered: Vec<u8>,
    state: State,
    offset: u64,
    /// A name for the next file that does not fit its header.
    long_name: Option<String>,
}

#[derive(Debug)]
enum State {
    Header,
    /// A file's content, and zeros to whole blocks behind it.
    Content {
        kind: Kind,
        path: String,
        len: u64,
        left: u64,
    },
    /// Two blocks of zeros were seen, or one.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    File,
    /// A pax header for the next file.
    Pax,
    /// GNU's name of the next file.
    LongName,
    Other,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { gathered: Vec::new(), state: State::Header, offset: 0, long_name: None }
    }

    /// Takes the next bytes of the stream; files that are whole go to `found`.
    ///
    /// # Errors
    /// Fails where the stream is no tar.
    pub(super) fn take(&mut self, mut bytes: &[u8], found: &mut dyn FnMut(Entry)) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Ended => return Ok(()),
                State::Header => {
                    let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.gathered.len()));
                    self.gathered.extend_from_slice(now);
                    self.offset += now.len() as u64;
                    bytes = rest;
                    if self.gathered.len() == BLOCK {
                        let header = std::mem::take(&mut self.gathered);
                        self.header(&header)?;
                        self.end_if_whole(found);
                    }
                }
                State::Content { len, left, .. } => {
                    let (now, rest) = bytes.split_at(usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len()));
                    let wanted = usize::try_from(*len).unwrap_or(usize::MAX) - self.gathered.len();
                    self.gathered.extend_from_slice(&now[..now.len().min(wanted)]);
                    *left -= now.len() as u64;
                    self.offset += now.len() as u64;
                    bytes = rest;
                    self.end_if_whole(found);
                }
            }
        }
        Ok(())
    }

    /// Whether the stream may end here. Some archivers leave the blocks of zeros out.
    pub(super) fn is_whole(&self) -> bool {
        match self.state {
            State::Ended => true,
            State::Header => self.gathered.is_empty(),
            State::Content { .. } => false,
        }
    }

    fn header(&mut self, header: &[u8]) -> io::Result<()> {
        if header.iter().all(|b| *b == 0) {
            self.state = State::Ended;
            return Ok(());
        }
        let sum: u64 = header.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
        if number(&header[148..156]) != Some(sum) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a tar archive"));
        }
        let len = number(&header[124..136]).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a file of no length"))?;
        let kind = match header[156] {
            b'0' | 0 => Kind::File,
            b'x' => Kind::Pax,
            b'L' => Kind::LongName,
            _ => Kind::Other,
        };
        if kind != Kind::Other && len > LARGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a file of more than 1 GiB"));
        }
        let name = text(&header[..100]);
        let path = match text(&header[345..500]) {
            prefix if &header[257..262] == b"ustar" && !prefix.is_empty() => format!("{prefix}/{name}"),
            _ => name,
        };
        let path = if kind == Kind::File { self.long_name.take().unwrap_or(path) } else { path };
        // Only what is kept is gathered.
        let kept = if kind == Kind::Other { 0 } else { len };
        self.state = State::Content { kind, path, len: kept, left: len.next_multiple_of(BLOCK as u64) };
        Ok(())
    }

    fn end_if_whole(&mut self, found: &mut dyn FnMut(Entry)) {
        let State::Content { kind, path, left: 0, len } = &mut self.state else { return };
        let content = std::mem::take(&mut self.gathered);
        match kind {
            Kind::File => {
                let offset = self.offset - len.next_multiple_of(BLOCK as u64);
                let path = path.trim_start_matches("./").to_owned();
                found(Entry { path, offset, content });
            }
            Kind::Pax => self.long_name = pax_path(&content),
            Kind::LongName => self.long_name = Some(text(&content)),
            Kind::Other => {}
        }
        self.state = State::Header;
    }
}

/// Text up to a zero byte.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// A number in octal digits, or in base 256 (GNU).
fn number(bytes: &[u8]) -> Option<u64> {
    if bytes[0] & 0x80 != 0 {
        return bytes[1..].iter().try_fold(u64::from(bytes[0] & 0x7f), |n, b| n.checked_mul(256)?.checked_add((*b).into()));
    }
    let digits = text(bytes);
    u64::from_str_radix(digits.trim(), 8).ok()
}

/// The path in a pax header: lines of `LENGTH path=PATH`.
fn pax_path(header: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(header);
    text.lines().find_map(|line| Some(line.split_once(' ')?.1.strip_prefix("path=")?.to_owned()))
}

const BLOCK: usize = 512;

/// Contents wait in memory.
const LARGEST: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(name: &str, len: usize, kind: u8) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{len:011o}").as_bytes());
        header[156] = kind;
        header[257..262].copy_from_slice(b"ustar");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header
    }

    fn file(name: &str, content: &[u8], kind: u8) -> Vec<u8> {
        let mut bytes = header(name, content.len(), kind);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    proptest! {
        #[test]
        fn files_are_found_however_the_stream_is_cut(cut in 1usize..3000) {
            let long = "d/".repeat(80) + "long";
            let pax = format!("{} path={long}\n", long.len() + 10);
            let parts = [
                file("./a", b"", b'0'), file("d", b"", b'5'), file("b/c", &[7; 700], b'0'),
                file("x", pax.as_bytes(), b'x'), file("cut", &[8; 512], b'0'), file("d", &[9; 5], 0), vec![0; 1024], vec![1; 99],
            ];
            let bytes = parts.concat();
            let (mut reader, mut found) = (Reader::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                reader.take(piece, &mut |entry| found.push(entry)).unwrap();
            }
            let expected = [("a", 0), ("b/c", 700), (long.as_str(), 512), ("d", 5)];
            prop_assert_eq!(found.iter().map(|e| (e.path.as_str(), e.content.len())).collect::<Vec<_>>(), expected);
            for entry in &found {
                prop_assert_eq!(&bytes[entry.offset as usize..][..entry.content.len()], &entry.content[..]);
            }
        }

        #[test]
        fn any_bytes_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let _ = Reader::new().take(&bytes, &mut |_| {});
        }
    }
}
