//! Nodes with the demonstration model and nothing else.

use std::{path::PathBuf, time::Duration};

use shoal_node::{
    Config, Event, GenerateRequest, InstanceStatus, InviteOptions, NetworkConfig, Node,
    PlaceRequest, Prompt, proto::SamplingParams,
};
use tempfile::TempDir;

/// No wait of a test is longer: a debug build on a busy machine needs a good part of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node and its directory.
pub(crate) struct Member {
    pub(crate) node: Node,
    name: String,
    dir: TempDir,
}

impl Member {
    pub(crate) async fn start(name: &str, join: Option<String>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = config(name, dir.path().to_owned(), join);
        let node = Node::start(config).await.expect("loopback is there");
        Self { node, name: name.to_owned(), dir }
    }

    /// Starts the node again, with what it kept.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(None).await
    }

    /// Starts the node again, with a ticket of the cluster that it is in: it says where one of the others is now.
    pub(crate) async fn restart_with(self, join: Option<String>) -> Self {
        let Self { node, name, dir } = self;
        node.shutdown().await;
        drop(node);
        let config = config(&name, dir.path().to_owned(), join);
        let node = Node::start(config).await.expect("loopback is there");
        Self { node, name, dir }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    pub(crate) fn ticket(&self) -> String {
        self.node.invite(InviteOptions::default()).expect("it is online")
    }

    /// Waits until a condition on the node holds.
    #[track_caller]
    pub(crate) fn wait_for(
        &self,
        what: &'static str,
        mut condition: impl FnMut(&Node) -> bool,
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while !condition(&self.node) {
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "{caller}: {what}, in vain: {:#?} {:#?}",
                    self.node.nodes(),
                    self.node.instances()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits until so many nodes live as this one sees it.
    #[track_caller]
    pub(crate) fn wait_for_alive(&self, n: usize) -> impl Future<Output = ()> {
        self.wait_for("nodes alive", move |node| n_alive(node) == n)
    }

    /// Continues a prompt, and returns the text or what went wrong.
    pub(crate) async fn answer(&self, model: &str) -> Result<String, shoal_node::Error> {
        let request = GenerateRequest {
            model: model.to_owned(),
            prompt: Prompt::Raw("The fish".into()),
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            breakers: Vec::new(),
            max_tokens: Some(12),
            stop: Vec::new(),
        };
        let mut generation = self.node.generate(request).await?;
        let mut text = String::new();
        while let Some(event) = generation.next().await {
            match event {
                Event::Text(piece) => text.push_str(&piece),
                Event::Failed(error) => return Err(error),
                _ => {}
            }
        }
        Ok(text)
    }

    /// The instances of a model that spans so many nodes.
    pub(crate) fn spread(&self, n_nodes: usize) -> Vec<InstanceStatus> {
        let mut instances = self.node.instances();
        instances.retain(|it| it.record.placement.stages.len() == n_nodes);
        instances
    }
}

pub(crate) fn n_alive(node: &Node) -> usize {
    node.nodes().iter().filter(|it| it.liveness == "alive").count()
}

pub(crate) fn config(name: &str, dir: PathBuf, join: Option<String>) -> Config {
    Config {
        name: name.to_owned(),
        data_dir: Some(dir),
        network: Some(NetworkConfig {
            interfaces: vec!["lo".into()],
            join,
            ..NetworkConfig::default()
        }),
        n_threads: Some(1),
        unload_after: Some(Duration::from_secs(1)),
        ..Config::default()
    }
}

/// Starts `n` nodes that know each other.
pub(crate) async fn cluster(n: usize) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    for i in 0..n {
        let ticket = members.first().map(Member::ticket);
        members.push(Member::start(&format!("node-{i}"), ticket).await);
    }
    for member in &members {
        member.wait_for_alive(n).await;
    }
    members
}

/// The demonstration model over so many nodes.
pub(crate) fn over(n_nodes: usize) -> PlaceRequest {
    PlaceRequest {
        model: "demo".into(),
        min_nodes: Some(n_nodes),
        max_nodes: Some(n_nodes),
        ..PlaceRequest::default()
    }
}
