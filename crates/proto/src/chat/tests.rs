//! Chats that meet: whatever the order in which changes come, all devices end with the same.

use proptest::prelude::*;

use super::*;

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn message_id(n: u8) -> MessageId {
    MessageId([n; 16])
}

fn field<T>(counter: u64, n: u8, value: T) -> Field<T> {
    Field { stamp: Stamp { counter, node: node(n) }, value }
}

fn message(revision: u64, text: &str) -> Message {
    Message {
        revision,
        progress: Progress::Done,
        parent: None,
        role: Role::User,
        text: text.to_owned(),
        created_ms: 5,
        writer: node(1),
        meta: "{}".to_owned(),
    }
}

fn chat(title: Field<String>, messages: &[(u8, Message)]) -> Chat {
    let empty = || field(1, 1, String::new());
    let head = Head {
        created: (1, node(1)),
        changed_ms: 2,
        title,
        model: empty(),
        system: empty(),
        parameters: field(1, 1, "{}".to_owned()),
        leaf: field(1, 1, None),
    };
    let messages = messages.iter().map(|(id, message)| (message_id(*id), message.clone()));
    Chat { head, messages: messages.collect() }
}

fn live(chat: Chat) -> Entry {
    Entry::Live(Box::new(chat))
}

fn merged(mut a: Entry, b: Entry) -> Entry {
    a.merge(b);
    a
}

prop_compose! {
    fn any_message()(
        revision in 0..3u64,
        progress in prop::sample::select(vec![Progress::Running, Progress::Done, Progress::Failed]),
        parent in prop::option::of(0..4u8),
        text in "[ab]{0,2}",
        writer in 0..2u8,
    ) -> Message {
        Message {
            progress,
            parent: parent.map(message_id),
            writer: node(writer),
            ..message(revision, &text)
        }
    }
}

prop_compose! {
    fn any_field()(counter in 0..3u64, n in 0..2u8, value in "[ab]{0,1}") -> Field<String> {
        field(counter, n, value)
    }
}

prop_compose! {
    fn any_chat()(
        fields in prop::array::uniform4(any_field()),
        leaf in (0..3u64, 0..2u8, prop::option::of(0..4u8)),
        created in (0..3u64, 0..3u8),
        changed_ms in 0..5u64,
        messages in prop::collection::btree_map(0..4u8, any_message(), 0..4),
    ) -> Chat {
        let [title, model, system, parameters] = fields;
        let leaf = field(leaf.0, leaf.1, leaf.2.map(message_id));
        let created = (created.0, node(created.1));
        let messages = messages.into_iter().map(|(id, it)| (message_id(id), it)).collect();
        Chat { head: Head { created, changed_ms, title, model, system, parameters, leaf }, messages }
    }
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let deleted = (0..3u64, 0..3u8)
        .prop_map(|(at_ms, origin)| Entry::Deleted { at_ms, origin: node(origin) });
    prop_oneof![4 => any_chat().prop_map(live), 1 => deleted]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_order_of_merging_does_not_matter(a in any_entry(), b in any_entry(), c in any_entry()) {
        let both = merged(a.clone(), b.clone());
        prop_assert_eq!(&both, &merged(b.clone(), a.clone()), "commutative");
        let left = merged(both.clone(), c.clone());
        prop_assert_eq!(&left, &merged(a.clone(), merged(b.clone(), c)), "associative");
        prop_assert_eq!(&both, &merged(both.clone(), both.clone()), "idempotent");
        prop_assert_eq!(&both, &merged(both.clone(), a.clone()), "what is in it changes nothing");
        prop_assert_eq!(both.clone() != a, a.clone().merge(b), "says whether it changed");
        prop_assert_eq!(&both.encode(), &merged(both.clone(), a).encode(), "the same bytes");
    }

    #[test]
    fn no_message_is_lost_by_merging(a in any_chat(), b in any_chat()) {
        let mut both = a.clone();
        both.merge(b.clone());
        for id in a.messages.keys().chain(b.messages.keys()) {
            let stands = &both.messages[id];
            prop_assert!([&a, &b].iter().any(|it| it.messages.get(id) == Some(stands)));
            prop_assert!([&a, &b].iter().all(|it| it.messages.get(id).is_none_or(|it| it <= stands)));
        }
        prop_assert_eq!(both.head.counter(), a.head.counter().max(b.head.counter()));
    }

    #[test]
    fn what_somebody_lacks_is_enough_to_have_all(a in any_chat(), b in any_chat()) {
        let known: Vec<_> = b.messages.iter().map(|(id, it)| (*id, it.hash())).collect();
        let mut whole = b.clone();
        whole.merge(a.clone());
        let mut by_part = b;
        by_part.merge(a.without(&known));
        prop_assert_eq!(whole, by_part);
        let own: Vec<_> = a.messages.iter().map(|(id, it)| (*id, it.hash())).collect();
        prop_assert!(a.without(&own).messages.is_empty());
    }

    #[test]
    fn what_was_written_is_read(entry in any_entry()) {
        prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = [&MAGIC[..], &[VERSION]].concat();
        bytes.extend(stored::checksum(&body).to_le_bytes());
        bytes.extend(body);
        let _ = Entry::decode(&bytes);
    }
}

#[test]
fn two_devices_that_wrote_apart_lose_nothing() {
    let kitchen = chat(field(9, 1, "fish".into()), &[(1, message(0, "a")), (2, message(0, "b"))]);
    let cellar = chat(field(10, 2, "soup".into()), &[(1, message(0, "a")), (3, message(0, "c"))]);
    let mut both = kitchen;
    both.merge(cellar);
    assert_eq!(both.head.title.value, "soup");
    assert_eq!(both.messages.len(), 3);
}

#[test]
fn a_deleted_chat_stays_deleted() {
    let deleted = Entry::Deleted { at_ms: 3, origin: node(1) };
    let late = live(chat(field(99, 2, "late".into()), &[(1, message(0, "a"))]));
    assert_eq!(merged(late.clone(), deleted.clone()), deleted);
    assert_eq!(merged(deleted.clone(), late), deleted);
}

#[test]
fn an_answer_that_grows_stands_by_its_revision() {
    let running = Message { progress: Progress::Running, ..message(1, "The fi") };
    let done = message(2, "The fish");
    let at = |message: &Message| chat(field(1, 1, String::new()), &[(1, message.clone())]);
    let mut known = at(&done);
    known.merge(at(&running));
    assert_eq!(known.messages[&message_id(1)], done);
}

#[test]
fn the_bytes_of_a_file_are_frozen() {
    let entry = Entry::Deleted { at_ms: 300, origin: node(7) };
    let body = [&[1, 0xac, 2][..], &[7; 32]].concat();
    let header = [&b"SHOALCHT\x01"[..], &stored::checksum(&body).to_le_bytes()].concat();
    assert_eq!(entry.encode(), [header, body].concat());
}

#[test]
fn no_truncated_or_flipped_file_is_taken_for_whole() {
    let bytes = live(chat(field(1, 1, "t".into()), &[(1, message(0, "text"))])).encode();
    for n in 0..bytes.len() {
        assert!(Entry::decode(&bytes[..n]).is_err(), "{n} bytes");
        let mut flipped = bytes.clone();
        flipped[n] ^= 0x10;
        assert!(Entry::decode(&flipped).is_err(), "byte {n}");
    }
    assert_eq!(
        Entry::decode(&vec![0; bytes.len()]),
        Err(ChatError::NoChat { got: [0; 8] }),
        "what a power cut leaves of a file whose size came first"
    );
}

#[test]
fn ids_are_written_in_one_way_only() {
    let id = ChatId([0xab; 16]);
    assert_eq!(id.to_string().parse(), Ok(id));
    for text in ["", "ab", &"AB".repeat(16), &"+".repeat(32), &"é".repeat(16)] {
        assert!(text.parse::<ChatId>().is_err(), "{text}");
    }
}

#[test]
fn what_people_write_is_not_shown() {
    let chat = chat(field(1, 1, "secret".into()), &[(1, message(0, "secret"))]);
    let bytes = b"secret".to_vec();
    let part = ChatResponse::Part { hash: 1, n_total: 6, bytes };
    let shown = format!("{chat:?} {part:?}");
    assert!(!shown.contains("secret") && !shown.contains("115"), "{shown}");
}
