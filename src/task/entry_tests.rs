//! Tests of what tasks contain, and of how delayed ones are stored.

use super::*;
use crate::time::UnixMs;
use proptest::prelude::*;

type Owned = (Vec<u8>, Vec<u8>);

#[test]
fn a_member_is_readable_text() {
    let id = EntryId::parse(b"1700000000000-1001700000000000000").unwrap();
    let task = Task { payload: Some(b"send mail"), ..Task::default() };
    let first = encode(id, Priority::new(3).unwrap(), &task);
    assert_eq!(first, b"1700000000000-1001700000000000000 3 0 - send mail");
    let copy = Task {
        original_id: Some(b"1690000000000-0"),
        retry_count: 2,
        group: Some(b"billing eu"),
        ..task
    };
    assert_eq!(
        encode(id, Priority::LOWEST, &copy),
        b"1700000000000-1001700000000000000:1690000000000-0 0 2 billing%20eu send mail"
    );
}

#[test]
fn a_member_of_another_form_is_a_payload() {
    for member in ["", "x", "1-1 0 0 - p", "a b c d e", "5-1000000000000000000 10 0 - p"] {
        let group = group_of(member.as_bytes());
        let found = decode(member.as_bytes(), group.as_deref());
        let found = found.unwrap();
        assert_eq!(found.id, None, "{member:?}");
        assert_eq!(found.task.payload, Some(member.as_bytes()));
    }
}

#[test]
fn a_member_of_another_version_is_not_read() {
    fn read(member: &str) -> Option<Delayed<'_>> {
        decode(member.as_bytes(), None)
    }
    let id = "5-1000000000000000000";
    for rest in [" v2 x", ":4-0 v2 0 0 - p", " v9223372036854775807", " v1 0 0 - p"] {
        assert_eq!(read(&format!("{id}{rest}")), None, "{rest:?}");
    }
    for member in [
        // These are no versions, so they are payloads.
        format!("{id} v0 x"),
        format!("{id} v02 x"),
        format!("{id} v x"),
        format!("{id} V2 x"),
        format!("{id} v-2 x"),
        format!("{id}v2 x"),
        // No delayed task has this id.
        "5-1 v2 x".into(),
        "v2 x".into(),
    ] {
        let found = read(&member).unwrap();
        assert_eq!((found.id, found.task.payload), (None, Some(member.as_bytes())));
    }
    // A payload may look like anything.
    let member = format!("{id} 0 0 - v2 x");
    assert_eq!(read(&member).unwrap().task.payload, Some(b"v2 x".as_slice()));
}

#[test]
fn repeated_and_unknown_fields_are_kept() {
    let fields: [(&[u8], &[u8]); 5] = [
        (b"payload", b"a"),
        (b"payload", b"b"),
        (b"colour", b"red"),
        (b"retry_count", b"-7"),
        (b"timestamp", b"1"),
    ];
    let task = Task::of(fields.into_iter());
    assert_eq!(task.payload, Some(b"a".as_slice()));
    assert_eq!(task.retry_count, 0);
    assert_eq!(task.other, [(b"payload".as_slice(), b"b".as_slice()), (b"colour", b"red")]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn an_encoded_task_decodes_to_itself(
        (due, us) in (0..1i64 << 53, 0..1i64 << 55),
        priority in 0..10u64,
        payload: Option<Vec<u8>>,
        retry_count in 0..i64::MAX,
        original in prop::option::of((any::<u64>(), any::<u64>())),
        group: Option<Vec<u8>>,
        other: Vec<Owned>,
    ) {
        let id = EntryId::delayed(UnixMs(due), us);
        let priority = Priority::new(priority).unwrap();
        let original = original.map(|(ms, seq)| format!("{ms}-{seq}"));
        let group = group.filter(|group| !group.is_empty());
        let mut other: Vec<Pair> =
            other.iter().map(|(f, v)| (f.as_slice(), v.as_slice())).collect();
        if payload.is_none() {
            // The first field of this name would be the payload.
            other.retain(|(field, _)| *field != b"payload");
        }
        let task = Task {
            payload: payload.as_deref(),
            retry_count,
            original_id: original.as_deref().map(str::as_bytes),
            group: group.as_deref(),
            other,
        };
        let member = encode(id, priority, &task);
        let found = group_of(&member);
        let expected = Delayed { id: Some(id), priority, task };
        prop_assert_eq!(decode(&member, found.as_deref()), Some(expected));
    }

    #[test]
    fn no_member_makes_the_decoder_panic(member: Vec<u8>, text in "[-0-9:+ %av]{0,60}") {
        for member in [member, text.into_bytes()] {
            let _ = decode(&member, group_of(&member).as_deref());
        }
    }
}
