//! From a stream of bytes to events: line framing with a cap, tolerant of everything.
//!
//! Nothing here does I/O. Whoever reads a socket or a file hands over the bytes as they come and asks for what they
//! hold; so socket and file have one idea of what a line is and of what is wrong with one.

use crate::protocol::Event;
use std::fmt;

/// Longest line taken, in bytes, without its line end. Real lines have about 200.
pub const MAX_LINE: usize = 1 << 20;

/// How much is worth reading at once: some 300 lines. A [`Decoder`] that is emptied after each chunk of this size
/// holds at most [`MAX_LINE`] bytes and one chunk.
pub const CHUNK: usize = 64 << 10;

/// Splits bytes into lines and lines into events.
///
/// ```
/// use flowarc_eventsocket::{BadKind, Decoder};
///
/// let mut decoder = Decoder::new();
/// decoder.handle_bytes(b"{\"Event\":1,\"UUID\":\"a\"}\n\n{\"Ev");
/// assert_eq!(decoder.poll().unwrap().unwrap().uuid, "a");
/// assert_eq!(decoder.poll().unwrap().unwrap_err().kind, BadKind::Empty);
/// assert!(decoder.poll().is_none());
/// assert_eq!(decoder.finish().unwrap().unwrap_err().kind, BadKind::HalfLine);
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the first line not yet handed out begins.
    start: usize,
    /// How much of that line is known to hold no line end.
    scanned: usize,
    /// The line is too long, has been reported, and is being skipped.
    skipping: bool,
}

impl Decoder {
    /// A decoder at the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream; [`Self::poll`] until `None` before giving more.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line, or `None` if more bytes are needed for one.
    ///
    /// A line longer than [`MAX_LINE`] is reported as soon as that is known, and skipped to its end.
    pub fn poll(&mut self) -> Option<Result<Event, BadLine>> {
        loop {
            let line = &self.buffer[self.start..];
            let Some(end) = line[self.scanned..].iter().position(|&b| b == b'\n').map(|i| self.scanned + i) else {
                if !self.skipping && line.len() <= MAX_LINE {
                    self.scanned = line.len();
                    return None;
                }
                let known = std::mem::replace(self, Self { skipping: true, ..Self::default() }).skipping;
                return (!known).then(|| Err(BadLine::too_long()));
            };
            let line = &line[..end];
            self.start += end + 1;
            self.scanned = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            return Some(if line.len() > MAX_LINE { Err(BadLine::too_long()) } else { Event::decode(line) });
        }
    }

    /// Ends the stream and makes the decoder ready for another.
    ///
    /// A last line without its end counts if it is whole, as in Go; else it is [`BadKind::HalfLine`].
    pub fn finish(&mut self) -> Option<Result<Event, BadLine>> {
        let last = std::mem::take(self);
        let line = &last.buffer[last.start..];
        if last.skipping || line.trim_ascii().is_empty() {
            return None;
        }
        Some(Event::decode(line).map_err(|bad| BadLine { kind: BadKind::HalfLine, detail: bad.detail }))
    }
}

/// A line that is no event: skipped, counted, and never a reason to stop.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct BadLine {
    /// What is wrong, for a metric.
    pub kind: BadKind,
    /// What is wrong, for a log. Holds nothing of the line, which names addresses.
    pub detail: String,
}

/// What can be wrong with a line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BadKind {
    /// Nothing but white space.
    Empty,
    /// Longer than [`MAX_LINE`].
    TooLong,
    /// Not JSON, or JSON that is no event.
    Malformed,
    /// The stream ended in the middle of the line.
    HalfLine,
}

impl BadKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Empty, Self::TooLong, Self::Malformed, Self::HalfLine];

    /// The kind's name as a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "toolong",
            Self::Malformed => "malformed",
            Self::HalfLine => "halfline",
        }
    }
}

impl fmt::Display for BadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl BadLine {
    pub(crate) fn empty() -> Self {
        Self { kind: BadKind::Empty, detail: "line without content".into() }
    }

    pub(crate) fn too_long() -> Self {
        Self { kind: BadKind::TooLong, detail: format!("line of more than {MAX_LINE} bytes") }
    }

    /// serde_json's own message can quote the line, so only its class and place are kept.
    pub(crate) fn malformed(error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        let what = match error.classify() {
            Category::Data => "a value of the wrong type or out of range",
            Category::Eof => "JSON that ends early",
            Category::Syntax | Category::Io => "not JSON",
        };
        Self { kind: BadKind::Malformed, detail: format!("{what}, at column {}", error.column()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = r#"{"Event":1,"Timestamp":"2026-11-21T00:11:15.670925147Z","UUID":"u","ID":null}"#;

    /// What a stream holds: `Ok(uuid)` or the kind of the bad line, when it comes in these chunks.
    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<String, BadKind>> {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        for chunk in chunks {
            decoder.handle_bytes(chunk);
            found.extend(std::iter::from_fn(|| decoder.poll()));
            assert!(decoder.buffer.len() <= MAX_LINE + chunk.len());
        }
        found.extend(decoder.finish());
        found.into_iter().map(|r| r.map(|e| e.uuid).map_err(|b| b.kind)).collect()
    }

    fn event(uuid: &str) -> Result<String, BadKind> {
        Ok(uuid.into())
    }

    /// A valid line of exactly this length, without its end.
    fn line_of(len: usize) -> String {
        format!(r#"{{"UUID":"u"{}}}"#, " ".repeat(len - 12))
    }

    #[test]
    fn a_line_split_at_every_byte_is_one_line() {
        let stream = format!("{LINE}\n{LINE}\n");
        assert_eq!(decode(stream.as_bytes().chunks(1)), [event("u"), event("u")]);
    }

    #[test]
    fn bad_lines_do_not_harm_their_neighbours() {
        let stream = format!("\n{LINE}\nnonsense\n{LINE}\n{{\n");
        let expected = [Err(BadKind::Empty), event("u"), Err(BadKind::Malformed), event("u"), Err(BadKind::Malformed)];
        assert_eq!(decode([stream.as_bytes()]), expected);
    }

    #[test]
    fn the_cap_holds_below_at_and_above() {
        for (len, expected) in [(MAX_LINE - 1, event("u")), (MAX_LINE, event("u")), (MAX_LINE + 1, Err(BadKind::TooLong))] {
            let stream = line_of(len) + "\n{}\n";
            for chunk in [1000, CHUNK, 4 * MAX_LINE] {
                assert_eq!(decode(stream.as_bytes().chunks(chunk)), [expected.clone(), event("")], "{len} {chunk}");
            }
        }
    }

    #[test]
    fn an_endless_line_is_reported_at_once_and_once_and_not_kept() {
        let mut decoder = Decoder::new();
        let mut reports = 0;
        for _ in 0..100 {
            decoder.handle_bytes(&[b'x'; CHUNK]);
            reports += std::iter::from_fn(|| decoder.poll()).count();
            assert!(decoder.buffer.len() <= MAX_LINE + CHUNK);
        }
        assert_eq!(reports, 1);
        decoder.handle_bytes(format!("tail\n{LINE}\n").as_bytes());
        assert!(decoder.poll().unwrap().is_ok());
        assert!(decoder.poll().is_none());
    }

    #[test]
    fn a_stream_that_ends_in_a_line_too_long_reports_it_once() {
        let stream = "x".repeat(MAX_LINE + 2);
        assert_eq!(decode(stream.as_bytes().chunks(CHUNK)), [Err(BadKind::TooLong)]);
    }

    #[test]
    fn a_half_line_at_the_end_is_told_from_a_whole_one_without_its_line_end() {
        assert_eq!(decode([format!("{LINE}\n{LINE}").as_bytes()]), [event("u"), event("u")]);
        assert_eq!(decode([format!("{LINE}\n{}", &LINE[..40]).as_bytes()]), [event("u"), Err(BadKind::HalfLine)]);
        assert_eq!(decode([b"".as_slice()]), []);
    }

    #[test]
    fn a_decoder_is_as_new_after_the_end() {
        let mut decoder = Decoder::new();
        decoder.handle_bytes(&[b'x'; MAX_LINE + 1]);
        assert!(decoder.poll().is_some());
        assert!(decoder.finish().is_none());
        decoder.handle_bytes(b"{}\n");
        assert!(decoder.poll().unwrap().is_ok());
    }

    #[test]
    fn the_list_of_kinds_follows_the_discriminants() {
        for (i, kind) in BadKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
        }
    }

    proptest! {
        #[test]
        fn how_bytes_are_split_does_not_matter(
            pieces in proptest::collection::vec(
                prop_oneof![Just(LINE.as_bytes().to_vec()), Just(b"\n".to_vec()), proptest::collection::vec(any::<u8>(), 0..20)],
                0..20,
            ),
            chunk in 1usize..50,
        ) {
            let stream = pieces.concat();
            prop_assert_eq!(decode(stream.chunks(chunk)), decode([stream.as_slice()]));
        }
    }
}
