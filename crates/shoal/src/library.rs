//! Where models are kept and come from: flags, the environment and defaults become one configuration.

use std::path::{Path, PathBuf};

use anyhow::Context;
use etcetera::BaseStrategy;
use shoal_node::{
    Config, Node,
    hub::{DownloadTiming, HubConfig, LibraryConfig, StoreConfig, Token},
};

use crate::{
    args::{LibraryArgs, StorageArgs},
    env,
    failure::Failure,
};

/// The data directory: the one that was named, else the system's usual place.
pub(crate) fn data_dir(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(dir) = named {
        return Ok(dir.to_owned());
    }
    let strategy = etcetera::choose_base_strategy().context("no home directory; use --data-dir")?;
    Ok(strategy.data_dir().join("shoal"))
}

/// The directory of the user's own cards.
pub(crate) fn cards_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("cards")
}

/// Where models are kept and come from.
pub(crate) fn config(args: &LibraryArgs, data_dir: &Path) -> LibraryConfig {
    let home = std::env::home_dir();
    let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let caches = !args.no_caches;
    let hf_cache = || {
        env::path(env::HF_HUB_CACHE)
            .or_else(|| env::path(env::HF_HOME).map(|home| home.join("hub")))
            .or_else(|| in_home(".cache/huggingface/hub"))
    };
    let ollama = || env::path(env::OLLAMA_MODELS).or_else(|| in_home(".ollama/models"));
    LibraryConfig {
        store: StoreConfig {
            dir: args.models_dir.clone().unwrap_or_else(|| data_dir.join("models")),
            hf_cache: caches.then(hf_cache).flatten(),
            ollama: caches.then(ollama).flatten(),
        },
        hub: hub_config(),
        timing: DownloadTiming::default(),
        bytes_per_s: args.limit.map(|rate| rate.0),
        cards: Some(cards_dir(data_dir)),
    }
}

/// The same for a command that works on the disk.
pub(crate) fn storage(args: &StorageArgs) -> Result<LibraryConfig, Failure> {
    Ok(config(&args.library, &data_dir(args.data_dir.as_deref())?))
}

/// A node without a network and without instances, for a command that works on the disk.
pub(crate) async fn open(args: &StorageArgs) -> Result<Node, Failure> {
    let library = Some(storage(args)?);
    Ok(Node::start(Config { name: "shoal".into(), library, ..Config::default() }).await?)
}

/// How to reach the model hub.
pub(crate) fn hub_config() -> HubConfig {
    let default = HubConfig::default();
    HubConfig {
        endpoint: env::text(env::HF_ENDPOINT).unwrap_or(default.endpoint),
        token: env::text(env::HF_TOKEN).or_else(token_file).and_then(|text| Token::new(&text)),
        timing: default.timing,
    }
}

/// The token that a login with Hugging Face's programs has left.
fn token_file() -> Option<String> {
    let dir = env::path(env::HF_HOME)
        .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))?;
    // Most people have none, and need none.
    std::fs::read_to_string(dir.join("token")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Rate;

    #[test]
    fn flags_come_before_defaults() {
        let mut args = LibraryArgs { models_dir: None, no_caches: true, limit: None };
        let defaults = config(&args, Path::new("/data"));
        assert_eq!(defaults.store.dir, Path::new("/data/models"));
        assert_eq!(defaults.cards.as_deref(), Some(Path::new("/data/cards")));
        assert_eq!((defaults.store.hf_cache, defaults.store.ollama), (None, None));
        assert_eq!(defaults.bytes_per_s, None);
        (args.models_dir, args.limit) = (Some("/mnt/models".into()), Some(Rate(7)));
        let named = config(&args, Path::new("/data"));
        assert_eq!(named.store.dir, Path::new("/mnt/models"));
        assert_eq!(named.bytes_per_s, Some(7));
    }
}
