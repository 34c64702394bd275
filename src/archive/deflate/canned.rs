//! Codes that were found once, from generated flows, for members too short to pay for a code of their own.

/// Pairs of code lengths, of literals and lengths and of distances: a letter for a length, from `a` for none, and the
/// number of symbols in a row that have it where it is more than one. The test in `training.rs` finds them.
pub(super) const CANNED: [(&str, &str); 2] = [
    ("ef2g2j174i78feg2jigi3hghjknijnmla10", "fmgem2jg2mhlbd2efila11"),
    ("efgjh2j210i40jfef2hg2ikghfgihlhiljha10", "hpihp2oijpkobd3eg2ilma8"),
];

/// Code lengths out of their text; symbols past its end are not in the code.
pub(super) fn unpack<const N: usize>(text: &str) -> [u8; N] {
    let mut lengths = [0; N];
    let mut rest = text.as_bytes();
    let mut at = 0;
    while let [letter, after @ ..] = rest {
        let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
        let n = after[..digits].iter().fold(0, |n, b| n * 10 + usize::from(b - b'0')).max(1);
        lengths[at..at + n].fill(letter - b'a');
        at += n;
        rest = &after[digits..];
    }
    lengths
}
