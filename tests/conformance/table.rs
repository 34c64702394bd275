//! docs/CONFORMANCE.md is held to the tests that it names.

use crate::support::archive::names;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_item_is_in_the_table_and_every_test_in_it_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/CONFORMANCE.md")).unwrap();
    let sources: String = ["src", "tests", "eventsocket/src", "eventsocket/tests"]
        .iter()
        .flat_map(|folder| names(&root.join(folder)).into_iter().map(move |name| root.join(folder).join(name)))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut items = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| item")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [item, _, _, shown] = cells[..] else { panic!("a row has four cells: {line}") };
        items.insert(item.to_owned());
        assert!(!shown.is_empty(), "{item} has neither a test nor a reason");
        for test in shown.split('`').skip(1).step_by(2) {
            assert!(sources.contains(&format!("fn {test}(")), "{item}: there is no test {test}");
        }
    }
    let wanted = [("T", 19), ("P", 6), ("D", 27)];
    let wanted = wanted.iter().flat_map(|(letter, last)| (1..=*last).map(move |n| format!("{letter}{n}"))).collect();
    assert_eq!(items, wanted);
}
