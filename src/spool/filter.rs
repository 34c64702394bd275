//! BPF filters in libpcap's language, for frames of any link type, run outside the kernel.
//!
//! A filter looks through VLAN tags, unless it speaks of tags itself: `tcp port 80` is true of a tagged frame too, and so
//! is the negation false. libpcap alone would need `vlan` in front, which a negation does not survive.

use crate::capture::LinkType;
use pcap::{BpfProgram, Capture, Linktype};
use std::sync::Arc;

/// A filter that libpcap takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter(Arc<str>);

/// A filter with its programs, one for each link type that has come up: for one thread.
pub struct Matcher {
    filter: Filter,
    /// Whether tags are for the filter to see.
    sees_tags: bool,
    programs: Vec<(LinkType, Option<BpfProgram>)>,
    untagged: Vec<u8>,
}

impl Filter {
    /// Takes a filter that makes sense on Ethernet or on raw IP.
    ///
    /// # Errors
    /// Gives libpcap's reason.
    pub fn parse(text: &str) -> Result<Self, BadFilter> {
        compile(LinkType::Ethernet, text).or_else(|e| compile(LinkType::Raw, text).map_err(|_| e))?;
        Ok(Self(text.into()))
    }

    /// The filter made ready to run.
    pub fn matcher(&self) -> Matcher {
        let sees_tags = self.0.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| TAG_WORDS.contains(&word));
        Matcher { filter: self.clone(), sees_tags, programs: Vec::new(), untagged: Vec::new() }
    }
}

impl Matcher {
    /// Whether a frame is one that the filter means. False where the link type has no such frames: `ether host` on raw IP.
    pub fn matches(&mut self, link: LinkType, data: &[u8]) -> bool {
        let known = self.programs.iter().position(|(l, _)| *l == link);
        let at = known.unwrap_or_else(|| {
            self.programs.push((link, compile(link, &self.filter.0).ok()));
            self.programs.len() - 1
        });
        let Some(program) = &self.programs[at].1 else { return false };
        let tags = if self.sees_tags || link != LinkType::Ethernet { 0 } else { tags_len(data) };
        if tags == 0 {
            return program.filter(data);
        }
        self.untagged.clear();
        self.untagged.extend_from_slice(&data[..12]);
        self.untagged.extend_from_slice(&data[12 + tags..]);
        program.filter(&self.untagged)
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matcher({:?})", self.filter.0)
    }
}

/// A filter that libpcap does not take.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} (pcap-filter(7) has the language)")]
pub struct BadFilter(String);

fn compile(link: LinkType, text: &str) -> Result<BpfProgram, BadFilter> {
    let bad = |e: pcap::Error| match e {
        pcap::Error::PcapError(reason) => BadFilter(reason),
        other => BadFilter(other.to_string()),
    };
    // DLT_RAW is 12 on Linux, where LINKTYPE_RAW is 101; the others are equal in both.
    let datalink = if link == LinkType::Raw { 12 } else { link.number().into() };
    Capture::dead(Linktype(datalink)).and_then(|handle| handle.compile(text, true)).map_err(bad)
}

/// Bytes of VLAN tags behind the hardware addresses of an Ethernet frame.
fn tags_len(data: &[u8]) -> usize {
    let is_tag = |at: usize| matches!(data.get(at..at + 6), Some([0x81, 0x00, ..] | [0x88, 0xa8, ..] | [0x91, 0x00, ..]));
    (0..MAX_TAGS).take_while(|n| is_tag(12 + 4 * n)).count() * 4
}

/// As many as the parser follows.
const MAX_TAGS: usize = 8;
/// With these words the filter itself looks at tags (pcap-filter(7)).
const TAG_WORDS: [&str; 3] = ["vlan", "mpls", "pppoes"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_looks_through_tags_also_where_it_negates() {
        let mut port = Filter::parse("tcp port 443").unwrap().matcher();
        let mut not_port = Filter::parse("not tcp port 443").unwrap().matcher();
        for tags in 0..3 {
            assert!(port.matches(LinkType::Ethernet, &frame(tags, 443)), "{tags} tags");
            assert!(!port.matches(LinkType::Ethernet, &frame(tags, 80)), "{tags} tags");
            assert!(!not_port.matches(LinkType::Ethernet, &frame(tags, 443)), "{tags} tags");
        }
    }

    #[test]
    fn a_filter_that_speaks_of_vlans_sees_them() {
        let mut tagged = Filter::parse("vlan 7").unwrap().matcher();
        assert!(tagged.matches(LinkType::Ethernet, &frame(1, 80)));
        assert!(!tagged.matches(LinkType::Ethernet, &frame(0, 80)));
    }

    #[test]
    fn one_filter_serves_several_links_and_is_false_where_it_makes_no_sense() {
        let mut port = Filter::parse("tcp port 80").unwrap().matcher();
        assert!(port.matches(LinkType::Raw, &frame(0, 80)[14..]));
        let mut wlan = Filter::parse("vlan 7").unwrap().matcher();
        assert!(!wlan.matches(LinkType::Raw, &frame(0, 80)[14..]));
    }

    #[test]
    fn what_libpcap_does_not_take_is_refused_in_its_words() {
        let error = Filter::parse("tcp prot 80").unwrap_err().to_string();
        assert!(error.contains("syntax error"), "{error}");
    }

    fn frame(tags: usize, port: u16) -> Vec<u8> {
        let mut f = vec![2; 12];
        for _ in 0..tags {
            f.extend([0x81, 0, 0, 7]);
        }
        f.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        f.extend(50_000u16.to_be_bytes());
        f.extend(port.to_be_bytes());
        f.extend([0; 8]);
        f.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        f
    }
}
