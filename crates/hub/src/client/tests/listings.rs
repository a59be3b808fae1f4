//! Listings, searches, probes, and refusals.

use shoal_fake_hub::{At, Behaviour, Card, Fault, Gate};

use super::*;
use crate::client::{RepoFormat, Unreachable};

#[tokio::test]
async fn lists_all_pages_at_one_commit() {
    let hub = FakeHub::start();
    let names: Vec<String> = (0..7).map(|n| format!("dir {}/part-{n}.gguf", n % 2)).collect();
    let content = || Content::Generated { seed: 3, n_bytes: 1000 };
    let mut files: Vec<_> = names.iter().map(|name| (name.as_str(), content())).collect();
    files.push(("config.json", Content::text("{}")));
    hub.add_repo(REPO, files);
    hub.set_page_size(2);

    let listing = client(&hub).repo(REPO, None).await.unwrap();
    assert_eq!((listing.repo.as_str(), listing.commit), (REPO, hub.commit(REPO)));
    assert!(!listing.gated);
    let mut paths: Vec<_> = listing.files.iter().map(|file| file.path.clone()).collect();
    paths.sort();
    let mut expected = names.clone();
    expected.push("config.json".to_owned());
    expected.sort();
    assert_eq!(paths, expected);
    for file in listing.files {
        let is_text = file.path == "config.json";
        assert_eq!(file.n_bytes, if is_text { 2 } else { 1000 }, "{}", file.path);
        let hash = (!is_text).then(|| hub.sha256(REPO, &file.path));
        assert_eq!(file.sha256, hash.as_deref().and_then(super::super::exchange::parse_sha256));
    }
    let n_pages = hub.log().iter().filter(|request| request.target.contains("/tree/")).count();
    assert!(n_pages >= 4, "{n_pages}");
    assert!(hub.log().iter().all(|r| !r.target.contains("/tree/main")), "{:?}", hub.log());
}

#[tokio::test]
async fn a_commit_stays_what_it_was() {
    let (hub, ..) = hub_with_model();
    let first = hub.commit(REPO);
    hub.add_repo(REPO, vec![("other.gguf", Content::text("x"))]);
    let client = client(&hub);
    let listing = client.repo(REPO, Some(&first)).await.unwrap();
    assert_eq!(listing.commit, first);
    assert!(listing.files.iter().any(|file| file.path == MODEL));
    assert_eq!(client.repo(REPO, None).await.unwrap().commit, hub.commit(REPO));

    let nowhere = "0".repeat(40);
    for revision in [nowhere.as_str(), "no/branch"] {
        let error = client.repo(REPO, Some(revision)).await.unwrap_err();
        let HubError::RevisionNotFound { repo, revision: got } = error else { panic!("{error}") };
        assert_eq!((repo.as_str(), got.as_str()), (REPO, revision));
    }
}

#[tokio::test]
async fn a_renamed_repository_is_found_and_called_by_its_new_name() {
    let (hub, ..) = hub_with_model();
    hub.rename(REPO, "new-owner/new-name");
    let listing = client(&hub).repo(REPO, None).await.unwrap();
    assert_eq!(listing.repo, "new-owner/new-name");
    assert_eq!(listing.files.len(), 2);
}

#[tokio::test]
async fn a_gated_file_says_where_to_accept_its_licence() {
    let (hub, origin, id) = hub_with_model();
    hub.set_gated(REPO, Gate::Granted);
    assert!(client(&hub).repo(REPO, None).await.unwrap().gated);
    let error = client(&hub).open(&origin, id).read(0..9).await.unwrap_err();
    assert!(matches!(error, HubError::Gated { token_sent: false, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("{}/{REPO}", hub.endpoint())) && text.contains("HF_TOKEN"),
        "{text}"
    );
    assert!(!error.is_temporary());

    let client = client_with(&hub, FakeHub::TOKEN);
    assert_eq!(read(&client.open(&origin, id), 0..9).await, model_bytes(0..9));

    hub.set_gated(REPO, Gate::Waiting);
    let error = client.open(&origin, id).read(0..9).await.unwrap_err();
    assert!(matches!(error, HubError::Gated { token_sent: true, .. }), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let (hub, _, id) = hub_with_model();
    let error = client(&hub).repo("owner/misspelt", None).await.unwrap_err();
    assert!(matches!(error, HubError::RepoNotFound { token_sent: false, .. }), "{error}");
    let error = client_with(&hub, FakeHub::TOKEN).repo("owner/misspelt", None).await.unwrap_err();
    assert!(matches!(error, HubError::RepoNotFound { token_sent: true, .. }), "{error}");
    let error = client_with(&hub, "hf_old").repo(REPO, None).await.unwrap_err();
    assert!(matches!(error, HubError::TokenRefused { .. }), "{error}");
    let error = client(&hub).open(&origin(&hub, "no.gguf"), id).read(0..9).await.unwrap_err();
    assert!(matches!(&error, HubError::FileNotFound { path, .. } if path == "no.gguf"), "{error}");
    let error = client(&hub).repo("../../etc", None).await.unwrap_err();
    assert!(matches!(error, HubError::BadName { .. }), "{error}");
    let error = client(&hub).repo(REPO, Some("a/../b")).await.unwrap_err();
    assert!(matches!(error, HubError::BadName { .. }), "{error}");
}

#[tokio::test]
async fn asks_again_when_the_hub_is_busy() {
    let (hub, ..) = hub_with_model();
    for status in [429, 503] {
        let fault = Fault::Status { status, retry_after_s: Some(0) };
        hub.behave(Behaviour::new(At::Api, fault).times(1));
    }
    assert_eq!(client(&hub).repo(REPO, None).await.unwrap().files.len(), 2);
}

#[tokio::test]
async fn gives_up_after_its_attempts() {
    let (hub, ..) = hub_with_model();
    hub.behave(Behaviour::new(At::Api, Fault::Status { status: 503, retry_after_s: None }));
    let error = client(&hub).repo(REPO, None).await.unwrap_err();
    assert!(matches!(error, HubError::Server { status, .. } if status == 503), "{error}");
    assert!(error.is_temporary());
    assert_eq!(hub.log().len(), 3);
}

#[tokio::test]
async fn a_long_wait_is_the_callers_to_make() {
    let (hub, ..) = hub_with_model();
    hub.behave(Behaviour::new(At::Api, Fault::Status { status: 429, retry_after_s: Some(86_400) }));
    let error = client(&hub).repo(REPO, None).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(86_400)), "{error}");
    assert_eq!(hub.log().len(), 1);
}

#[tokio::test]
async fn search_tells_formats_apart() {
    let hub = FakeHub::start();
    let card = |downloads, library: &str, tags: &[&str]| Card {
        downloads,
        likes: 5,
        library: Some(library.to_owned()),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        ..Card::default()
    };
    for (repo, file, card) in [
        ("a/tiny-GGUF", "x.gguf", card(30, "gguf", &["gguf"])),
        ("mlx-community/tiny-4bit", "x.safetensors", card(20, "mlx", &["mlx"])),
        ("b/tiny", "x.safetensors", card(10, "transformers", &[])),
        ("b/other", "x.gguf", card(90, "gguf", &[])),
    ] {
        hub.add_repo(repo, vec![(file, Content::text("x"))]);
        hub.set_card(repo, card);
    }
    hub.set_gated("b/tiny", Gate::Granted);
    let hits = client(&hub).search("tiny", 10).await.unwrap();
    let found: Vec<_> =
        hits.iter().map(|h| (h.repo.as_str(), h.n_downloads, h.gated, h.format)).collect();
    assert_eq!(
        found,
        [
            ("a/tiny-GGUF", 30, false, RepoFormat::Gguf),
            ("mlx-community/tiny-4bit", 20, false, RepoFormat::Mlx),
            ("b/tiny", 10, true, RepoFormat::Other),
        ]
    );
    assert_eq!(hits[0].n_likes, 5);
    assert!(hits[0].last_modified.is_some());
    assert_eq!(client(&hub).search("tiny", 1).await.unwrap().len(), 1);
    assert!(client(&hub).search("a & b = %20", 5).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_probe_knows_size_name_and_version() {
    let hub = FakeHub::start();
    let url = hub.add_file("dir/a b.gguf", Content::text("hello"));
    let file = client(&hub).probe(&url).await.unwrap();
    assert_eq!((file.name.as_str(), file.n_bytes, file.sha256), ("a b.gguf", 5, None));
    assert!(file.etag.is_some());

    // A server that refuses HEAD is asked for one byte.
    hub.behave(
        Behaviour::new(At::Plain, Fault::Status { status: 405, retry_after_s: None }).times(1),
    );
    assert_eq!(client(&hub).probe(&url).await.unwrap(), file);

    let error = client(&hub).probe(&hub.url("nothing.gguf")).await.unwrap_err();
    assert!(matches!(error, HubError::Status { status, .. } if status == 404), "{error}");
    for bad in ["ftp://x/y.gguf", "x.gguf", "http://"] {
        let error = client(&hub).probe(bad).await.unwrap_err();
        assert!(matches!(error, HubError::BadUrl { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_hubs_own_urls_have_a_hash() {
    let (hub, _, id) = hub_with_model();
    let url = format!("{}/{REPO}/resolve/main/{MODEL}", hub.endpoint());
    let file = client(&hub).probe(&url).await.unwrap();
    assert_eq!((file.id(), file.name.as_str()), (id, MODEL));
}

#[tokio::test]
async fn says_that_nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client_of(endpoint, None, timing()).repo(REPO, None).await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { why: Unreachable::Refused, .. }), "{error:?}");
}

#[tokio::test]
async fn says_that_tls_is_the_trouble() {
    let endpoint = canned::babble(b"this is no TLS\r\n").replace("http:", "https:");
    let error = client_of(endpoint, None, timing()).repo(REPO, None).await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { why: Unreachable::Tls, .. }), "{error:?}");
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn says_that_no_answer_came() {
    let (hub, ..) = hub_with_model();
    hub.behave(Behaviour::new(At::Api, Fault::Delay(Duration::from_secs(600))));
    let short = Duration::from_millis(50);
    let timing = HubTiming { connect: short, first_byte: short, n_attempts: 1, ..timing() };
    let error = client_of(hub.endpoint(), None, timing).repo(REPO, None).await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { why: Unreachable::Timeout, .. }), "{error:?}");
}

#[test]
fn a_token_is_never_shown() {
    let config = HubConfig { token: Token::new(" hf_secret\n"), ..HubConfig::default() };
    assert!(!format!("{config:?}").contains("secret"));
    assert!(!format!("{:?}", HubClient::new(config).unwrap()).contains("secret"));
    assert_eq!(Token::new(" \n"), None);
}
