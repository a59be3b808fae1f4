//! `shoal serve`: a node, its API and its page, until it is told to end.

use std::{
    io::{IsTerminal, Write},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use shoal_api::{Access, qr};
use shoal_node::{Config, NetworkConfig, Node, PlaceRequest};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{args::ServeArgs, device, env, failure::Failure, library, opened, runner, stop};

/// Longest time that a node which was told to end lets answers go on and gives its layers away: systems kill what does not end
/// within 10 to 90 seconds.
const LEAVE_WITHIN: Duration = Duration::from_secs(8);
/// UDP port that a node takes if it is free, so that the addresses which peers remember stay true.
const PEER_PORT: u16 = 52415;

pub(crate) async fn serve(args: ServeArgs) -> Result<(), Failure> {
    let data_dir = library::data_dir(args.data_dir.as_deref())?;
    let library = library::config(&args.library, &data_dir);
    let listen = listen_address(&args)?;
    // The port is bound first: a second node on one machine should say so before it does anything else.
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|error| {
        let error = anyhow::Error::from(error).context(format!("cannot listen on {listen}"));
        Failure::new(error, Failure::ADDRESS)
            .hint("another node may run already; choose another address with --listen")
    })?;
    let address = listener.local_addr()?;
    let node = Node::start(Config {
        is_name_fixed: args.name.is_some(),
        name: args.name.unwrap_or_else(device::name),
        device: device::model(),
        data_dir: Some(data_dir.clone()),
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
        parallel: args.parallel.map(usize::from),
        runner: runner::command(),
        library: Some(library),
        auto: args.auto,
        ..Config::default()
    })
    .await?;
    // Only now is the data directory this node's own, and its token this node's to change.
    let is_opened = args.lan || !args.allow_origin.is_empty();
    let token = match is_opened.then(|| opened::token(&data_dir, args.new_token)).transpose() {
        Ok(token) => token,
        Err(failure) => {
            node.shutdown().await;
            return Err(failure);
        }
    };
    let names = if args.lan { opened::network_name().into_iter().collect() } else { Vec::new() };
    let access = Access { address, token: token.clone(), names, origins: args.allow_origin };
    // Without it the node serves all other models. What is left of its last run may be on the move in this moment.
    if let Err(error) = place_demo(&node).await {
        warn!(%error, "the demonstration model is not placed");
    }
    // Before the node says that it is ready: whoever reads that may end it at once.
    let mut stop = stop::Signals::listen()?;
    say_ready(&access, &node, args.lan)?;
    let cancel = CancellationToken::new();
    let on_signal = cancel.clone();
    let leaving = node.clone();
    let signals = async move {
        stop.next().await;
        info!("ending");
        // Whoever tells it a second time does not want to wait.
        tokio::select! {
            () = leaving.leave_politely(LEAVE_WITHIN) => {}
            () = stop.next() => {}
        }
        on_signal.cancel();
    };
    let router = shoal_api::router(node.clone(), &access);
    let (served, ()) = tokio::join!(shoal_api::serve(listener, router, cancel), signals);
    node.shutdown().await;
    served.context("the API ended").map_err(Failure::from)
}

/// Places the demonstration model on this device, unless that of the last run comes back by itself.
async fn place_demo(node: &Node) -> Result<(), shoal_node::Error> {
    let is_here = node.instances().iter().any(|status| {
        let stages = &status.record.placement.stages;
        status.record.model.name == "demo" && stages.iter().all(|stage| stage.node == node.id())
    });
    if is_here {
        return Ok(());
    }
    node.place(PlaceRequest { model: "demo".into(), ..PlaceRequest::default() }).await.map(drop)
}

/// Says where the node listens, and what other devices of the house have to open.
fn say_ready(access: &Access, node: &Node, is_lan: bool) -> Result<(), Failure> {
    let address = access.address;
    let mut out = std::io::stdout().lock();
    match listener_of(address) {
        Some(local) => writeln!(out, "Shoal is ready: http://{local}")?,
        None => writeln!(out, "Shoal is ready: http://{address}")?,
    }
    if let Some(token) = &access.token {
        for origin in &access.origins {
            writeln!(out, "Open to pages of {origin} with the token {token}")?;
        }
        let urls = if is_lan { opened::urls(address, &node.addrs(), token) } else { Vec::new() };
        for url in &urls {
            writeln!(out, "Open to the network: {url}")?;
        }
        // The code is for a camera, and a log has none.
        if let Some(url) = urls.first().filter(|_| std::io::stdout().is_terminal()) {
            write!(out, "{}", qr::draw(url).map_err(anyhow::Error::from)?)?;
        }
    }
    Ok(out.flush()?)
}

/// Where to listen: on this device alone, unless the owner has opened the node.
fn listen_address(args: &ServeArgs) -> Result<SocketAddr, Failure> {
    let default_ip = if args.lan { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let listen = args.listen.unwrap_or(SocketAddr::from((default_ip, PEER_PORT)));
    if args.lan || listen.ip().is_loopback() {
        return Ok(listen);
    }
    let error = anyhow::anyhow!("{listen} can be reached from the network");
    Err(Failure::new(error, Failure::ADDRESS)
        .hint("--lan opens the API to the network, with a token that is printed"))
}

/// The address of a node that listens everywhere, for this device itself.
fn listener_of(address: SocketAddr) -> Option<SocketAddr> {
    let is_everywhere = address.ip().is_unspecified();
    is_everywhere.then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())))
}
