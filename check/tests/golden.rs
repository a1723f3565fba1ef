//! Labelled histories: the first line of each file in `golden/` says what the verdict must be.

use std::collections::BTreeMap;
use std::path::Path;

use trireme_check::history::History;
use trireme_check::linearizability::{Violation, check};

#[test]
fn verdicts_are_those_of_the_labels() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut checked = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let history = History::from_lines(&text).unwrap();
        let verdict = check(&history, &BTreeMap::new());
        let label = text.lines().next().unwrap();
        if label.starts_with("# linearizable") {
            assert_eq!(verdict, Ok(()), "{}", path.display());
        } else {
            assert!(
                label.starts_with("# not linearizable"),
                "{}",
                path.display()
            );
            let refused = matches!(verdict, Err(Violation::NotLinearizable { .. }));
            assert!(refused, "{}: {verdict:?}", path.display());
        }
        checked += 1;
    }
    assert!(checked >= 10, "only {checked} golden histories");
}
