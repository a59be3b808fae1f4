//! Measures what the network layer itself costs: time to connect (dial, TLS and membership handshake) and the round trip
//! of a data frame of 8 KiB, between two endpoints over loopback.
//!
//! ```text
//! cargo run --release -p shoal-net --example echo_latency
//! ```

use std::time::{Duration, Instant};

use shoal_net::{
    Connection, Endpoint, EndpointConfig, Error, Identity, Interfaces, Invite, Membership, Plane,
    Timing,
};
use shoal_proto::{
    Epoch, InstanceId, SequenceId,
    frame::{Body, Frame, FrameKey, Step},
};

const N_CONNECTS: usize = 200;
const N_WARM_UP: usize = 500;
const N_ECHOES: usize = 10_000;
/// With the token and the header a little over 8 KiB: one token of a model with rows of this width.
const N_EMBD: usize = 2048;

#[expect(clippy::print_stdout, reason = "an example reports to its user")]
fn main() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts");
    let (connects, echoes) = runtime.block_on(measure())?;
    println!("{:32} {:>9} {:>9} {:>9}", "", "p50", "p99", "max");
    for (name, mut times) in [("connect", connects), ("echo of an 8 KiB frame", echoes)] {
        times.sort_unstable();
        let at = |fraction: f64| times[((times.len() - 1) as f64 * fraction) as usize];
        println!("{name:32} {:>9.1?} {:>9.1?} {:>9.1?}", at(0.5), at(0.99), at(1.0));
    }
    Ok(())
}

/// Returns the times of the connects and those of the echoes.
async fn measure() -> Result<(Vec<Duration>, Vec<Duration>), Error> {
    let (a, b) = (bind().await?, bind().await?);
    let addrs = b.addrs();
    let ticket = b.membership().invite(Invite::default(), addrs.clone())?;
    a.membership().replace(a.join(&ticket).await?)?;
    let mut connects = Vec::with_capacity(N_CONNECTS);
    for _ in 0..N_CONNECTS {
        let start = Instant::now();
        let dial = a.connect(b.id(), &addrs, Plane::Data);
        let (dialled, accepted) = tokio::join!(dial, b.accept());
        connects.push(start.elapsed());
        drop((dialled?, accepted));
    }
    let dial = a.connect(b.id(), &addrs, Plane::Data);
    let (dialled, accepted) = tokio::join!(dial, b.accept());
    let dialled = dialled?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(echo(accepted.expect("the endpoint is open")));
    let echoes = ping(&dialled).await?;
    tasks.shutdown().await;
    a.close().await;
    b.close().await;
    Ok((connects, echoes))
}

async fn bind() -> Result<Endpoint, Error> {
    let identity = Identity::generate()?;
    Endpoint::bind(EndpointConfig {
        membership: Membership::load_or_create(None, identity.id())?,
        identity,
        interfaces: Interfaces::Named(vec!["lo".to_owned()]),
        relay: None,
        port: 0,
        timing: Timing::default(),
    })
    .await
}

async fn echo(connection: Connection) -> Result<(), Error> {
    let mut sender = connection.frame_sender().await?;
    let mut receiver = connection.frame_receiver()?;
    while let Some(frame) = receiver.recv().await? {
        sender.send(&frame).await?;
    }
    Ok(())
}

async fn ping(connection: &Connection) -> Result<Vec<Duration>, Error> {
    let mut sender = connection.frame_sender().await?;
    let mut receiver = connection.frame_receiver()?;
    let key = FrameKey {
        instance: InstanceId(1),
        epoch: Epoch(1),
        sequence: SequenceId(1),
        driver: connection.peer(),
    };
    let mut times = Vec::with_capacity(N_ECHOES);
    for position in 0..u32::try_from(N_WARM_UP + N_ECHOES).expect("a small count") {
        let step = Step {
            position,
            prefix_hash: 0,
            last_stage: 0,
            tokens: vec![0],
            activations: vec![0.5; N_EMBD],
            sampling: None,
            timings: Vec::new(),
        };
        let frame = Frame { key, body: Body::Step(step) };
        let start = Instant::now();
        sender.send(&frame).await?;
        let back = receiver.recv().await?;
        times.push(start.elapsed());
        assert_eq!(back, Some(frame), "the echo is the frame");
    }
    Ok(times.split_off(N_WARM_UP))
}
