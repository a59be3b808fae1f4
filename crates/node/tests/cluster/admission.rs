//! Who belongs to a cluster.

use std::time::Duration;

use shoal_node::{Error, InviteOptions, Node};

use crate::setup::{Member, cluster, config, n_alive};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_joins_and_leaves() {
    let members = cluster(2).await;
    let third = Member::start("third", None).await;
    third.node.join(&members[1].ticket()).await.expect("the ticket is good");
    for member in members.iter().chain([&third]) {
        member.wait_for_alive(3).await;
    }
    third.node.leave().await.expect("it can");
    assert_eq!(third.node.nodes().len(), 1);
    for member in &members {
        member.wait_for("two are left", |node| node.nodes().len() == 2).await;
    }
    third.node.join(&members[0].ticket()).await.expect("it may come back");
    members[0].wait_for_alive(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_node_does_not_come_back() {
    let mut members = cluster(3).await;
    let old_ticket = members[0].ticket();
    let forgotten = members.remove(2);
    members[0].node.forget(forgotten.node.id()).await.expect("it is known");
    for member in &members {
        member.wait_for("two are left", |node| node.nodes().len() == 2).await;
    }
    let forgotten = forgotten.restart().await;
    let error = forgotten.node.join(&old_ticket).await.expect_err("the ticket is void");
    assert!(matches!(error, Error::JoinRefused { .. }), "{error:?}");
    let stranger = Member::start("stranger", None).await;
    stranger.node.join(&old_ticket).await.expect_err("it is void for everybody");
    assert_eq!(n_alive(&forgotten.node), 1);
    assert!(members.iter().all(|member| member.node.nodes().len() == 2));
    // Who sleeps through it all still belongs.
    let kept = members.remove(1).restart().await;
    kept.wait_for_alive(2).await;
    // A fresh invitation is a change of mind.
    forgotten.node.join(&members[0].ticket()).await.expect("it is invited again");
    members[0].wait_for_alive(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_use_ticket_admits_one() {
    let first = Member::start("first", None).await;
    let options = InviteOptions { single_use: true, valid_for: Some(Duration::from_secs(600)) };
    let ticket = first.node.invite(options).expect("it is online");
    let second = Member::start("second", Some(ticket.clone())).await;
    first.wait_for_alive(2).await;
    let third = Member::start("third", None).await;
    let error = third.node.join(&ticket).await.expect_err("it is used up");
    assert!(matches!(error, Error::JoinRefused { .. }), "{error:?}");
    // Its start script has the ticket for ever.
    let dir = second.dir();
    second.node.shutdown().await;
    let again = Node::start(config("second", dir, Some(ticket))).await.expect("it is a member");
    first.wait_for_alive(2).await;
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_data_directory_is_refused() {
    let first = Member::start("first", None).await;
    let second = Member::start("second", Some(first.ticket())).await;
    first.wait_for_alive(2).await;
    let copy = tempfile::tempdir().expect("a temporary directory");
    for entry in std::fs::read_dir(second.dir()).expect("it is there") {
        let path = entry.expect("readable").path();
        if path.is_file() {
            let to = copy.path().join(path.file_name().expect("a file"));
            std::fs::copy(&path, to).expect("copied");
        }
    }
    let started = Node::start(config("copy", copy.path().to_owned(), None)).await;
    assert!(started.is_err(), "two devices with one key");
    first.wait_for_alive(2).await;
}
