//! The state machine beside a naive one that keeps every revision whole.

use bytes::Bytes;
use proptest::prelude::*;
use trireme_reference::store::Naive;
use trireme_state::{
    Command, Compare, MemoryView, Operation, OperationResult, Reply, Transition, Txn, apply,
    digest, meta,
};

/// Few keys, some with zero bytes and common prefixes, so that they meet.
fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "a\0", "a\0b", "ab", "b", "b\u{1}", "c", "ca"])
        .prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (key(), any::<u8>())
            .prop_map(|(key, value)| Operation::Put { key, value: Bytes::from(vec![value]) }),
        2 => key().prop_map(|key| Operation::Delete { key }),
        1 => key().prop_map(|key| Operation::Get { key }),
    ]
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(operation(), 0..4).prop_map(|operations| {
        let mut written = std::collections::BTreeSet::new();
        operations
            .into_iter()
            .filter(|operation| match operation {
                Operation::Put { key, .. } | Operation::Delete { key } => {
                    written.insert(key.clone())
                }
                Operation::Get { .. } => true,
            })
            .collect()
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        (key(), 0..6u64).prop_map(|(key, equals)| Compare::ModRevision { key, equals }),
        key().prop_map(|key| Compare::Exists { key }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        12 => (prop::collection::vec(compare(), 0..2), operations(), operations())
            .prop_map(|(compare, success, failure)| Command::Txn(Txn { compare, success, failure })),
        1 => (0..80u64).prop_map(|revision| Command::Compact { revision }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_model(commands in prop::collection::vec(command(), 0..60)) {
        let mut view = MemoryView::new();
        let mut naive = Naive::default();
        for command in &commands {
            let applied = apply(&view, command).unwrap();
            view.write(applied.mutations);
            let before = naive.revision();
            naive.apply(command);
            prop_assert_eq!(!applied.events.is_empty(), naive.revision() > before);
            if let Reply::Txn(reply) = applied.reply {
                prop_assert_eq!(reply.revision, naive.revision());
            }
        }
        prop_assert_eq!(naive.compare(&view, b"a", b"z"), Ok(()));
    }

    #[test]
    fn commands_come_back_from_the_log(command in command()) {
        let encoded = command.encode();
        prop_assert_eq!(encoded.len(), command.encoded_bytes());
        prop_assert_eq!(Command::decode(encoded), Ok(command));
    }

    #[test]
    fn batches_do_not_matter(
        commands in prop::collection::vec(command(), 0..60),
        sizes in prop::collection::vec(1..7usize, 60),
    ) {
        let mut one_by_one = MemoryView::new();
        let mut replies = Vec::new();
        for command in &commands {
            let applied = apply(&one_by_one, command).unwrap();
            one_by_one.write(applied.mutations);
            replies.push(applied.reply);
        }
        let mut batched = MemoryView::new();
        let mut batched_replies = Vec::new();
        let mut rest = &commands[..];
        for size in sizes {
            let (now, later) = rest.split_at(size.min(rest.len()));
            let mut transition = Transition::new(&batched).unwrap();
            for command in now {
                batched_replies.push(transition.apply(command).unwrap().reply);
            }
            let mutations = transition.finish();
            batched.write(mutations);
            rest = later;
        }
        prop_assert_eq!(replies, batched_replies);
        prop_assert_eq!(digest(&one_by_one).unwrap(), digest(&batched).unwrap());
        prop_assert_eq!(one_by_one, batched);
    }
}

fn put(key: &'static str, value: &'static str) -> Command {
    Command::Txn(Txn {
        success: vec![Operation::Put {
            key: key.into(),
            value: value.into(),
        }],
        ..Txn::default()
    })
}

#[test]
fn compaction_leaves_nothing_behind() {
    let mut view = MemoryView::new();
    let mut run = |command: Command| {
        let applied = apply(&view, &command).unwrap();
        view.write(applied.mutations);
        (applied.reply, view.len())
    };
    for _ in 0..3000 {
        run(put("a", "1"));
        run(put("b", "2"));
    }
    run(Command::Txn(Txn {
        success: vec![Operation::Delete { key: "b".into() }],
        ..Txn::default()
    }));
    let (reply, first) = run(Command::Compact { revision: 6002 });
    assert_eq!(reply, Reply::Compacted { revision: 6002 });
    // Bounded work: not all at once, but each further command does its share.
    assert!(first > 1000, "{first}");
    let mut left = first;
    for _ in 0..1000 {
        left = run(put("c", "3")).1;
    }
    // meta, a, c, and for each of c's 1,000 revisions its change and all but the last version.
    assert_eq!(left, 3 + 1000 + 999);
    assert_eq!(meta(&view).unwrap().swept, 6002);
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let view = MemoryView::new();
    let twice = Command::Txn(Txn {
        success: vec![
            Operation::Put {
                key: "a".into(),
                value: "1".into(),
            },
            Operation::Delete { key: "a".into() },
        ],
        ..Txn::default()
    });
    let empty = put("", "1");
    let far = Command::Compact { revision: 7 };
    for (command, words) in [
        (twice, "written twice"),
        (empty, "empty key"),
        (far, "the store is at 1"),
    ] {
        let applied = apply(&view, &command).unwrap();
        assert!(applied.mutations.is_empty() && applied.events.is_empty());
        match applied.reply {
            Reply::Refused { reason } => assert!(reason.contains(words), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn operations_see_those_before_them() {
    let view = MemoryView::new();
    let command = Command::Txn(Txn {
        compare: vec![Compare::Exists { key: "a".into() }],
        success: vec![],
        failure: vec![
            Operation::Get { key: "a".into() },
            Operation::Put {
                key: "a".into(),
                value: "1".into(),
            },
            Operation::Get { key: "a".into() },
            Operation::Delete { key: "b".into() },
        ],
    });
    let Reply::Txn(reply) = apply(&view, &command).unwrap().reply else {
        panic!()
    };
    assert!(!reply.succeeded);
    // An empty store is at 1.
    assert_eq!(reply.revision, 2);
    let OperationResult::Get { found: None } = &reply.results[0] else {
        panic!()
    };
    let OperationResult::Get { found: Some(found) } = &reply.results[2] else {
        panic!()
    };
    assert_eq!(
        (found.create_revision, found.mod_revision, found.version),
        (2, 2, 1)
    );
    assert_eq!(reply.results[3], OperationResult::Delete { previous: None });
}

#[test]
fn a_malformed_store_is_an_error_not_a_guess() {
    use trireme_state::Mutation;
    let mut view = MemoryView::new();
    view.write([Mutation {
        key: "m".into(),
        value: Some("short".into()),
    }]);
    assert!(apply(&view, &put("a", "1")).is_err());
}
