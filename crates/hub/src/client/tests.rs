//! Against a hub that listens on loopback, and servers that say what a test tells them.

mod canned;
mod files;
mod hostile;
mod listings;

use std::time::Duration;

use shoal_fake_hub::{Content, FakeHub};
use shoal_proto::model::{Digest, FileId, FileOrigin};

use super::{HubClient, HubConfig, HubError, HubTiming, RangeBody, RemoteFile, Token};

const REPO: &str = "owner/small-GGUF";
const MODEL: &str = "small-q4_k_m.gguf";
/// Bytes of [`MODEL`]: more than one piece of a body.
const MODEL_BYTES: u64 = 600_000;

/// Pauses that a test does not notice. Waits that only end when something is broken are as long as usual.
fn timing() -> HubTiming {
    HubTiming {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        n_attempts: 3,
        ..HubTiming::default()
    }
}

/// Of silence, an attempt's worth is waited for.
fn impatient() -> HubTiming {
    HubTiming { stall: Duration::from_millis(100), ..timing() }
}

fn client_of(endpoint: String, token: Option<&str>, timing: HubTiming) -> HubClient {
    let token = token.and_then(Token::new);
    HubClient::new(HubConfig { endpoint, token, timing }).unwrap()
}

fn client(hub: &FakeHub) -> HubClient {
    client_of(hub.endpoint(), None, timing())
}

fn client_with(hub: &FakeHub, token: &str) -> HubClient {
    client_of(hub.endpoint(), Some(token), timing())
}

/// A hub with one model, and the file of it.
fn hub_with_model() -> (FakeHub, FileOrigin, FileId) {
    let hub = FakeHub::start();
    hub.add_repo(
        REPO,
        vec![
            (MODEL, Content::Generated { seed: 1, n_bytes: MODEL_BYTES }),
            ("README.md", Content::text("read me")),
        ],
    );
    let origin = origin(&hub, MODEL);
    let sha256 = super::exchange::parse_sha256(&hub.sha256(REPO, MODEL)).unwrap();
    (hub, origin, FileId { digest: Digest::Sha256(sha256), n_bytes: MODEL_BYTES })
}

fn origin(hub: &FakeHub, path: &str) -> FileOrigin {
    FileOrigin::Hub { repo: REPO.to_owned(), commit: hub.commit(REPO), path: path.to_owned() }
}

/// What [`MODEL`] holds there.
fn model_bytes(range: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
    Content::generate(1, range.start, &mut bytes);
    bytes
}

/// Reads a body until it ends or fails.
async fn drain(mut body: RangeBody) -> (Vec<u8>, Result<(), HubError>) {
    let mut bytes = Vec::new();
    loop {
        match body.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return (bytes, Ok(())),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

async fn read(file: &RemoteFile, range: std::ops::Range<u64>) -> Vec<u8> {
    let (bytes, end) = drain(file.read(range).await.unwrap()).await;
    end.unwrap();
    bytes
}
