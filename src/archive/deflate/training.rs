//! Finds the canned codes: a test, since it must say when they are no longer what the matcher deserves.

use super::canned::{CANNED, unpack};
use super::code::{Code, CodeBuilder};
use super::matcher::{DIST, END_OF_BLOCK, Histogram, LITLEN, Matcher, PADDING};
use super::tests::flows;

/// For each canned code, the flows that it is for: packets at least, at most.
const CLASSES: [(usize, usize); 2] = [(3, 8), (9, 40)];

#[test]
fn the_canned_codes_are_what_training_gives() {
    let found = CLASSES.map(|(least, most)| train(least, most));
    let known: Vec<_> = CANNED.iter().map(|(litlen, dist)| (unpack(litlen), unpack(dist))).collect();
    let text = found.iter().map(|(litlen, dist)| format!("    (\"{}\", \"{}\"),\n", pack(litlen), pack(dist)));
    assert!(found[..] == known[..], "CANNED should be\n{}", text.collect::<String>());
}

/// The code that makes flows of so many packets shortest in sum, its own description in each of them included. That is why
/// all but the most frequent literals have the same weight: runs of one code length are short to describe.
fn train(least: usize, most: usize) -> ([u8; LITLEN], [u8; DIST]) {
    let (mut matcher, mut sum, mut flows) = (Matcher::default(), Histogram::default(), 0);
    for seed in 0..400 {
        for packets in least..=most {
            let mut flow = flows::flow(seed, packets);
            let len = flow.len();
            flow.resize(len + PADDING, 0);
            matcher.start(&flow);
            matcher.find(&flow, 0..len, &mut Vec::new(), &mut sum);
            sum.count_end();
            flows += 1;
        }
    }
    let mut by_count: Vec<usize> = (0..END_OF_BLOCK).collect();
    by_count.sort_by_key(|&literal| (std::cmp::Reverse(sum.litlen[literal]), literal));
    let (mut builder, mut code) = (CodeBuilder::default(), Code::default());
    let candidates = (0..=40).map(|special| {
        let mut weights = Histogram::default();
        let usual = &by_count[special..];
        let average = usual.iter().map(|&l| sum.litlen[l]).sum::<u32>() / usual.len() as u32;
        weights.litlen = sum.litlen;
        usual.iter().for_each(|&l| weights.litlen[l] = average.max(1));
        weights.dist = sum.dist;
        for counts in [&mut weights.litlen[..], &mut weights.dist[..]] {
            let last = counts.iter().rposition(|&n| n > 0).expect("flows have matches");
            counts[..last].iter_mut().for_each(|n| *n = (*n).max(1));
        }
        builder.fit(&mut code, &weights);
        let mut once = Histogram::default();
        once.count_end();
        let description = code.bits(&once);
        (code.bits(&sum) + flows * description, code.lengths())
    });
    candidates.min_by_key(|(bits, _)| *bits).expect("there are candidates").1
}

fn pack(lengths: &[u8]) -> String {
    let runs = lengths.chunk_by(|a, b| a == b).map(|run| match run.len() {
        1 => char::from(b'a' + run[0]).to_string(),
        n => format!("{}{n}", char::from(b'a' + run[0])),
    });
    runs.collect()
}
