//! Several libraries, each with its own disk.

use futures_util::future::try_join_all;
use shoal_fake_hub::{At, Behaviour, Fault};
use shoal_hub::LibraryError;

use crate::{
    cluster::{Cluster, Honesty},
    setup::{Setup, Shelf, tensor, whole},
};

const N_CHUNKS: u64 = 320;

fn members(setup: &Setup, cluster: &Cluster, honesty: &[Honesty]) -> Vec<Shelf> {
    let member = |honesty: &Honesty| {
        let shelf = setup.library();
        cluster.join(&shelf.library, *honesty);
        shelf
    };
    honesty.iter().map(member).collect()
}

async fn all_obtain(setup: &Setup, shelves: &[Shelf]) -> Result<(), LibraryError> {
    let obtains = shelves.iter().map(|shelf| setup.obtain(&shelf.library, whole()));
    try_join_all(obtains).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_that_begin_together_fetch_it_once() {
    let setup = Setup::new(N_CHUNKS);
    // Slow enough that none of them is done before the others have begun.
    setup.hub.behave(Behaviour::new(At::Cdn, Fault::Slow { bytes_per_s: 8 << 20 }));
    let shelves = members(&setup, &Cluster::default(), &[Honesty::Honest; 3]);
    all_obtain(&setup, &shelves).await.expect("all get it");
    shelves.iter().for_each(|shelf| setup.assert_whole(shelf));
    let (served, size) = (setup.hub.served_bytes(), setup.content.len() as u64);
    assert!(served * 100 <= size * 105, "{served} of {size} bytes came from the hub");
    for shelf in &shelves {
        let received = shelf.status().received;
        assert!(received.from_hub < size * 6 / 10, "it was shared out: {received:?}");
        assert_eq!(received.from_hub + received.from_peers, size, "{received:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_later_takes_nothing_from_the_hub() {
    let setup = Setup::new(N_CHUNKS);
    let shelves = members(&setup, &Cluster::default(), &[Honesty::Honest; 2]);
    all_obtain(&setup, &shelves[..1]).await.expect("from the hub");
    setup.hub.reset_log();
    let found = shelves[1].library.peers().find(&setup.model.name).await.expect("a peer has it");
    shelves[1].library.obtain(&found, whole()).await.expect("from the peer");
    setup.assert_whole(&shelves[1]);
    assert!(setup.hub.log().is_empty(), "not even a question");
}

/// A member that has the file gives wrong bytes to one that has not.
async fn is_caught(honesty: Honesty, n_honest: usize) {
    let setup = Setup::new(N_CHUNKS);
    let cluster = Cluster::default();
    let mut honesties = vec![honesty];
    honesties.extend(vec![Honesty::Honest; n_honest + 1]);
    let shelves = members(&setup, &cluster, &honesties);
    let (newcomer, owners) = shelves.split_last().expect("at least two");
    all_obtain(&setup, &owners[1..]).await.expect("honest ones");
    // The bad one got an honest copy while nobody was looking.
    let alone = setup.library_in(&shelves[0].dir);
    alone.obtain(&setup.model, whole()).await.expect("from the hub");
    setup.obtain(&newcomer.library, whole()).await.expect("in spite of it");
    setup.assert_whole(newcomer);
    let bad = newcomer.status().bad_peers;
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(bad[0].node.0, [1; 32], "the culprit is named");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_disk_rots_is_named() {
    is_caught(Honesty::Corrupting, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_peer_rots_and_the_hub_helps() {
    is_caught(Honesty::Corrupting, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_is_found_by_the_manifest_of_another() {
    is_caught(Honesty::Lying, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_breaks_off_costs_nothing_but_time() {
    let setup = Setup::new(N_CHUNKS);
    let cluster = Cluster::default();
    let shelves = members(&setup, &cluster, &[Honesty::Breaking, Honesty::Honest]);
    all_obtain(&setup, &shelves[..1]).await.expect("from the hub");
    let obtained = setup.obtain(&shelves[1].library, whole());
    let dead = async {
        // Its server is gone too: nothing can come from anywhere else.
        let gone = Fault::Status { status: 404, retry_after_s: None };
        setup.hub.behave(Behaviour::new(At::Cdn, gone));
        obtained.await
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(2), dead).await;
    assert!(!matches!(ended, Ok(Ok(()))), "there is no way to get it");
    setup.assert_not_whole(&shelves[1]);
    setup.hub.behave_well();
    shelves[1].library.remove(&setup.model.name).await.expect("begun");
    setup.obtain(&shelves[1].library, whole()).await.expect("from the hub");
    setup.assert_whole(&shelves[1]);
    assert!(shelves[1].status().bad_peers.is_empty(), "weak, not wicked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_come_from_peers_too() {
    let setup = Setup::new(N_CHUNKS);
    let cluster = Cluster::default();
    let shelves = members(&setup, &cluster, &[Honesty::Honest; 3]);
    setup.obtain(&shelves[0].library, tensor("blk.1.w")).await.expect("from the hub");
    setup.obtain(&shelves[1].library, tensor("blk.2.w")).await.expect("from the hub");
    let before = setup.hub.served_bytes();
    setup.obtain(&shelves[2].library, tensor("blk.1.w")).await.expect("from the first");
    setup.obtain(&shelves[2].library, tensor("blk.2.w")).await.expect("from the second");
    assert_eq!(setup.hub.served_bytes(), before);
    let given = [1, 2].map(|byte| cluster.n_given(shoal_proto::NodeId([byte; 32])));
    assert!(given.iter().all(|&n| n > 60), "both gave: {given:?}");
}
