//! What becomes of chats on one device: kept, changed, found, and torn files.

use std::fs;

use super::*;

const OWN: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);

fn message_id(n: u8) -> MessageId {
    MessageId([n; 16])
}

fn new_chat(title: &str) -> NewChat {
    NewChat { title: title.to_owned(), parameters: "{}".to_owned(), ..NewChat::default() }
}

fn said(n: u8, parent: Option<u8>, text: &str) -> NewMessage {
    NewMessage {
        id: Some(message_id(n)),
        parent: parent.map(message_id),
        role: if n % 2 == 1 { Role::User } else { Role::Assistant },
        text: text.to_owned(),
        progress: Progress::Done,
        meta: "{}".to_owned(),
        is_selected: true,
    }
}

fn words(words: &str) -> ChatQuery {
    ChatQuery { words: words.to_owned(), before: None, limit: 50 }
}

fn store_with_a_chat() -> (Store, ChatId) {
    let store = Store::in_memory(OWN);
    let (id, ..) = store.create(new_chat("Fish")).expect("room");
    (store, id)
}

/// Brings all that one store lacks of another one's chats there, as the exchange does.
fn pull(to: &Store, from: &Store) {
    for (id, hash) in from.digest() {
        if to.indexed(id).is_none_or(|own| own.hash != hash) {
            let entry = from.read(id).expect("readable").expect("there");
            to.merge(to.era(), id, entry).expect("taken");
        }
    }
}

#[test]
fn a_chat_survives_its_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (id, chat) = {
        let store = Store::open(dir.path(), OWN);
        let (id, ..) = store.create(new_chat("Fish")).expect("room");
        store.append(id, said(1, None, "How many?")).expect("room");
        store.append(id, said(2, Some(1), "Five")).expect("room");
        (id, store.get(id).expect("there"))
    };
    let store = Store::open(dir.path(), OWN);
    assert_eq!(store.get(id).expect("there"), chat);
    let page = store.list(&words(""));
    let [(summary, None)] = &page.chats[..] else { panic!("one chat: {page:?}") };
    assert_eq!((summary.title.as_str(), summary.preview.as_str()), ("Fish", "How many?"));
    assert_eq!((summary.n_messages, summary.version), (2, chat.1));
}

/// What a disk may hold when the power goes at any moment of a write: any part of the new file beside the old one.
#[test]
fn a_power_cut_at_any_moment_leaves_the_old_chat_or_the_new_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), OWN);
    let (id, ..) = store.create(new_chat("Fish")).expect("room");
    let path = dir.path().join(store::DIR).join(format!("{id}.chat"));
    let old = fs::read(&path).expect("written");
    store.append(id, said(1, None, "How many?")).expect("room");
    let new = fs::read(&path).expect("written");
    drop(store);
    let open = || Store::open(dir.path(), OWN).get(id).expect("a chat").0.messages.len();
    for n in 0..=new.len() {
        fs::write(&path, &old).expect("writable");
        fs::write(path.with_extension("new"), &new[..n]).expect("writable");
        assert_eq!(open(), 0, "{n} bytes of the new file, not renamed");
        assert!(!path.with_extension("new").exists());
    }
    fs::write(&path, &new).expect("writable");
    assert_eq!(open(), 1, "renamed");
}

#[test]
fn a_damaged_file_is_set_aside_and_its_peer_gives_the_chat_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let other = Store::in_memory(OTHER);
    let (id, ids) = {
        let store = Store::open(dir.path(), OWN);
        let (id, ..) = store.create(new_chat("Fish")).expect("room");
        store.create(new_chat("Soup")).expect("room");
        pull(&other, &store);
        (id, store.ids())
    };
    let path = dir.path().join(store::DIR).join(format!("{id}.chat"));
    let whole = fs::read(&path).expect("written");
    for n in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[n] ^= 0x10;
        for bytes in [whole[..n].to_vec(), flipped] {
            fs::write(&path, &bytes).expect("writable");
            let store = Store::open(dir.path(), OWN);
            assert_eq!(store.ids().len(), 1, "byte {n}: the other chat is there");
            assert_eq!(fs::read(path.with_extension("damaged")).expect("kept"), bytes);
            pull(&store, &other);
            assert_eq!(store.ids(), ids);
        }
    }
    fs::remove_file(&path).expect("there");
    fs::create_dir(&path).expect("writable");
    assert_eq!(Store::open(dir.path(), OWN).ids().len(), 1, "a directory in its place");
}

#[test]
fn a_file_in_the_place_of_the_directory_does_not_keep_the_node_from_starting() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join(store::DIR), "x").expect("writable");
    let store = Store::open(dir.path(), OWN);
    assert!(matches!(store.create(new_chat("a")), Err(ChatsError::Disk { .. })));
    assert_eq!(store.ids(), [], "what is not on disk is not shown either");
}

#[test]
fn an_answer_that_its_node_left_unfinished_is_interrupted_and_keeps_its_text() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), OWN);
    let (id, ..) = store.create(new_chat("Fish")).expect("room");
    store
        .append(id, NewMessage { progress: Progress::Running, ..said(2, None, "") })
        .expect("room");
    let running = Progress::Running;
    store.update_answer(id, message_id(2), "Fi".into(), running, "{}".into()).expect("there");
    let of_another = Store::open(dir.path(), OTHER).get(id).expect("there").0;
    assert_eq!(of_another.messages[&message_id(2)].progress, Progress::Running, "it may go on");
    for _ in 0..2 {
        let store = Store::open(dir.path(), OWN);
        let message = store.get(id).expect("there").0.messages[&message_id(2)].clone();
        assert_eq!((message.progress, message.text.as_str()), (Progress::Interrupted, "Fi"));
        assert_eq!(message.revision, 2, "once");
    }
}

#[test]
fn editing_makes_a_branch_and_loses_nothing() {
    let (store, id) = store_with_a_chat();
    store.append(id, said(1, None, "How many?")).expect("room");
    store.append(id, said(2, Some(1), "Five")).expect("room");
    store.append(id, said(3, None, "How many fish?")).expect("room");
    store.append(id, said(4, Some(3), "Six")).expect("room");
    let texts = |chat: &Chat| shown(chat).iter().map(|it| it.text.clone()).collect::<Vec<_>>();
    let (chat, _) = store.get(id).expect("there");
    assert_eq!(texts(&chat), ["How many fish?", "Six"]);
    let back = ChatChange { leaf: Some(Some(message_id(2))), ..ChatChange::default() };
    let (chat, _) = store.change(id, back).expect("there");
    assert_eq!(texts(&chat), ["How many?", "Five"]);
    assert_eq!(in_order(&chat).len(), 4);
}

#[test]
fn a_retry_adds_nothing_and_another_message_does_not_pass_for_it() {
    let (store, id) = store_with_a_chat();
    let first = store.append(id, said(1, None, "a")).expect("room");
    let (_, version) = store.get(id).expect("there");
    assert_eq!(store.append(id, said(1, None, "a")).expect("the same"), first);
    assert_eq!(store.get(id).expect("there").1, version);
    let other = store.append(id, said(1, None, "b"));
    assert!(matches!(other, Err(ChatsError::MessageExists { .. })), "{other:?}");
    let lost = store.append(id, said(2, Some(9), "b"));
    assert!(matches!(lost, Err(ChatsError::UnknownMessage { field: "parent", .. })), "{lost:?}");
    let chat = NewChat { id: Some(id), ..new_chat("again") };
    assert_eq!(store.create(chat).expect("as it is").1.head.title.value, "Fish");
    let none = ChatId([9; 16]);
    assert!(matches!(store.append(none, said(1, None, "a")), Err(ChatsError::UnknownChat { .. })));
    let leaf = ChatChange { leaf: Some(Some(message_id(9))), ..ChatChange::default() };
    assert!(matches!(store.change(id, leaf), Err(ChatsError::UnknownMessage { .. })));
}

#[test]
fn everything_has_a_bound() {
    let (store, id) = store_with_a_chat();
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    assert!(matches!(store.append(id, said(1, None, &long)), Err(ChatsError::TooLong { .. })));
    let title = ChatChange { title: Some("x".repeat(1025)), ..ChatChange::default() };
    assert!(matches!(store.change(id, title), Err(ChatsError::TooLong { field: "title", .. })));
    let large = &long[1..];
    for n in 0..7 {
        store.append(id, said(n, None, large)).expect("room");
    }
    let full = (7..9).map(|n| store.append(id, said(n, None, large))).next_back().expect("two");
    assert!(matches!(full, Err(ChatsError::ChatFull)), "{full:?}");
    let answer = store.check_answer(id, message_id(20), Some(message_id(0)));
    assert!(answer.is_ok(), "there is room for something small: {answer:?}");
}

#[test]
fn words_are_found_in_titles_and_texts_whatever_their_case() {
    let (store, id) = store_with_a_chat();
    let text = format!("{} ÄPFEL und Birnen {}", "a ".repeat(60), "b ".repeat(60));
    store.append(id, said(1, None, &text)).expect("room");
    store.create(new_chat("Soup")).expect("room");
    let found = store.list(&words("äpfel fish"));
    let [(summary, Some(snippet))] = &found.chats[..] else { panic!("one chat: {found:?}") };
    assert_eq!(summary.id, id);
    assert!(snippet.starts_with('…') && snippet.ends_with('…') && snippet.contains("ÄPFEL und"));
    assert_eq!(store.list(&words("birnen soup")).chats, []);
    assert_eq!(store.list(&words("soup")).chats[0].1, None, "only its title has it");
}

#[test]
fn pages_hold_every_chat_once() {
    let store = Store::in_memory(OWN);
    for n in 0..7 {
        store.create(new_chat(&n.to_string())).expect("room");
    }
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.list(&ChatQuery { before, limit: 3, ..words("") });
        assert_eq!(page.n_total, 7);
        seen.extend(page.chats.into_iter().map(|(summary, _)| summary.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 7);
    seen.sort_unstable();
    assert_eq!(seen, store.ids());
}

#[test]
fn devices_that_changed_apart_agree_when_they_meet() {
    let (kitchen, id) = store_with_a_chat();
    let cellar = Store::in_memory(OTHER);
    pull(&cellar, &kitchen);
    kitchen.append(id, said(1, None, "from the kitchen")).expect("room");
    cellar.append(id, said(3, None, "from the cellar")).expect("room");
    let title = |title: &str| ChatChange { title: Some(title.into()), ..ChatChange::default() };
    kitchen.change(id, title("first")).expect("there");
    cellar.change(id, title("then")).expect("there");
    cellar.change(id, title("last")).expect("there");
    pull(&cellar, &kitchen);
    pull(&kitchen, &cellar);
    assert_eq!(kitchen.digest(), cellar.digest());
    let (chat, _) = kitchen.get(id).expect("there");
    assert_eq!((chat.messages.len(), chat.head.title.value.as_str()), (2, "last"));
    kitchen.delete(id).expect("there");
    kitchen.delete(id).expect("again");
    cellar.append(id, said(5, None, "too late")).expect("room");
    pull(&kitchen, &cellar);
    pull(&cellar, &kitchen);
    assert!(matches!(cellar.get(id), Err(ChatsError::UnknownChat { .. })));
    assert_eq!(kitchen.digest(), cellar.digest());
}

#[test]
fn who_leaves_a_cluster_takes_along_only_what_was_written_here() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (kitchen, foreign) = store_with_a_chat();
    let cellar = Store::open(dir.path(), OTHER);
    let (own, ..) = cellar.create(new_chat("mine")).expect("room");
    pull(&cellar, &kitchen);
    let era = cellar.era();
    let late = kitchen.read(foreign).expect("readable").expect("there");
    cellar.part();
    assert_eq!(cellar.ids(), [own]);
    assert!(!cellar.merge(era, foreign, late).expect("refused"), "a fetch that comes too late");
    assert_eq!(Store::open(dir.path(), OTHER).ids(), [own]);
}

#[test]
fn changes_are_told_once_or_as_a_whole() {
    let (store, id) = store_with_a_chat();
    let (seen, _) = store.changed_since(0);
    assert_eq!(store.changed_since(seen), (seen, Some(vec![])));
    store.append(id, said(1, None, "a")).expect("room");
    store.append(id, said(2, Some(1), "b")).expect("room");
    let (now, changed) = store.changed_since(seen);
    let changed = changed.expect("few");
    assert_eq!((changed.len(), changed[0].id, changed[0].is_deleted), (1, id, false));
    store.delete(id).expect("there");
    assert!(store.changed_since(now).1.expect("few")[0].is_deleted);
    for n in 0..100 {
        store.create(new_chat(&n.to_string())).expect("room");
    }
    assert_eq!(store.changed_since(now).1, None);
}

#[test]
fn what_is_imported_twice_is_there_once() {
    let store = Store::in_memory(OWN);
    let id = ChatId([3; 16]);
    let messages = [(1, None), (2, Some(1))].map(|(n, parent)| {
        (message_id(n), (5, NewMessage { id: None, ..said(n, parent, "text") }))
    });
    let chat = ImportedChat {
        chat: NewChat { id: Some(id), ..new_chat("Fish") },
        leaf: Some(message_id(2)),
        times_ms: (3, 4),
        messages: messages.into(),
    };
    assert_eq!(store.import(chat.clone()).expect("taken"), (id, "Fish".to_owned(), false));
    let before = store.digest();
    assert_eq!(store.import(chat.clone()).expect("taken"), (id, "Fish".to_owned(), true));
    assert_eq!(store.digest(), before);
    let (kept, _) = store.get(id).expect("there");
    assert_eq!((kept.head.created.0, kept.head.changed_ms), (3, 4));
    store.delete(id).expect("there");
    let (other, ..) = store.import(chat.clone()).expect("taken");
    assert_ne!(other, id, "what was deleted stays deleted");
    let mut circle = chat;
    circle.messages.get_mut(&message_id(1)).expect("there").1.parent = Some(message_id(2));
    assert!(matches!(store.import(circle), Err(ChatsError::NoTree { n: 2 })));
}

#[test]
fn the_memory_of_a_deleted_chat_ends() {
    let (store, id) = store_with_a_chat();
    let old = Entry::Deleted { at_ms: now_ms() - 31 * 24 * 3_600_000, origin: OWN };
    store.merge(store.era(), id, old).expect("taken");
    assert_eq!((store.digest().len(), store.n_entries()), (0, 1));
    store.purge();
    assert_eq!(store.n_entries(), 0);
    store.delete(id).expect_err("nobody knows it any more");
}
