//! An empty store: at revision 1, which changed nothing.

use trireme_state::{MemoryView, events};

#[test]
fn a_watch_from_before_an_empty_store_has_seen_all_of_it() {
    let page = events(&MemoryView::new(), b"a", b"z", 0, 3).unwrap();
    assert!(page.revisions.is_empty());
    assert_eq!((page.through, page.newest), (1, 1));
}
