//! The commands that are about the cluster: who belongs, and what runs where.

use clap::Subcommand;

use super::ClientArgs;
use crate::span::Span;

#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NodesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<NodesCommand>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum NodesCommand {
    /// Remove a device from the cluster for good; tickets that were given out before are void
    Forget(ForgetArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ForgetArgs {
    /// The device's name, its id, or the beginning of its id
    #[arg(value_name = "NODE")]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How a model is to be spread.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SpreadArgs {
    /// A model's name as for `pull`, `demo`, or the path of a .gguf file
    pub(crate) model: String,
    /// Exactly how many nodes share the model; by default as many as are fastest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) nodes: Option<u16>,
    /// At least how many
    #[arg(long, value_name = "N", conflicts_with = "nodes", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) min_nodes: Option<u16>,
    /// At most how many
    #[arg(long, value_name = "N", conflicts_with = "nodes", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_nodes: Option<u16>,
    /// Positions that a conversation may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    /// A node that takes no layers; can be given again
    #[arg(long, value_name = "NODE")]
    pub(crate) exclude: Vec<String>,
    /// Layers that a node takes, like old-pixel:0-12; can be given again
    #[arg(long, value_name = "NODE:A-B")]
    pub(crate) pin: Vec<Span>,
    /// Many conversations at once count more than the speed of one
    #[arg(long)]
    pub(crate) throughput: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) spread: SpreadArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PlaceArgs {
    #[command(flatten)]
    pub(crate) spread: SpreadArgs,
    /// Independent copies on nodes of their own; conversations are shared out among them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) replicas: Option<u16>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct UnplaceArgs {
    /// The model, or the id of one of its instances
    #[arg(value_name = "MODEL|ID")]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InviteArgs {
    /// Show the ticket as a QR code too
    #[arg(long)]
    pub(crate) qr: bool,
    /// How long it is good: 30m, 2h, 7d, or never for no end
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(crate) expires: String,
    /// Admit one device only
    #[arg(long)]
    pub(crate) single_use: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DrainArgs {
    /// The device's name, its id, or the beginning of its id; this one without it
    #[arg(value_name = "NODE")]
    pub(crate) target: Option<String>,
    /// Let it have layers again
    #[arg(long)]
    pub(crate) undo: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct JoinArgs {
    /// The ticket that `shoal invite` printed on a device of the other cluster
    pub(crate) ticket: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DoctorArgs {
    /// What to look at
    #[arg(value_parser = ["network"], default_value = "network")]
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
