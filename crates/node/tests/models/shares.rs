//! What each node fetches, and that it is enough.

use shoal_node::Error;

use crate::setup::{NAME, Setup, over};

const MB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_gets_its_share_and_they_answer_as_one() {
    let setup = Setup::new(48 * MB);
    let members = setup.cluster(2).await;
    let placed = members[0].node.place(over(NAME, 2)).await.expect("two nodes are there");
    let n_layer = placed.record.model.n_layer;
    let spread = members[1].answer(NAME).await;
    for stage in &placed.record.placement.stages {
        let member = members.iter().find(|it| it.node.id() == stage.node).expect("one of the two");
        let share = setup.n_bytes * u64::from(stage.layers.n_layer()) / u64::from(n_layer);
        let on_disk = member.n_bytes_on_disk().await;
        // Embedding and head are not spread evenly, and the header is read in steps of 2 MiB.
        assert!(on_disk < share + setup.n_bytes / 6 + 3 * MB, "{on_disk} for a share of {share}");
    }
    let served = setup.hub.served_bytes();
    assert!(served < setup.n_bytes + 4 * MB, "{served} of {}", setup.n_bytes);

    let alone = setup.cluster(1).await.pop().expect("one");
    alone.node.place(over(NAME, 1)).await.expect("it is large enough");
    assert_eq!(alone.answer(NAME).await, spread);
    assert!(!spread.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_takes_nothing_from_the_internet() {
    let setup = Setup::new(24 * MB);
    let members = setup.cluster(2).await;
    members[0].node.pull_now(NAME).await.expect("the hub has it");
    setup.hub.reset_log();
    members[1].node.pull_now(NAME).await.expect("the first node has it");
    assert!(setup.hub.log().is_empty(), "not even a question");
    assert_eq!(members[1].received(), (0, setup.n_bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_fetch_a_model_once() {
    let setup = Setup::new(64 * MB);
    let members = setup.cluster(3).await;
    let pulls = members.iter().map(|member| member.node.pull_now(NAME));
    futures_util::future::try_join_all(pulls).await.expect("all get it");
    let served = setup.hub.served_bytes();
    assert!(served * 100 <= setup.n_bytes * 105, "{served} of {}", setup.n_bytes);
    for member in &members {
        let stored = member.node.stored().await.expect("it keeps models").remove(0);
        assert_eq!(stored.state, shoal_node::hub::ModelState::Whole);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_one_device_reaches_the_others() {
    let setup = Setup::new(24 * MB);
    let members = setup.cluster(2).await;
    let path = setup.file.to_str().expect("UTF-8").to_owned();
    // The other node has no such path: it is another device.
    let hidden = setup.dir().join("elsewhere.gguf");
    let placed = members[0].node.place(over(&path, 2)).await.expect("it is sent there");
    std::fs::rename(&setup.file, hidden).expect("mapped files may be renamed");
    assert_eq!(placed.record.placement.stages.len(), 2);
    let answer = members[0].answer(&path).await;
    assert!(!answer.is_empty());
    assert!(setup.hub.log().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotten_disk_is_named_and_harms_nobody() {
    let setup = Setup::new(24 * MB);
    let members = setup.cluster(2).await;
    members[0].node.pull_now(NAME).await.expect("the hub has it");
    let stored = members[0].node.stored().await.expect("it keeps models").remove(0);
    rot(&stored.files[0].path, 10 * MB);
    members[1].node.pull_now(NAME).await.expect("the hub helps");
    let bad = members[1].node.downloads().remove(0).bad_peers;
    assert_eq!(bad.iter().map(|bad| bad.node).collect::<Vec<_>>(), [members[0].node.id()]);
    let report = members[1].node.verify(NAME, false, |_, _| {}).await.expect("readable");
    assert!(report.is_good());
    let report = members[0].node.verify(NAME, true, |_, _| {}).await.expect("readable");
    assert!(!report.is_good());
    setup.hub.reset_log();
    members[0].node.pull_now(NAME).await.expect("only what is damaged");
    assert!(members[0].node.verify(NAME, false, |_, _| {}).await.expect("readable").is_good());
    assert_eq!(setup.hub.served_bytes(), 0, "the other node gave it back");
}

/// Flips a byte where the file lies.
fn rot(path: &std::path::Path, offset: u64) {
    use std::os::unix::fs::FileExt as _;

    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("long enough");
    file.write_all_at(&[!byte[0]], offset).expect("writable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_in_use_is_not_removed() {
    let setup = Setup::new(8 * MB);
    let member = setup.cluster(1).await.pop().expect("one");
    let placed = member.node.place(over(NAME, 1)).await.expect("it is large enough");
    let error = member.node.remove(NAME).await.expect_err("it runs");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    member.node.unplace(placed.record.id).await.expect("placed above");
    let report = member.node.remove(NAME).await.expect("nothing uses it");
    assert!(report.n_bytes >= setup.n_bytes, "{report:?}");
    assert!(member.node.stored().await.expect("it keeps models").is_empty());
}
