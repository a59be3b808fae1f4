//! One library and a hub that misbehaves.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use shoal_fake_hub::{At, Behaviour, Fault};
use shoal_hub::{DownloadError, DownloadState, LibraryError};
use shoal_proto::model::{CHUNK_BYTES, Digest, FileOrigin};

use crate::setup::{Setup, whole};

const N_CHUNKS: u64 = 80;

/// Whatever the hub does, the file is whole and right in the end.
async fn survives(behaviours: impl IntoIterator<Item = Behaviour>) -> Setup {
    let setup = Setup::new(N_CHUNKS);
    behaviours.into_iter().for_each(|behaviour| setup.hub.behave(behaviour));
    let shelf = setup.library();
    setup.obtain(&shelf.library, whole()).await.expect("it gets there in the end");
    setup.assert_whole(&shelf);
    assert_eq!(shelf.status().state, DownloadState::Complete);
    setup
}

fn at_cdn(fault: Fault) -> Behaviour {
    Behaviour::new(At::Cdn, fault)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_is_fetched_once() {
    let setup = survives([]).await;
    assert_eq!(setup.hub.served_bytes(), setup.content.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_break() {
    survives([at_cdn(Fault::Cut { after_bytes: CHUNK_BYTES * 3 + 1000 }).times(6)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_stall() {
    survives([at_cdn(Fault::Stall { after_bytes: CHUNK_BYTES + 10 }).times(3)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_limits_and_fails() {
    let status = |status, retry_after_s| Fault::Status { status, retry_after_s };
    survives([
        Behaviour::new(At::Resolve, status(429, Some(0))).times(2),
        at_cdn(status(503, None)).times(3),
        at_cdn(status(500, None)).after(4).times(1),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_urls_expire_on_the_way() {
    survives([at_cdn(Fault::ExpiredUrl).after(1).times(2)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_ignores_ranges() {
    survives([
        at_cdn(Fault::RangesIgnored),
        at_cdn(Fault::Cut { after_bytes: CHUNK_BYTES * 30 }).after(4).times(1),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_is_flipped_on_the_way() {
    let setup = survives([at_cdn(Fault::Corrupt { offset: CHUNK_BYTES * 50 }).times(1)]).await;
    let twice = 2 * setup.content.len() as u64;
    assert!(setup.hub.served_bytes() <= twice, "once wrong, once right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_never_get_the_files_name() {
    let setup = Setup::new(N_CHUNKS);
    setup.hub.behave(at_cdn(Fault::Corrupt { offset: CHUNK_BYTES * 50 }));
    let shelf = setup.library();
    let error = setup.obtain(&shelf.library, whole()).await.expect_err("it is never right");
    let LibraryError::Download { source, .. } = error.root() else { panic!("{error}") };
    assert!(matches!(**source, DownloadError::Corrupt { .. }), "{source}");
    setup.assert_not_whole(&shelf);
    setup.hub.behave_well();
    setup.obtain(&shelf.library, whole()).await.expect("now it is");
    setup.assert_whole(&shelf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_file_is_never_whole() {
    let setup = Setup::new(N_CHUNKS);
    setup.hub.behave(at_cdn(Fault::Truncated { n_bytes: CHUNK_BYTES * 60 }));
    let shelf = setup.library();
    setup.obtain(&shelf.library, whole()).await.expect_err("its end never comes");
    setup.assert_not_whole(&shelf);
    assert!(matches!(shelf.status().state, DownloadState::Failed { .. }));
    let before = setup.hub.served_bytes();
    setup.hub.behave_well();
    setup.obtain(&shelf.library, whole()).await.expect("the rest");
    setup.assert_whole(&shelf);
    let rest = setup.hub.served_bytes() - before;
    assert!(rest <= CHUNK_BYTES * 21 + 1024, "{rest} bytes, and most of the file was there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goes_on_where_it_was_stopped() {
    let setup = Setup::new(N_CHUNKS);
    setup.hub.behave(at_cdn(Fault::Slow { bytes_per_s: 4 << 20 }));
    let shelf = setup.library();
    let name = setup.model.name.clone();
    for n_rounds in 0.. {
        shelf.library.start(setup.model.clone(), whole());
        let held = held_after(&shelf, Duration::from_millis(150)).await;
        if shelf.library.pause(&name).await.is_err() {
            break;
        }
        assert!(n_rounds < 100, "{held:?}");
        let log_before = setup.hub.log().len();
        let held = held_now(&shelf, &setup);
        shelf.library.resume(&name).expect("it was paused");
        held_after(&shelf, Duration::from_millis(50)).await;
        let requests = setup.hub.log().split_off(log_before);
        for range in requests.iter().filter_map(|request| request.range.as_deref()) {
            let range = byte_range(range);
            let again =
                held.iter().find(|chunk| chunk.start < range.end && range.start < chunk.end);
            assert!(again.is_none(), "{range:?} was asked for, and {again:?} was held");
        }
        let _ = shelf.library.pause(&name).await;
    }
    setup.hub.behave_well();
    setup.obtain(&shelf.library, whole()).await.expect("the rest");
    setup.assert_whole(&shelf);
}

async fn held_after(shelf: &crate::setup::Shelf, time: Duration) -> Option<u64> {
    let end = Instant::now() + time;
    let mut changes = shelf.library.changes();
    while Instant::now() < end {
        let _ = tokio::time::timeout(end - Instant::now(), changes.changed()).await;
    }
    shelf.library.downloads().first().map(|status| status.n_bytes)
}

/// The bytes that the journal on the disk says are there.
fn held_now(shelf: &crate::setup::Shelf, setup: &Setup) -> Vec<Range<u64>> {
    let stored = shelf.library.store().find(&setup.model.name).expect("begun");
    let journal = stored.dir.join(format!("{}.journal", crate::setup::FILE));
    let Ok(bytes) = std::fs::read(journal) else { return Vec::new() };
    // The format of `partial`, spelled out: 57 bytes of header, then 48 for each chunk, its number first, its kind fifth.
    let entries = bytes[57..].as_chunks::<48>().0.iter().filter(|entry| entry[4] == 1);
    let chunk = |entry: &[u8; 48]| u32::from_le_bytes(entry[..4].try_into().expect("four bytes"));
    entries.map(|entry| setup.id().chunk_range(chunk(entry))).collect()
}

fn byte_range(header: &str) -> Range<u64> {
    let (start, end) =
        header.strip_prefix("bytes=").and_then(|it| it.split_once('-')).expect(header);
    start.parse().expect("a number")..end.parse::<u64>().map_or(u64::MAX, |last| last + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ask_and_it_is_fetched_once() {
    let setup = Setup::new(N_CHUNKS);
    let shelf = setup.library();
    let asks = (0..5).map(|_| setup.obtain(&shelf.library, whole()));
    futures_util::future::try_join_all(asks).await.expect("all get it");
    setup.assert_whole(&shelf);
    assert_eq!(setup.hub.served_bytes(), setup.content.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_refused_before_it_is_fetched() {
    let setup = Setup::new(400);
    let shelf = setup.library();
    let refuse: shoal_hub::Select = std::sync::Arc::new(|gguf| {
        let architecture = gguf.metadata().require_str("general.architecture").expect("it has one");
        Err(format!("architecture {architecture}"))
    });
    let error = setup.obtain(&shelf.library, refuse).await.expect_err("nobody runs it");
    assert_eq!(error.to_string(), format!("model {}: architecture none", setup.model.name));
    let served = setup.hub.served_bytes();
    assert!(served <= 8 * CHUNK_BYTES, "{served} bytes for a header");
    assert!(matches!(shelf.status().state, DownloadState::Failed { .. }), "and it is told");
    assert!(shelf.library.store().list().is_empty(), "nothing is left lying about");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_url_is_pinned_by_its_tag() {
    let mut setup = Setup::new(N_CHUNKS);
    let url = setup.hub.add_file("m.gguf", shoal_fake_hub::Content::Bytes(setup.content.clone()));
    let shelf = setup.library();
    let file = shelf.library.client().probe(&url).await.expect("it is there");
    assert!(matches!(file.id().digest, Digest::Origin(_)), "nobody told a hash");
    setup.model.files[0].id = file.id();
    setup.model.files[0].origin = Some(FileOrigin::Url(url));
    setup.obtain(&shelf.library, whole()).await.expect("there is a server");
    setup.assert_whole(&shelf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_model_leaves_nothing() {
    let setup = Setup::new(N_CHUNKS);
    setup.hub.behave(at_cdn(Fault::Slow { bytes_per_s: 1 << 20 }));
    let shelf = setup.library();
    shelf.library.start(setup.model.clone(), whole());
    held_after(&shelf, Duration::from_millis(200)).await;
    shelf.library.remove(&setup.model.name).await.expect("it is begun");
    assert!(shelf.library.downloads().is_empty());
    assert!(shelf.library.store().list().is_empty());
    setup.hub.behave_well();
    setup.obtain(&shelf.library, whole()).await.expect("from the beginning");
    setup.assert_whole(&shelf);
}
