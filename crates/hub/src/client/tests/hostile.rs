//! Servers that say what no server should.

use super::{
    canned::{answer, chunked, json, serve},
    *,
};

const ID: FileId = FileId { digest: Digest::Sha256([0; 32]), n_bytes: 100 };

/// The first answers of a listing.
fn described(sha: &str) -> Vec<u8> {
    json(&format!(r#"{{"id":"{REPO}","sha":"{sha}","gated":false}}"#))
}

fn commit() -> String {
    "a".repeat(40)
}

async fn listing_error(answers: Vec<Vec<u8>>) -> HubError {
    let timing = HubTiming { n_attempts: 1, ..timing() };
    client_of(serve(answers), None, timing).repo(REPO, None).await.unwrap_err()
}

async fn open(answers: Vec<Vec<u8>>) -> Result<RangeBody, HubError> {
    let timing = HubTiming { n_attempts: 1, ..impatient() };
    let client = client_of(serve(answers), None, timing);
    let origin = FileOrigin::Hub { repo: REPO.into(), commit: commit(), path: MODEL.into() };
    client.open(&origin, ID).read(10..20).await
}

#[tokio::test]
async fn wrong_types_are_named_by_their_place() {
    for (text, place) in [
        ("<html>", "at ."),
        ("{", "EOF"),
        ("[]", "at ."),
        (r#"{"id":7,"sha":"x"}"#, "at id"),
        (r#"{"id":"a/b"}"#, "missing field `sha`"),
        (r#"{"id":"a/b","sha":"x","gated":[1]}"#, "at gated"),
    ] {
        let error = listing_error(vec![json(text)]).await;
        assert!(matches!(error, HubError::Unexpected { what: "JSON", .. }), "{text}: {error}");
        assert!(error.to_string().contains(place), "{text}: {error}");
    }
    for tree in [
        "{}",
        r#"[{"type":"file"}]"#,
        r#"[{"type":"file","path":"x","size":-1}]"#,
        r#"[{"type":"file","path":"x","size":1e30}]"#,
        r#"[{"type":"file","path":"x","size":1,"lfs":{"oid":"xyz","size":1}}]"#,
    ] {
        let error = listing_error(vec![described(&commit()), json(tree)]).await;
        assert!(matches!(error, HubError::Unexpected { .. }), "{tree}: {error}");
    }
}

#[tokio::test]
async fn names_that_would_leave_their_place_are_refused() {
    for path in ["../x", "/etc/passwd", "a//b", "a\\\\b", "a\\u0000"] {
        let tree = json(&format!(r#"[{{"type":"file","path":"{path}","size":1}}]"#));
        let error = listing_error(vec![described(&commit()), tree]).await;
        assert!(matches!(error, HubError::BadName { what: "path", .. }), "{path}: {error}");
    }
    let error = listing_error(vec![json(r#"{"id":"../..","sha":"x"}"#)]).await;
    assert!(matches!(error, HubError::BadName { .. }), "{error}");
    let error = listing_error(vec![described("main/../../x")]).await;
    assert!(matches!(error, HubError::Unexpected { what: "sha", .. }), "{error}");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n[".to_vec();
    let blanks = vec![b' '; 1 << 20];
    let unannounced = chunked("200 OK", "", &[blanks.as_slice(); 9]);
    for body in [announced, unannounced] {
        let error = listing_error(vec![body]).await;
        assert!(matches!(error, HubError::TooLarge { unit: "bytes", .. }), "{error}");
    }
}

#[tokio::test]
async fn a_listing_without_end_is_cut_off() {
    let page = || answer("200 OK", "Link: <?cursor=x>; rel=\"next\"\r\n", b"[]");
    let mut answers = vec![described(&commit())];
    answers.resize_with(200, page);
    let error = listing_error(answers).await;
    assert!(matches!(error, HubError::TooLarge { limit: 100, .. }), "{error}");
}

#[tokio::test]
async fn the_next_page_is_not_fetched_from_another_server() {
    let page = answer("200 OK", "Link: <http://127.0.0.1:1/>; rel=\"next\"\r\n", b"[]");
    let error = listing_error(vec![described(&commit()), page]).await;
    assert!(matches!(error, HubError::Unexpected { what: "Link", .. }), "{error}");
}

#[tokio::test]
async fn redirects_end() {
    let answers = vec![answer("302 Found", "Location: /again\r\n", b""); 6];
    let error = listing_error(answers).await;
    assert!(matches!(error, HubError::TooManyRedirects { .. }), "{error}");
    for location in ["", "Location: file:///etc/passwd\r\n", "Location: http://\r\n"] {
        let error = listing_error(vec![answer("302 Found", location, b"")]).await;
        assert!(matches!(error, HubError::Unexpected { what: "Location", .. }), "{error}");
    }
}

#[tokio::test]
async fn only_the_range_that_was_asked_for_is_taken() {
    let partial = |range: &str| {
        answer("206 Partial Content", &format!("Content-Range: {range}\r\n"), &[7; 10])
    };
    for range in ["bytes 0-9/100", "bytes 11-20/100", "bytes 10-29/100", "bytes 10-9/100", "x"] {
        let error = open(vec![partial(range)]).await.unwrap_err();
        assert!(
            matches!(error, HubError::Unexpected { what: "Content-Range", .. }),
            "{range}: {error}"
        );
    }
    for range in ["bytes 10-19/101", "bytes 10-19/18446744073709551615"] {
        let error = open(vec![partial(range)]).await.unwrap_err();
        assert!(matches!(error, HubError::Changed { what: "size", .. }), "{range}: {error}");
    }
    let (bytes, end) = drain(open(vec![partial("bytes 10-19/*")]).await.unwrap()).await;
    assert!(bytes == [7; 10] && end.is_ok());
}

#[tokio::test]
async fn a_body_never_yields_more_than_the_range() {
    let range = "Content-Range: bytes 10-19/100\r\n";
    for chunks in [vec![[7u8; 14].as_slice()], vec![&[7; 10], &[7; 4]], vec![&[7; 6], &[7; 8]]] {
        let answer = chunked("206 Partial Content", range, &chunks);
        let (bytes, end) = drain(open(vec![answer]).await.unwrap()).await;
        assert_eq!(bytes, [7; 10]);
        let error = end.unwrap_err();
        assert!(matches!(error, HubError::Cut { expected: 10, got: 11.., .. }), "{error:?}");
    }
    let short = chunked("206 Partial Content", range, &[&[7; 4]]);
    let (bytes, end) = drain(open(vec![short]).await.unwrap()).await;
    assert_eq!(bytes, [7; 4]);
    assert!(matches!(end, Err(HubError::Cut { expected: 10, got: 4, .. })), "{end:?}");
    let part = answer("206 Partial Content", "Content-Range: bytes 10-13/100\r\n", &[7; 4]);
    let (_, end) = drain(open(vec![part]).await.unwrap()).await;
    assert!(matches!(end, Err(HubError::Cut { expected: 10, got: 4, .. })), "{end:?}");
}

#[tokio::test]
async fn a_signature_is_not_used_to_its_last_second() {
    let range = "Content-Range: bytes 10-19/100\r\n";
    let cdn = |byte| serve(vec![answer("206 Partial Content", range, &[byte; 10]); 2]);
    // The clock of this hub stopped long ago, and so did its signatures.
    let sent_to = |cdn: String, expires| {
        let headers = format!(
            "Date: Thu, 01 Jan 1970 00:16:40 GMT\r\nLocation: {cdn}/x?Expires={expires}\r\n"
        );
        answer("302 Found", &headers, b"")
    };
    for (expires, second) in [(1004, 8), (1060, 7)] {
        let hub = serve(vec![sent_to(cdn(7), expires), sent_to(cdn(8), expires)]);
        let origin = FileOrigin::Hub { repo: REPO.into(), commit: commit(), path: MODEL.into() };
        let file = client_of(hub, None, timing()).open(&origin, ID);
        assert_eq!(read(&file, 10..20).await, [7; 10]);
        assert_eq!(read(&file, 10..20).await, [second; 10], "{expires}");
    }
}

#[tokio::test]
async fn compressed_bodies_are_refused() {
    let headers = "Content-Range: bytes 10-19/100\r\nContent-Encoding: gzip\r\n";
    let error = open(vec![answer("206 Partial Content", headers, &[7; 10])]).await.unwrap_err();
    assert!(matches!(error, HubError::Unexpected { what: "Content-Encoding", .. }), "{error}");
}

#[tokio::test]
async fn another_commit_than_the_pinned_one_is_noticed() {
    let headers = "Content-Range: bytes 10-19/100\r\nX-Repo-Commit: bbbb\r\n";
    let error = open(vec![answer("206 Partial Content", headers, &[7; 10])]).await.unwrap_err();
    assert!(matches!(error, HubError::Changed { what: "commit", .. }), "{error}");
}

#[tokio::test]
async fn addresses_that_are_no_hub_are_refused() {
    for bad in ["", "huggingface.co", "ftp://x", "https://x/?a=b", "https://"] {
        let config = HubConfig { endpoint: bad.to_owned(), ..HubConfig::default() };
        assert!(matches!(HubClient::new(config), Err(HubError::BadUrl { .. })), "{bad}");
    }
    let config =
        HubConfig { endpoint: "https://mirror.example/hf/".into(), ..HubConfig::default() };
    assert_eq!(HubClient::new(config).unwrap().endpoint(), "https://mirror.example/hf");
}
