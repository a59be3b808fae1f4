//! The hub as clients see it: raw requests over sockets, so that nothing is repaired on the way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its own functions too")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use shoal_fake_hub::{At, Behaviour, Card, Content, FakeHub, Fault, Gate};

const REPO: &str = "owner/name";
const N_BYTES: u64 = 3_000_001;
const SEED: u64 = 5;

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (other, value) = line.split_once(": ")?;
            other.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends a request to a whole URL and reads until the server closes the connection.
fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut stream = TcpStream::connect(host).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(received[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: received[end + 4..].to_vec() }
}

fn get(url: &str) -> Answer {
    request("GET", url, &[])
}

fn hub() -> FakeHub {
    let hub = FakeHub::start();
    let files = vec![
        ("model.gguf", Content::Generated { seed: SEED, n_bytes: N_BYTES }),
        ("config.json", Content::text("{}")),
        ("a/b/deep file.txt", Content::text("deep")),
        ("a/c.txt", Content::text("c")),
    ];
    hub.add_repo(REPO, files);
    hub
}

fn resolve_url(hub: &FakeHub, path: &str) -> String {
    format!("{}/{REPO}/resolve/main/{path}", hub.endpoint())
}

/// The signed URL of the large file.
fn signed(hub: &FakeHub) -> String {
    get(&resolve_url(hub, "model.gguf")).header("location").to_owned()
}

fn generated(start: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Content::generate(SEED, start, &mut bytes);
    bytes
}

fn whole() -> Vec<u8> {
    generated(0, N_BYTES as usize)
}

fn bearer() -> String {
    format!("Bearer {}", FakeHub::TOKEN)
}

#[test]
fn summarises_a_repository() {
    let hub = hub();
    let url = format!("{}/api/models/{REPO}", hub.endpoint());
    let summary = get(&url).json();
    assert_eq!(summary["id"], REPO);
    assert_eq!(summary["sha"], hub.commit(REPO));
    assert_eq!(summary["gated"], false);
    assert_eq!(summary["siblings"].as_array().unwrap().len(), 4);
    assert_eq!(get(&format!("{url}/revision/{}", hub.commit(REPO))).json(), summary);
}

#[test]
fn lists_in_pages() {
    let hub = hub();
    hub.set_page_size(2);
    let mut url = format!("{}/api/models/{REPO}/tree/main?recursive=true", hub.endpoint());
    let mut paths = Vec::new();
    let mut n_pages = 0;
    loop {
        let answer = get(&url);
        n_pages += 1;
        for entry in answer.json().as_array().unwrap() {
            paths.push(entry["path"].as_str().unwrap().to_owned());
            if entry["path"] == "model.gguf" {
                assert_eq!(entry["lfs"]["oid"], hub.sha256(REPO, "model.gguf"));
                assert_eq!(entry["lfs"]["size"], N_BYTES);
                assert_eq!(entry["lfs"]["pointerSize"], 132);
            }
        }
        let Some(link) = answer.find("link") else { break };
        url = link.strip_suffix(">; rel=\"next\"").unwrap()[1..].to_owned();
    }
    let expected = ["a", "a/b", "a/b/deep file.txt", "a/c.txt", "config.json", "model.gguf"];
    assert_eq!(paths, expected);
    assert_eq!(n_pages, 3);
}

#[test]
fn lists_one_folder() {
    let hub = hub();
    let paths = |rest: &str| {
        let answer = get(&format!("{}/api/models/{REPO}/tree/main{rest}", hub.endpoint()));
        let json = answer.json();
        let entries = json.as_array().unwrap().iter();
        entries.map(|entry| entry["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paths(""), ["a", "config.json", "model.gguf"]);
    assert_eq!(paths("/a"), ["a/b", "a/c.txt"]);
    let missing = get(&format!("{}/api/models/{REPO}/tree/main/x", hub.endpoint()));
    assert_eq!((missing.status, missing.header("x-error-code")), (404, "EntryNotFound"));
}

#[test]
fn searches_by_words_and_tags() {
    let hub = hub();
    hub.add_repo("other/name-2", vec![("model.safetensors", Content::text("x"))]);
    hub.set_card(REPO, Card { downloads: 9, ..Card::default() });
    let ids = |query: &str| {
        let json = get(&format!("{}/api/models?{query}", hub.endpoint())).json();
        let found = json.as_array().unwrap().iter();
        found.map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("search=NAME"), [REPO, "other/name-2"]);
    assert_eq!(ids("search=name&filter=gguf"), [REPO]);
    assert_eq!(ids("search=name&limit=1"), [REPO]);
    assert_eq!(ids("search=nothing"), Vec::<String>::new());
}

#[test]
fn redirects_large_files_to_the_cdn() {
    let hub = hub();
    let answer = request("HEAD", &resolve_url(&hub, "model.gguf"), &[]);
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("x-repo-commit"), hub.commit(REPO));
    assert_eq!(answer.header("x-linked-size"), N_BYTES.to_string());
    let etag = format!("\"{}\"", hub.sha256(REPO, "model.gguf"));
    assert_eq!(answer.header("x-linked-etag"), etag);
    let location = answer.header("location");
    assert!(location.starts_with(&format!("http://{}/", hub.cdn_address())), "{location}");
    assert!(get(location).body == whole());
    assert_eq!(hub.served_bytes(), N_BYTES);
    hub.reset_log();
    assert_eq!((hub.served_bytes(), hub.log().len()), (0, 0));
}

#[test]
fn serves_small_files_behind_a_relative_redirect_or_directly() {
    let hub = hub();
    let url = resolve_url(&hub, "a/b/deep%20file.txt");
    let answer = get(&url);
    assert_eq!(answer.status, 307);
    let location = answer.header("location");
    assert!(location.starts_with("/api/resolve-cache/models/"), "{location}");
    let followed = get(&format!("{}{location}", hub.endpoint()));
    assert_eq!((followed.status, followed.body.as_slice()), (200, b"deep".as_slice()));
    assert_eq!(followed.header("x-repo-commit"), hub.commit(REPO));

    hub.set_resolve_cache(false);
    let direct = get(&resolve_url(&hub, "config.json"));
    assert_eq!((direct.status, direct.body.as_slice()), (200, b"{}".as_slice()));
    // `printf '{}' | git hash-object --stdin`
    assert_eq!(direct.header("etag"), "\"9e26dfeeb6e641a33dae4961196235bdb965b21b\"");
}

#[test]
fn refuses_expired_and_wrong_signatures() {
    let hub = hub();
    let url = signed(&hub);
    assert_eq!(get(&url).status, 200);
    assert_eq!(get(&url.replace("Signature=", "Signature=0")).status, 403);
    assert_eq!(get(&url.replace("Expires=", "Expires=9")).status, 403);
    hub.expire_urls();
    assert_eq!(get(&url).status, 403);
    assert_eq!(get(&signed(&hub)).status, 200);
    hub.set_url_lifetime(Duration::ZERO);
    hub.behave(Behaviour::new(At::Resolve, Fault::ExpiredUrl).times(1));
    assert_eq!(get(&signed(&hub)).status, 403);
}

#[test]
fn the_cdn_refuses_tokens() {
    let hub = hub();
    let answer = request("GET", &signed(&hub), &[("Authorization", &bearer())]);
    assert_eq!(answer.status, 400);
    assert!(hub.log().last().unwrap().authorized);
}

#[test]
fn serves_ranges() {
    let hub = hub();
    let url = signed(&hub);
    let part = request("GET", &url, &[("Range", "bytes=1000001-1300000")]);
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), format!("bytes 1000001-1300000/{N_BYTES}"));
    assert!(part.body == generated(1_000_001, 300_000));
    let end = request("GET", &url, &[("Range", "bytes=3000000-")]);
    assert_eq!((end.status, end.body), (206, generated(3_000_000, 1)));
    let beyond = request("GET", &url, &[("Range", "bytes=3000001-")]);
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), format!("bytes */{N_BYTES}"));
    let head = request("HEAD", &url, &[]);
    assert_eq!(head.header("content-length"), N_BYTES.to_string());
    assert!(head.body.is_empty());
    let log = hub.log();
    assert_eq!(log[1].range.as_deref(), Some("bytes=1000001-1300000"));
    assert_eq!((log[1].status, log[1].sent_bytes, log[1].at), (206, 300_000, At::Cdn));
    assert_eq!(log[1].file, "owner/name/model.gguf");
}

#[test]
fn says_what_is_missing_as_the_hub_does() {
    let hub = hub();
    #[track_caller]
    fn check(url: &str, token: Option<&str>, status: u16, code: Option<&str>) {
        let headers: Vec<_> = token.map(|token| ("Authorization", token)).into_iter().collect();
        let answer = request("GET", url, &headers);
        assert_eq!((answer.status, answer.find("x-error-code")), (status, code), "{url}");
    }
    let token = bearer();
    for path in ["no/repo/resolve/main/a", "api/models/no/repo", "api/models/no/repo/tree/main"] {
        let url = format!("{}/{path}", hub.endpoint());
        check(&url, None, 401, Some("RepoNotFound"));
        check(&url, Some(&token), 404, Some("RepoNotFound"));
    }
    let no_revision = format!("{}/{REPO}/resolve/x/config.json", hub.endpoint());
    check(&no_revision, None, 404, Some("RevisionNotFound"));
    check(&resolve_url(&hub, "none"), None, 404, Some("EntryNotFound"));
    check(&resolve_url(&hub, "model.gguf"), Some("Bearer wrong"), 401, None);
}

#[test]
fn gates_files_but_not_listings() {
    let hub = hub();
    let url = resolve_url(&hub, "model.gguf");
    let token = bearer();
    let with_token = || request("GET", &url, &[("Authorization", &token)]);
    hub.set_gated(REPO, Gate::Granted);
    let refused = get(&url);
    assert_eq!((refused.status, refused.header("x-error-code")), (401, "GatedRepo"));
    assert_eq!(with_token().status, 302);
    hub.set_gated(REPO, Gate::Waiting);
    let refused = with_token();
    assert_eq!((refused.status, refused.header("x-error-code")), (403, "GatedRepo"));
    let summary = get(&format!("{}/api/models/{REPO}", hub.endpoint()));
    assert_eq!(summary.json()["gated"], "manual");
    hub.set_gated(REPO, Gate::Private);
    assert_eq!(get(&url).header("x-error-code"), "RepoNotFound");
}

#[test]
fn renamed_repositories_redirect_relatively() {
    let hub = hub();
    hub.rename(REPO, "new-owner/name");
    let answer = get(&resolve_url(&hub, "model.gguf"));
    assert_eq!(answer.status, 307);
    assert_eq!(answer.header("location"), "/new-owner/name/resolve/main/model.gguf");
}

#[test]
fn earlier_commits_stay() {
    let hub = hub();
    let before = hub.commit(REPO);
    hub.add_repo(REPO, vec![("config.json", Content::text("{\"new\": 1}"))]);
    assert_ne!(hub.commit(REPO), before);
    hub.set_resolve_cache(false);
    let old = get(&format!("{}/{REPO}/resolve/{before}/config.json", hub.endpoint()));
    assert_eq!(old.body, b"{}");
    assert_eq!(old.header("x-repo-commit"), before);
}

#[test]
fn limits_rates_as_often_as_told() {
    let hub = hub();
    let limited = Fault::Status { status: 429, retry_after_s: Some(7) };
    hub.behave(Behaviour::new(At::Resolve, limited).after(1).times(2));
    let url = resolve_url(&hub, "model.gguf");
    let statuses: Vec<_> = (0..4).map(|_| get(&url).status).collect();
    assert_eq!(statuses, [302, 429, 429, 302]);
    let broken = Fault::Status { status: 503, retry_after_s: None };
    hub.behave(Behaviour::new(At::Api, broken));
    let url = format!("{}/api/models", hub.endpoint());
    assert_eq!((get(&url).status, get(&url).find("retry-after")), (503, None));
    hub.behave_well();
    assert_eq!(get(&url).status, 200);
}

#[test]
fn cuts_only_bodies_that_are_long_enough() {
    let hub = hub();
    let url = signed(&hub);
    hub.behave(Behaviour::new(At::Cdn, Fault::Cut { after_bytes: 700_000 }).times(1));
    assert_eq!(request("GET", &url, &[("Range", "bytes=0-9")]).body.len(), 10);
    let cut = get(&url);
    assert_eq!(cut.header("content-length"), N_BYTES.to_string());
    assert!(cut.body == generated(0, 700_000));
    assert!(get(&url).body == whole());
    assert_eq!(hub.served_bytes(), 10 + 700_000 + N_BYTES);
}

#[test]
fn stalls_until_the_client_goes() {
    let hub = hub();
    let url = signed(&hub);
    hub.behave(Behaviour::new(At::Cdn, Fault::Stall { after_bytes: 1000 }));
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(format!("GET /{path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(received.ends_with(&generated(0, 1000)));
    assert_eq!(hub.log().last().unwrap().sent_bytes, 1000);
}

#[test]
fn sends_slowly() {
    let hub = hub();
    let url = signed(&hub);
    hub.behave(Behaviour::new(At::Cdn, Fault::Slow { bytes_per_s: 100_000 }));
    let begun = Instant::now();
    let part = request("GET", &url, &[("Range", "bytes=0-19999")]);
    assert_eq!(part.body, generated(0, 20_000));
    assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
}

#[test]
fn corrupts_one_byte_where_it_is_sent() {
    let hub = hub();
    let url = signed(&hub);
    hub.behave(Behaviour::new(At::Cdn, Fault::Corrupt { offset: 1_000_000 }).times(1));
    assert_eq!(request("GET", &url, &[("Range", "bytes=0-9")]).body, generated(0, 10));
    let part = request("GET", &url, &[("Range", "bytes=999999-1000001")]);
    let mut expected = generated(999_999, 3);
    expected[1] = !expected[1];
    assert_eq!(part.body, expected);
    assert!(get(&url).body == whole());
}

#[test]
fn ends_early_though_it_claims_the_size() {
    let hub = hub();
    let url = signed(&hub);
    hub.behave(Behaviour::new(At::Cdn, Fault::Truncated { n_bytes: 500 }));
    let answer = request("GET", &url, &[("Range", "bytes=400-599")]);
    assert_eq!(answer.header("content-length"), "200");
    assert_eq!(answer.body, generated(400, 100));
}

#[test]
fn ignores_ranges_when_told() {
    let hub = hub();
    let url = signed(&hub);
    hub.behave(Behaviour::new(At::Cdn, Fault::RangesIgnored).times(1));
    let answer = request("GET", &url, &[("Range", "bytes=5-9")]);
    assert_eq!((answer.status, answer.body.len() as u64), (200, N_BYTES));
    assert_eq!(request("GET", &url, &[("Range", "bytes=5-9")]).status, 206);
}

#[test]
fn hides_hashes_when_told() {
    let hub = hub();
    hub.behave(Behaviour::new(At::Resolve, Fault::NoSha));
    hub.behave(Behaviour::new(At::Api, Fault::NoSha));
    assert_eq!(get(&resolve_url(&hub, "model.gguf")).find("x-linked-etag"), None);
    let tree = get(&format!("{}/api/models/{REPO}/tree/main", hub.endpoint()));
    assert!(!String::from_utf8(tree.body).unwrap().contains("lfs"));
}

#[test]
fn plain_files_can_change() {
    let hub = hub();
    let url = hub.add_file("dir/a.gguf", Content::text("first"));
    assert_eq!(url, hub.url("dir/a.gguf"));
    let first = get(&url);
    let etag = first.header("etag").to_owned();
    let range = |etag: &str| request("GET", &url, &[("Range", "bytes=1-"), ("If-Range", etag)]);
    assert_eq!(range(&etag).body, b"irst");
    hub.add_file("dir/a.gguf", Content::text("other"));
    assert_ne!(get(&url).header("etag"), etag);
    assert_eq!((range(&etag).status, range(&etag).body), (200, b"other".to_vec()));
}

#[test]
fn serves_files_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.bin");
    std::fs::write(&path, whole()).unwrap();
    let hub = FakeHub::start();
    let url = hub.add_file("a.bin", Content::File(path));
    assert!(get(&url).body == whole());
}
