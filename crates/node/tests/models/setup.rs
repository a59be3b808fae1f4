//! A hub with a model, and nodes that form a cluster.

use std::{path::PathBuf, time::Duration};

use shoal_fake_hub::{Content, FakeHub};
use shoal_node::{
    Config, Event, GenerateRequest, InviteOptions, NetworkConfig, Node, PlaceRequest, Prompt,
    hub::{DownloadTiming, HubConfig, LibraryConfig, StoreConfig},
    proto::SamplingParams,
};
use tempfile::TempDir;

pub(crate) const REPO: &str = "owner/tiny-GGUF";
pub(crate) const NAME: &str = "owner/tiny-GGUF:Q8_0";
const FILE: &str = "tiny-q8_0.gguf";

/// A placement of a model over so many nodes.
pub(crate) fn over(model: &str, n_nodes: usize) -> PlaceRequest {
    PlaceRequest {
        model: model.to_owned(),
        min_nodes: Some(n_nodes),
        max_nodes: Some(n_nodes),
        n_ctx: Some(256),
        ..PlaceRequest::default()
    }
}

/// A hub that has one model of about `n_bytes`, and the file itself.
pub(crate) struct Setup {
    pub(crate) hub: FakeHub,
    pub(crate) n_bytes: u64,
    pub(crate) file: PathBuf,
    dir: TempDir,
}

/// A node and its directory.
pub(crate) struct Member {
    pub(crate) node: Node,
    _dir: TempDir,
}

impl Setup {
    pub(crate) fn new(n_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join(FILE);
        xtask::synth::fast_model(&file, n_bytes, 7).expect("the disk takes it");
        let n_bytes = std::fs::metadata(&file).expect("it was written").len();
        let hub = FakeHub::start();
        hub.add_repo(REPO, vec![(FILE, Content::File(file.clone()))]);
        Self { hub, n_bytes, file, dir }
    }

    /// Starts `n` nodes that know each other.
    pub(crate) async fn cluster(&self, n: usize) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        for i in 0..n {
            let ticket = members
                .first()
                .map(|first| first.node.invite(InviteOptions::default()).expect("it is online"));
            members.push(self.start(&format!("node-{i}"), ticket).await);
        }
        for member in &members {
            while member.node.nodes().iter().filter(|it| it.liveness == "alive").count() < n {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        members
    }

    pub(crate) async fn start(&self, name: &str, join: Option<String>) -> Member {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let library = LibraryConfig {
            store: StoreConfig::new(dir.path().join("models")),
            hub: HubConfig { endpoint: self.hub.endpoint(), ..HubConfig::default() },
            timing: DownloadTiming::default(),
            bytes_per_s: None,
            cards: None,
        };
        let config = Config {
            name: name.to_owned(),
            data_dir: Some(dir.path().to_owned()),
            network: Some(NetworkConfig {
                interfaces: vec!["lo".into()],
                join,
                ..NetworkConfig::default()
            }),
            n_threads: Some(1),
            library: Some(library),
            ..Config::default()
        };
        let node = Node::start(config).await.expect("loopback is there");
        Member { node, _dir: dir }
    }

    /// The directory of the model's own file.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

impl Member {
    /// Bytes that the model takes on this node's disk.
    pub(crate) async fn n_bytes_on_disk(&self) -> u64 {
        let stored = self.node.stored().await.expect("it keeps models");
        stored.iter().map(|model| model.n_bytes_on_disk).sum()
    }

    /// Where the bytes of its download came from.
    pub(crate) fn received(&self) -> (u64, u64) {
        let downloads = self.node.downloads();
        let received = downloads.iter().map(|download| download.received);
        received.fold((0, 0), |sum, it| (sum.0 + it.from_hub, sum.1 + it.from_peers))
    }

    /// Continues a prompt greedily.
    pub(crate) async fn answer(&self, model: &str) -> String {
        let request = GenerateRequest {
            model: model.to_owned(),
            prompt: Prompt::Raw("The fish".into()),
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            breakers: Vec::new(),
            max_tokens: Some(12),
            stop: Vec::new(),
        };
        let mut generation = self.node.generate(request).await.expect("the model is placed");
        let mut text = String::new();
        while let Some(event) = generation.next().await {
            match event {
                Event::Text(piece) => text.push_str(&piece),
                Event::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
        text
    }
}
