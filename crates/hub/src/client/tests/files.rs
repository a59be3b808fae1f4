//! Ranges of files.

use shoal_fake_hub::{At, Behaviour, Fault, Gate, Request};

use super::*;

fn n_requests(hub: &FakeHub, at: At) -> usize {
    hub.log().iter().filter(|request| request.at == at).count()
}

#[tokio::test]
async fn reads_ranges_and_asks_the_hub_once() {
    let (hub, origin, id) = hub_with_model();
    let file = client(&hub).open(&origin, id);
    assert!(hub.log().is_empty());
    for range in [0..10, 599_990..600_000, 262_144..524_288, 0..MODEL_BYTES, 7..7] {
        assert_eq!(
            read(&file.clone(), range.clone()).await,
            model_bytes(range.clone()),
            "{range:?}"
        );
    }
    assert_eq!((n_requests(&hub, At::Resolve), n_requests(&hub, At::Cdn)), (1, 4));
}

#[tokio::test]
async fn parallel_readers_share_one_signature() {
    let (hub, origin, id) = hub_with_model();
    let file = client(&hub).open(&origin, id);
    let reads = (0..6u64).map(|n| {
        let file = file.clone();
        async move {
            let range = n * 100_000..(n + 1) * 100_000;
            assert_eq!(read(&file, range.clone()).await, model_bytes(range));
        }
    });
    futures_util::future::join_all(reads).await;
    assert_eq!((n_requests(&hub, At::Resolve), n_requests(&hub, At::Cdn)), (1, 6));
}

#[tokio::test]
async fn small_files_need_no_cdn() {
    let (hub, ..) = hub_with_model();
    let id = FileId { digest: Digest::Origin([0; 32]), n_bytes: 7 };
    let file = client(&hub).open(&origin(&hub, "README.md"), id);
    assert_eq!(read(&file, 0..7).await, b"read me");
    assert_eq!(read(&file, 5..7).await, b"me");
    assert_eq!(n_requests(&hub, At::Cdn), 0);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_only() {
    let (hub, origin, id) = hub_with_model();
    hub.set_gated(REPO, Gate::Private);
    let client = client_with(&hub, FakeHub::TOKEN);
    client.repo(REPO, None).await.unwrap();
    read(&client.open(&origin, id), 0..10).await;
    let url = hub.add_file("x.gguf", Content::text("hello"));
    let found = client.probe(&url).await.unwrap();
    read(&client.open(&FileOrigin::Url(url), found.id()), 0..5).await;
    let is_hub = |request: &Request| matches!(request.at, At::Api | At::Resolve);
    let log = hub.log();
    assert!(log.iter().any(is_hub) && !log.iter().all(is_hub));
    for request in log {
        assert_eq!(request.authorized, is_hub(&request), "{request:?}");
    }
}

#[tokio::test]
async fn an_expired_signature_is_asked_for_again() {
    let (hub, origin, id) = hub_with_model();
    let file = client(&hub).open(&origin, id);
    read(&file, 0..10).await;
    hub.expire_urls();
    assert_eq!(read(&file, 10..20).await, model_bytes(10..20));
    assert_eq!(read(&file, 20..30).await, model_bytes(20..30));
    assert_eq!((n_requests(&hub, At::Resolve), n_requests(&hub, At::Cdn)), (2, 4));
    let refused: Vec<_> = hub.log().into_iter().filter(|request| request.status == 403).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
}

#[tokio::test]
async fn a_signature_that_never_works_is_an_error() {
    let (hub, origin, id) = hub_with_model();
    hub.behave(Behaviour::new(At::Resolve, Fault::ExpiredUrl));
    let error = client(&hub).open(&origin, id).read(0..10).await.unwrap_err();
    assert!(matches!(error, HubError::SignatureRefused { status, .. } if status == 403), "{error}");
    assert_eq!(n_requests(&hub, At::Resolve), 3);
    hub.behave_well();
    hub.behave(Behaviour::new(At::Resolve, Fault::ExpiredUrl).times(1));
    assert_eq!(read(&client(&hub).open(&origin, id), 0..10).await, model_bytes(0..10));
}

#[tokio::test]
async fn waits_out_limits_and_failures_of_both_servers() {
    let (hub, origin, id) = hub_with_model();
    for at in [At::Resolve, At::Cdn] {
        for status in [429, 502] {
            let fault = Fault::Status { status, retry_after_s: Some(0) };
            hub.behave(Behaviour::new(at, fault).times(1));
        }
        assert_eq!(read(&client(&hub).open(&origin, id), 5..50).await, model_bytes(5..50));
        hub.behave_well();
    }
}

#[tokio::test]
async fn a_cut_body_says_how_much_came() {
    let (hub, origin, id) = hub_with_model();
    hub.behave(Behaviour::new(At::Cdn, Fault::Cut { after_bytes: 1000 }).times(1));
    let file = client(&hub).open(&origin, id);
    let (bytes, end) = drain(file.read(0..5000).await.unwrap()).await;
    assert_eq!(bytes, model_bytes(0..1000));
    let error = end.unwrap_err();
    assert!(matches!(error, HubError::Cut { expected: 5000, got: 1000, .. }), "{error:?}");
    assert!(error.is_temporary());
    assert_eq!(read(&file, 1000..5000).await, model_bytes(1000..5000));
}

#[tokio::test]
async fn silence_in_a_body_is_an_error() {
    let (hub, origin, id) = hub_with_model();
    hub.behave(Behaviour::new(At::Cdn, Fault::Stall { after_bytes: 1000 }));
    let file = client_of(hub.endpoint(), None, impatient()).open(&origin, id);
    let (bytes, end) = drain(file.read(0..5000).await.unwrap()).await;
    assert_eq!(bytes, model_bytes(0..1000));
    let error = end.unwrap_err();
    assert!(matches!(error, HubError::Stalled { expected: 5000, got: 1000, .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (hub, origin, id) = hub_with_model();
    hub.behave(Behaviour::new(At::Cdn, Fault::RangesIgnored));
    let file = client(&hub).open(&origin, id);
    let error = file.read(10..20).await.unwrap_err();
    assert!(matches!(error, HubError::RangesIgnored { .. }), "{error}");
    assert!(!error.is_temporary());
    assert_eq!(read(&file, 0..MODEL_BYTES).await, model_bytes(0..MODEL_BYTES));
    for start in [0, 300_001, MODEL_BYTES] {
        let (bytes, end) = drain(file.read_from(start).await.unwrap()).await;
        end.unwrap();
        assert!(bytes == model_bytes(start..MODEL_BYTES), "{start}");
    }
}

#[tokio::test]
async fn another_file_in_its_place_is_noticed() {
    let (hub, origin, id) = hub_with_model();
    let client = client(&hub);
    for (what, id) in [
        ("size", FileId { n_bytes: MODEL_BYTES + 1, ..id }),
        ("digest", FileId { digest: Digest::Sha256([1; 32]), ..id }),
    ] {
        let error = client.open(&origin, id).read(0..10).await.unwrap_err();
        assert!(matches!(&error, HubError::Changed { what: got, .. } if *got == what), "{error}");
        assert!(!error.is_temporary());
    }
}

#[tokio::test]
async fn a_plain_file_that_changes_is_noticed() {
    let hub = FakeHub::start();
    let url = hub.add_file("x.gguf", Content::text("one two"));
    let client = client(&hub);
    let id = client.probe(&url).await.unwrap().id();
    let file = client.open(&FileOrigin::Url(url), id);
    assert_eq!(read(&file, 4..7).await, b"two");
    hub.add_file("x.gguf", Content::text("one 2.0"));
    let error = file.read(4..7).await.unwrap_err();
    assert!(matches!(error, HubError::Changed { what: "version", .. }), "{error}");
    hub.add_file("x.gguf", Content::text("shorter"[..3].to_owned()));
    for range in [0..3, 4..7] {
        let error = file.read(range).await.unwrap_err();
        assert!(matches!(error, HubError::Changed { what: "size", .. }), "{error}");
    }
}
