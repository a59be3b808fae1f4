//! Chats that every device of a cluster has.

use shoal_node::{
    Node,
    chats::{ChatQuery, NewChat, NewMessage},
    proto::chat::{ChatId, MessageId, Progress, Role},
};

use super::setup::{Member, cluster};

async fn begin(node: &Node, title: &str) -> ChatId {
    let chat = NewChat { title: title.into(), parameters: "{}".into(), ..NewChat::default() };
    node.chats().create(chat).await.expect("room").0
}

async fn say(node: &Node, chat: ChatId, id: u8, text: &str) {
    let message = NewMessage {
        id: Some(MessageId([id; 16])),
        parent: None,
        role: Role::User,
        text: text.to_owned(),
        progress: Progress::Done,
        meta: "{}".to_owned(),
        is_selected: true,
    };
    node.chats().append(chat, message).await.expect("room");
}

/// The chat's texts, those that were said under a lower id first.
async fn texts(node: &Node, chat: ChatId) -> Vec<String> {
    match node.chats().get(chat).await {
        Ok((chat, _)) => chat.messages.into_values().map(|it| it.text).collect(),
        Err(_) => Vec::new(),
    }
}

async fn wait_for_texts(member: &Member, chat: ChatId, expected: &[&str]) {
    let deadline = tokio::time::Instant::now() + super::setup::PATIENCE;
    while texts(&member.node, chat).await != expected {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", texts(&member.node, chat).await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn n_chats(member: &Member) -> usize {
    let query = ChatQuery { limit: 9, ..ChatQuery::default() };
    member.node.chats().list(query).await.expect("a list").n_total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_device_has_every_chat_and_nobody_takes_them_along() {
    let alone = Member::start("alone", None).await;
    let before = begin(&alone.node, "before it joined").await;
    say(&alone.node, before, 1, "old").await;
    let mut members = cluster(2).await;
    // More than one message of the control plane holds.
    let large = "x".repeat(900 * 1024);
    let large = large.as_str();
    let chat = begin(&members[0].node, "Fish").await;
    for id in 1..=3 {
        say(&members[0].node, chat, id, large).await;
    }
    wait_for_texts(&members[1], chat, &[large; 3]).await;
    say(&members[1].node, chat, 4, "from the other").await;
    wait_for_texts(&members[0], chat, &[large, large, large, "from the other"]).await;

    // What is written while a device is away is there when it is back, on both sides.
    let away = members.remove(1);
    let other = begin(&members[0].node, "meanwhile").await;
    say(&members[0].node, other, 1, "news").await;
    let back = away.restart().await;
    wait_for_texts(&back, other, &["news"]).await;
    assert_eq!(texts(&back.node, chat).await.len(), 4, "from its own disk");

    alone.node.join(&members[0].ticket()).await.expect("it is good");
    wait_for_texts(&alone, other, &["news"]).await;
    wait_for_texts(&back, before, &["old"]).await;
    members[0].node.chats().delete(other).await.expect("there");
    wait_for_texts(&alone, other, &[]).await;
    wait_for_texts(&back, other, &[]).await;

    alone.node.leave().await.expect("it is online");
    assert_eq!(n_chats(&alone).await, 1, "its own");
    assert_eq!(texts(&alone.node, before).await, ["old"]);
    assert_eq!(n_chats(&back).await, 2, "the others keep theirs and its own");
    for member in [alone, back].into_iter().chain(members) {
        member.node.shutdown().await;
    }
}
