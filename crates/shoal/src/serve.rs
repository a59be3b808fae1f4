//! `shoal serve`: a node, its API and its page, until it is told to end.

use std::io::Write;

use anyhow::Context;
use shoal_node::{Config, NetworkConfig, Node, PlaceRequest};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{args::ServeArgs, env, failure::Failure, library, stop};

/// UDP port that a node takes if it is free, so that the addresses which peers remember stay true.
const PEER_PORT: u16 = 52415;

pub(crate) async fn serve(args: ServeArgs) -> Result<(), Failure> {
    let data_dir = library::data_dir(args.data_dir.as_deref())?;
    let library = library::config(&args.library, &data_dir);
    // The port is bound first: a second node on one machine should say so before it does anything else.
    let listener = tokio::net::TcpListener::bind(args.listen).await.map_err(|error| {
        let error = anyhow::Error::from(error).context(format!("cannot listen on {}", args.listen));
        Failure::new(error, Failure::ADDRESS)
            .hint("another node may run already; choose another address with --listen")
    })?;
    let address = listener.local_addr()?;
    let node = Node::start(Config {
        name: args.name.unwrap_or_else(device_name),
        data_dir: Some(data_dir),
        network: Some(NetworkConfig {
            interfaces: args.interface,
            port: PEER_PORT,
            join: args.join,
            discovery: !args.no_discovery,
            peers: args.peer,
            relay: args.relay,
            termux_version: env::text(env::TERMUX_VERSION),
            adopt_identity: args.adopt_identity,
        }),
        n_threads: args.compute.threads.map(usize::from),
        n_ctx: args.compute.context,
        isa: args.compute.isa,
        library: Some(library),
        ..Config::default()
    })
    .await?;
    let placed = node.place(PlaceRequest { model: "demo".into(), ..PlaceRequest::default() }).await;
    if let Err(error) = placed {
        node.shutdown().await;
        return Err(error.into());
    }
    // Before the node says that it is ready: whoever reads that may end it at once.
    let stop = stop::signal()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "Shoal is ready: http://{address}")?;
    out.flush()?;
    drop(out);
    let cancel = CancellationToken::new();
    let on_signal = cancel.clone();
    let signals = async move {
        stop.await;
        info!("ending");
        on_signal.cancel();
    };
    let router = shoal_api::router(node.clone(), address);
    let (served, ()) = tokio::join!(shoal_api::serve(listener, router, cancel), signals);
    node.shutdown().await;
    served.context("the API ended").map_err(Failure::from)
}

/// The host's name, or a plain word.
fn device_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" | "localhost" => "device".to_owned(),
        name => name.to_owned(),
    }
}
