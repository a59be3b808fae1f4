//! What the API says, as JSON: here of models and downloads. The command line reads the same shapes from a running node.

mod cluster;
pub(crate) mod live;
mod plan;

pub use cluster::{
    HeldView, InstanceView, NodeView, PlacedStageView, ProfileView, RunnerView, StageView,
    StateView, VitalsView,
};
pub use plan::{CandidateView, HelpView, LeftOutView, PlanStageView, PlanView};

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use shoal_node::{
    Fit, Offer,
    hub::{
        CardFormat, DownloadState, DownloadStatus, ModelState, Place, RepoFormat, SearchHit,
        StoredModel,
    },
};

/// A model of the catalogue, as it is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferView {
    /// Its repository on the model hub.
    pub id: String,
    /// What people type.
    pub short: String,
    /// What people read.
    pub name: String,
    /// Its family.
    pub family: String,
    /// GGUF's name of its architecture.
    pub architecture: String,
    /// `gguf` or `mlx`.
    pub format: String,
    /// Its licence.
    pub licence: String,
    /// Whether the hub wants to know who asks.
    pub gated: bool,
    /// What it is for.
    pub tags: Vec<String>,
    /// Number of weights.
    pub n_params: u64,
    /// Layers.
    pub n_layer: u32,
    /// Positions that it was trained for.
    pub n_ctx_train: u32,
    /// The quantisation that would be taken.
    pub quant: Option<String>,
    /// Its size on disk.
    pub n_bytes: u64,
    /// Memory that it takes with a context of `n_ctx`.
    pub memory_bytes: u64,
    /// Positions of a sequence that this was worked out for.
    pub n_ctx: u32,
    /// What this device can do with it.
    pub here: FitView,
    /// What the cluster can do with it.
    pub cluster: FitView,
    /// The name under which it is on this device.
    pub stored: Option<String>,
}

/// What some nodes can do with a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum FitView {
    /// One of them runs it.
    Runs,
    /// It takes several of them together.
    RunsOn {
        /// The fewest.
        n_nodes: usize,
    },
    /// They have too little memory.
    TooLarge {
        /// How much they lack.
        missing_bytes: u64,
    },
    /// This program cannot run it at all.
    Unsupported {
        /// What it cannot run.
        what: String,
    },
}

/// A model on the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredView {
    /// Its name.
    pub name: String,
    /// Whose it is: `own`, `hugging_face` or `ollama`.
    pub place: String,
    /// How it is.
    #[serde(flatten)]
    pub state: StoredState,
    /// Size of its files when they are whole.
    pub n_bytes: u64,
    /// Bytes that it takes on the disk.
    pub n_bytes_on_disk: u64,
    /// The directory in which it lies.
    pub dir: String,
    /// When it was last written, in seconds since 1970.
    pub modified: u64,
}

/// How a model on the device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StoredState {
    /// All of it is there.
    Whole,
    /// Some of it is there.
    Partial {
        /// Bytes that are there.
        n_bytes_held: u64,
    },
    /// It cannot be used as it is.
    Damaged {
        /// What is wrong.
        what: String,
    },
}

/// A download.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DownloadView {
    /// The model.
    pub model: String,
    /// `running`, `paused`, `failed` or `complete`.
    pub state: String,
    /// Why it failed.
    pub message: Option<String>,
    /// Bytes that are there, of those that are wanted.
    pub n_bytes: u64,
    /// Bytes that are wanted.
    pub n_total: u64,
    /// Bytes per second.
    pub bytes_per_s: f64,
    /// Seconds until it is complete, if that goes on.
    pub remaining_s: Option<f64>,
    /// Bytes that came from where the model is published.
    pub from_hub: u64,
    /// Bytes that came from other nodes.
    pub from_peers: u64,
    /// Nodes whose bytes were wrong.
    pub bad_peers: Vec<BadPeerView>,
}

/// A node whose bytes were wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPeerView {
    /// The node.
    pub node: String,
    /// The first chunk that was wrong.
    pub chunk: u32,
}

/// A repository that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchHitView {
    /// `owner/name`.
    pub repo: String,
    /// `gguf`, which can run here, `mlx` or `other`.
    pub format: String,
    /// Downloads in the last month.
    pub n_downloads: u64,
    /// Likes.
    pub n_likes: u64,
    /// When it last changed, ISO 8601.
    pub last_modified: Option<String>,
    /// Whether the hub wants to know who asks.
    pub gated: bool,
    /// What is said about it.
    pub tags: Vec<String>,
}

/// The disk on which models are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// The directory of the models.
    pub dir: String,
    /// Bytes that models may still take.
    pub free_bytes: u64,
    /// Bytes of the file system.
    pub total_bytes: u64,
}

impl FitView {
    /// Whether it runs.
    pub fn runs(&self) -> bool {
        matches!(self, Self::Runs | Self::RunsOn { .. })
    }
}

impl From<Fit> for FitView {
    fn from(fit: Fit) -> Self {
        match fit {
            Fit::Runs => Self::Runs,
            Fit::RunsOn { n_nodes } => Self::RunsOn { n_nodes },
            Fit::TooLarge { missing_bytes } => Self::TooLarge { missing_bytes },
            Fit::Unsupported { what } => Self::Unsupported { what },
        }
    }
}

impl From<Offer> for OfferView {
    fn from(offer: Offer) -> Self {
        let card = offer.card;
        let format = match card.format {
            CardFormat::Gguf => "gguf",
            CardFormat::Mlx => "mlx",
        };
        Self {
            id: card.id,
            short: card.short,
            name: card.name,
            family: card.family,
            architecture: card.architecture,
            format: format.to_owned(),
            licence: card.licence,
            gated: card.gated,
            tags: card.tags,
            n_params: card.n_params,
            n_layer: card.n_layer,
            n_ctx_train: card.n_ctx_train,
            quant: offer.quant.map(|quant| quant.as_str().to_owned()),
            n_bytes: offer.n_bytes,
            memory_bytes: offer.memory_bytes,
            n_ctx: offer.n_ctx,
            here: offer.here.into(),
            cluster: offer.cluster.into(),
            stored: offer.stored,
        }
    }
}

impl From<StoredModel> for StoredView {
    fn from(model: StoredModel) -> Self {
        let place = match model.place {
            Place::Own => "own",
            Place::HfCache => "hugging_face",
            Place::Ollama => "ollama",
        };
        let mut n_bytes = model.files.iter().map(|file| file.n_bytes).sum();
        let state = match model.state {
            ModelState::Whole => StoredState::Whole,
            ModelState::Partial { n_bytes: n_bytes_held, n_total } => {
                n_bytes = n_total;
                StoredState::Partial { n_bytes_held }
            }
            ModelState::Damaged { what } => StoredState::Damaged { what },
        };
        Self {
            name: model.name,
            place: place.to_owned(),
            state,
            n_bytes,
            n_bytes_on_disk: model.n_bytes_on_disk,
            dir: model.dir.to_string_lossy().into_owned(),
            modified: seconds(model.modified),
        }
    }
}

impl From<DownloadStatus> for DownloadView {
    fn from(status: DownloadStatus) -> Self {
        let (state, message) = match status.state {
            DownloadState::Running => ("running", None),
            DownloadState::Paused => ("paused", None),
            DownloadState::Failed { message } => ("failed", Some(message)),
            DownloadState::Complete => ("complete", None),
        };
        let bad_peers = status.bad_peers.into_iter();
        Self {
            model: status.model,
            state: state.to_owned(),
            message,
            n_bytes: status.n_bytes,
            n_total: status.n_total,
            bytes_per_s: status.bytes_per_s,
            remaining_s: status.remaining.map(|remaining| remaining.as_secs_f64()),
            from_hub: status.received.from_hub,
            from_peers: status.received.from_peers,
            bad_peers: bad_peers
                .map(|bad| BadPeerView { node: bad.node.to_string(), chunk: bad.chunk })
                .collect(),
        }
    }
}

impl From<SearchHit> for SearchHitView {
    fn from(hit: SearchHit) -> Self {
        let format = match hit.format {
            RepoFormat::Gguf => "gguf",
            RepoFormat::Mlx => "mlx",
            RepoFormat::Other => "other",
        };
        Self {
            repo: hit.repo,
            format: format.to_owned(),
            n_downloads: hit.n_downloads,
            n_likes: hit.n_likes,
            last_modified: hit.last_modified,
            gated: hit.gated,
            tags: hit.tags,
        }
    }
}

/// Milliseconds, as JSON shows times.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
