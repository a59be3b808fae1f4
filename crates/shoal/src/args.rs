//! What the command line says, as plain data. Its documentation comments are the help.

mod cluster;
mod models;

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgGroup, Parser, Subcommand};
use shoal_api::Origin;

pub(crate) use cluster::{
    DoctorArgs, DrainArgs, ForgetArgs, InviteArgs, JoinArgs, NodesArgs, NodesCommand, PlaceArgs,
    PlanArgs, SpreadArgs, UnplaceArgs,
};
pub(crate) use models::{
    AddArgs, ImportArgs, LibraryArgs, ListArgs, ModelsArgs, ModelsCommand, OffersArgs, PullArgs,
    RemoveArgs, RemoveCardsArgs, SearchArgs, ShelfArgs, ShowArgs, StorageArgs, VerifyArgs,
};

use crate::env;

/// Turns the devices at hand into one LLM. Without a command: serve.
#[derive(Debug, Clone, Parser)]
#[command(name = "shoal", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, for a reason that the message gives
  2  the command line is wrong
  3  the model cannot be used: unknown, missing, damaged, or of a kind that is not supported
  4  an address cannot be bound, or a node cannot be reached
  5  the cluster or its node refused: wrong ticket, secret or token, or too few nodes
  6  the prompt does not fit the context
  7  the model hub or the network failed; run it again to go on
  8  the disk is full
130  interrupted";

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Run a node: the API, the page and a share of the models that are placed
    Serve(ServeArgs),
    /// Answer a prompt on this device alone, or chat
    Run(RunArgs),
    /// Measure how fast a model runs on this device
    Bench(BenchArgs),
    /// Show the models that are known, and whether they run here
    Models(ModelsArgs),
    /// Bring a model to this device
    Pull(PullArgs),
    /// Show the models on this device
    #[command(alias = "ls")]
    List(ListArgs),
    /// Show what is known of a model
    Show(ShowArgs),
    /// Remove models from this device
    Rm(RemoveArgs),
    /// Take a model file of this device into Shoal's directory, without a copy where that is possible
    Import(ImportArgs),
    /// Read models back and compare them with what they should be
    Verify(VerifyArgs),
    /// Show the nodes of the cluster, or remove one
    Nodes(NodesArgs),
    /// Show how a model could be spread, how fast it would be, and what each device brings
    Plan(PlanArgs),
    /// Spread a model over nodes of the cluster
    Place(PlaceArgs),
    /// Drop a placed model everywhere
    Unplace(UnplaceArgs),
    /// Print a ticket that admits another device to the cluster
    Invite(InviteArgs),
    /// Join another cluster and leave the present one
    Join(JoinArgs),
    /// Leave the cluster for good
    Leave(ClientArgs),
    /// Have a device give its layers to the others, before it is switched off or taken along
    Drain(DrainArgs),
    /// Find out what stands between devices that do not see each other
    Doctor(DoctorArgs),
    /// Compute a stage for the node that starts this: a protocol on standard input and output, for nobody else
    #[command(hide = true)]
    Runner,
}

#[derive(Debug, Clone, clap::Args)]
// What lets others in makes a token.
#[command(group(ArgGroup::new("opens").args(["lan", "allow_origin"]).multiple(true)))]
pub(crate) struct ServeArgs {
    /// Where the API and the page listen; 127.0.0.1:52415 by default, with --lan 0.0.0.0:52415
    #[arg(long, value_name = "ADDR", env = env::LISTEN)]
    pub(crate) listen: Option<SocketAddr>,
    /// Where this device's key, the cluster's secret and known peers are kept
    #[arg(long, value_name = "DIR", env = env::DATA_DIR)]
    pub(crate) data_dir: Option<PathBuf>,
    /// The name of this device
    #[arg(long, env = env::NAME)]
    pub(crate) name: Option<String>,
    /// Open the API and the page to the local network; they then ask for a token, which is printed
    #[arg(long)]
    pub(crate) lan: bool,
    /// Make a new token: what was printed before is void
    #[arg(long, requires = "opens")]
    pub(crate) new_token: bool,
    /// Let pages of this origin use the API from a browser if they send the token, which is printed; its scheme and host, as the browser names it; can be given again
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) allow_origin: Vec<Origin>,
    /// Join a cluster with a ticket from `shoal invite`
    #[arg(long, value_name = "TICKET")]
    pub(crate) join: Option<String>,
    /// Bind and send only on this network interface; can be given again
    #[arg(long, value_name = "IF")]
    pub(crate) interface: Vec<String>,
    /// Do not look for the cluster's devices in the local network, and do not answer those who look
    #[arg(long)]
    pub(crate) no_discovery: bool,
    /// Where a device of the cluster may be; can be given again
    #[arg(long, value_name = "ADDR")]
    pub(crate) peer: Vec<SocketAddr>,
    /// Use this relay of your own where devices cannot reach each other; all devices must name the same one
    #[arg(long, value_name = "URL", env = env::RELAY)]
    pub(crate) relay: Option<String>,
    /// Let models move by themselves to placements that are much faster, when a device has joined; otherwise `shoal nodes`
    /// suggests it
    #[arg(long)]
    pub(crate) auto: bool,
    /// This data directory was restored from a backup of this device: take its key for this device's own
    #[arg(long)]
    pub(crate) adopt_identity: bool,
    /// Answers of one model at once; later requests wait in line. 8 by default; each holds a KV cache
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) parallel: Option<u8>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) library: LibraryArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ComputeArgs {
    /// Threads to compute with; all cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) threads: Option<u16>,
    /// Positions that a conversation may use; by default what the model was trained for, at most 4096
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    /// Instruction set to compute with; the best of this CPU by default
    #[arg(long, value_name = "NAME", env = env::ISA)]
    pub(crate) isa: Option<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    /// A model's name as for `pull`, `demo`, or the path of a .gguf file
    pub(crate) model: String,
    /// What to say; without it, standard input if it is piped, else a chat
    pub(crate) prompt: Option<String>,
    /// The same seed gives the same answer; random by default
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// 0 always takes the most likely token
    #[arg(long, default_value_t = 0.7)]
    pub(crate) temperature: f32,
    /// Consider only the N most likely tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) top_k: u32,
    /// Consider only the most likely tokens up to this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub(crate) top_p: f32,
    /// Drop tokens less likely than this share of the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) min_p: f32,
    /// Keep the most typical tokens up to this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub(crate) typical_p: f32,
    /// Drop tokens more than X standard deviations below the best; 0 for none
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(crate) top_n_sigma: f32,
    /// How often to exclude the top choices
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) xtc_probability: f32,
    /// From which probability on a token is a top choice
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    pub(crate) xtc_threshold: f32,
    /// Make tokens of the latest text less likely; 1 does nothing
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) repeat_penalty: f32,
    /// Make a token less likely each time that it occurs
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,
    /// Make a token less likely if it has occurred
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,
    /// Make tokens less likely that continue a repetition; 0 does nothing
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(crate) dry_multiplier: f32,
    /// Generate at most N tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// End the answer before this text; can be given again
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Continue the prompt as it stands, without the model's chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// Print speeds to standard error at the end
    #[arg(long)]
    pub(crate) stats: bool,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {
    /// A model's name as for `pull`, `demo`, or the path of a .gguf file
    pub(crate) model: String,
    /// Tokens of the prompt, with commas between for several; 0 to leave it out
    #[arg(short = 'p', long, value_name = "N,..", value_delimiter = ',', default_value = "512")]
    pub(crate) prompt: Vec<usize>,
    /// Tokens to generate; 0 to leave it out
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    pub(crate) generate: usize,
    /// Tokens that are in the context before the clock starts, with commas between
    #[arg(short = 'd', long, value_name = "N,..", value_delimiter = ',', default_value = "0")]
    pub(crate) depth: Vec<usize>,
    /// Sequences that generate at once, with commas between
    #[arg(short = 'b', long, value_name = "N,..", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) batch: Vec<u8>,
    /// Numbers of threads, with commas between; all cores by default
    #[arg(short = 't', long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) threads: Vec<u16>,
    /// Measurements of each
    #[arg(short = 'r', long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) repeat: u16,
    /// Instruction set to compute with; the best of this CPU by default
    #[arg(long, value_name = "NAME", env = env::ISA)]
    pub(crate) isa: Option<String>,
    /// Print one JSON object for each number of threads
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
}

/// The running node that a command talks to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeArgs {
    /// Address of the running node
    #[arg(long, value_name = "ADDR", env = env::LISTEN, default_value = "127.0.0.1:52415")]
    pub(crate) node: SocketAddr,
    /// The token of a node that is opened to the network; others on this device can see it here, so SHOAL_TOKEN="$(cat FILE)" is safer
    #[arg(long, value_name = "TOKEN", env = env::TOKEN, hide_env_values = true)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub(crate) at: NodeArgs,
    /// Print the node's own JSON
    #[arg(long)]
    pub(crate) json: bool,
}
