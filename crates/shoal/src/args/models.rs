//! The commands that are about models: which there are, and which are on this device.

use std::path::PathBuf;

use clap::Subcommand;

use super::NodeArgs;
use crate::{env, rate::Rate};

/// Where models are kept and come from.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LibraryArgs {
    /// Where models are kept; `models` in the data directory by default
    #[arg(long, value_name = "DIR", env = env::MODELS)]
    pub(crate) models_dir: Option<PathBuf>,
    /// Leave the models of other programs (Hugging Face's cache, Ollama) alone
    #[arg(long)]
    pub(crate) no_caches: bool,
    /// Bytes per second that downloads take together, for example 500K or 2M; all there are by default
    #[arg(long, value_name = "RATE", env = env::LIMIT)]
    pub(crate) limit: Option<Rate>,
}

/// The models of this device, for commands that work on the disk.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StorageArgs {
    /// Where models and cards are kept unless another place is named
    #[arg(long, value_name = "DIR", env = env::DATA_DIR)]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
}

/// The same for commands that a running node can carry out.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ShelfArgs {
    #[command(flatten)]
    pub(crate) at: NodeArgs,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
}

#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ModelsCommand>,
    #[command(flatten)]
    pub(crate) offers: OffersArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Ask the model hub
    Search(SearchArgs),
    /// Add cards of your own: files in the form of the catalogue
    Add(AddArgs),
    /// Remove cards of your own, by the models' ids or short names
    Remove(RemoveCardsArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OffersArgs {
    /// Show only models with all of these words in their names, families or tags
    pub(crate) words: Vec<String>,
    /// Show every quantisation of each model
    #[arg(long)]
    pub(crate) all: bool,
    /// Show only models that run
    #[arg(long)]
    pub(crate) runs: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) shelf: ShelfArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SearchArgs {
    /// What to look for
    #[arg(required = true)]
    pub(crate) words: Vec<String>,
    /// Show at most N repositories
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) limit: u8,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AddArgs {
    /// Files of cards
    #[arg(required = true, value_name = "FILE.toml")]
    pub(crate) files: Vec<PathBuf>,
    /// Where this device's files are kept
    #[arg(long, value_name = "DIR", env = env::DATA_DIR)]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RemoveCardsArgs {
    /// Ids or short names
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// Where this device's files are kept
    #[arg(long, value_name = "DIR", env = env::DATA_DIR)]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PullArgs {
    /// A name of the catalogue, `owner/repository[:quantisation]` or the address of a .gguf file
    pub(crate) model: String,
    /// Ask the hub what is newest, and replace what is here if that is another version
    #[arg(long)]
    pub(crate) update: bool,
    #[command(flatten)]
    pub(crate) shelf: ShelfArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ShowArgs {
    /// A name of the catalogue, or of a model on this device
    pub(crate) model: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) shelf: ShelfArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Names as `shoal list` shows them
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) shelf: ShelfArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ImportArgs {
    /// A .gguf file; one part of a split model stands for all
    pub(crate) file: PathBuf,
    /// What it will be called; the file's name by default
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Names as `shoal list` shows them; all models of Shoal's own by default
    pub(crate) names: Vec<String>,
    /// Give up what is damaged, so that the next `pull` fetches it again, and nothing else
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
}
