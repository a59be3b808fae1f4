//! The process of a runner, from the inside: inputs from standard input, results to standard output, logs to standard error.
//!
//! ```text
//! stdin ─► the main thread reads ─► inbox ─► the computing thread ─► stdout
//!                                            the beating thread   ─► stdout
//! ```
//!
//! It never survives its node. When its standard input ends the main thread returns, and with it the process ends, whatever is
//! being computed. Should it be stopped or stuck in the kernel, the system ends it with its parent, where it can.

use std::{
    io::{ErrorKind, Read, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::RecvTimeoutError,
    },
    time::{Duration, Instant},
};

use shoal_engine::{Model, Progress};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::{
    Error,
    runner::{
        Arrived, Host, INBOX_MAX, NICENESS, Observed, Outgoing, Runner,
        wire::{Beat, FromRunner, HEAD_BYTES, Head, Start, ToRunner},
    },
};

/// How often the process shows that it lives.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// How much rather than the node the kernel shall end it when memory runs out, of 1000.
const OOM_SCORE: i32 = 200;

/// Runs a stage in this process: reads from `input` what it is to load and to compute, and writes to `output` what comes of
/// it, until `input` ends. `shoal_node::Config::runner` starts such processes.
///
/// The process is made a runner: of low priority, and not to survive its parent.
///
/// # Errors
/// If `input` does not begin with what is to be loaded, or what comes is no message. A stage that cannot be loaded is an
/// answer and no error.
pub fn run_stage(mut input: impl Read, output: impl Write + Send + 'static) -> Result<(), Error> {
    settle();
    let failed = |message: String| Error::StageFailed { message };
    let Some(ToRunner::Start(start)) = read(&mut input).map_err(failed)? else {
        return Err(failed("expected what is to be loaded".to_owned()));
    };
    let (inbox, inputs) = mpsc::channel(INBOX_MAX);
    let host = PipeHost(Arc::new(Shared {
        output: Mutex::new(Pipe { output: Box::new(output), unsent: Vec::new() }),
        work: AtomicU64::new(0),
        progress: OnceLock::new(),
    }));
    let beating = host.clone();
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let no_thread = |error| Error::Thread { source: Arc::new(error) };
    let (_ended, end) = std::sync::mpsc::channel();
    thread("beat").spawn(move || beating.beat(&end)).map_err(no_thread)?;
    let name = format!("stage {}", start.stage.layers);
    thread(&name).spawn(move || compute(&start, &host, inputs)).map_err(no_thread)?;
    while let Some(message) = read(&mut input).map_err(failed)? {
        let ToRunner::Input(input) = message else {
            return Err(failed("a second start".to_owned()));
        };
        let arrived: Arrived = (Instant::now(), input);
        if inbox.blocking_send(arrived).is_err() {
            // It has said why it could not load, or has nobody to talk to.
            break;
        }
    }
    debug!("the node closes its runner");
    Ok(())
}

/// Makes this process one that yields to the node and does not survive it.
fn settle() {
    // Where one of these is refused, the others serve.
    let _ = rustix::process::nice(NICENESS);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};

        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let _ = rustix::thread::set_name(c"shoal-runner");
        let path = "/proc/self/oom_score_adj";
        let own = std::fs::read_to_string(path).ok().and_then(|own| own.trim().parse::<i32>().ok());
        let _ = std::fs::write(path, (own.unwrap_or(0) + OOM_SCORE).min(1000).to_string());
    }
}

/// Reads the next message; `None` if there is none any more.
pub(super) fn read(input: &mut impl Read) -> Result<Option<ToRunner>, String> {
    let mut head = [0; HEAD_BYTES];
    match input.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let head = Head::decode(&head).map_err(|error| error.to_string())?;
    let mut payload = vec![0; head.n_bytes()];
    match input.read_exact(&mut payload) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    ToRunner::decode(head, &payload).map(Some).map_err(|error| error.to_string())
}

/// Loads the stage and computes, until there is no more input.
fn compute(start: &Start, host: &PipeHost, inputs: mpsc::Receiver<Arrived>) {
    // A panic has said what it is; what it leaves behind is not to be computed with.
    let _abort = AbortOnPanic;
    let loaded = open(start).and_then(|model| Runner::load(&start.stage, model, host.clone()));
    match loaded {
        Ok(runner) => {
            host.0.progress.get_or_init(|| runner.progress());
            if host.write(&FromRunner::Ready) {
                runner.run(inputs);
            }
        }
        Err(error) => {
            let why = crate::error::chain(&error);
            host.write(&FromRunner::LoadFailed(why));
        }
    }
}

/// Opens the model, if it is the one that the node means.
fn open(start: &Start) -> Result<Arc<Model>, Error> {
    let name = &start.model;
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| Error::Model {
        name: name.clone(),
        source: Arc::from(error),
    };
    let paths: Vec<PathBuf> = start.paths.iter().map(|path| path_of(path)).collect();
    let source = shoal_hub::open_paths(name, &paths).map_err(|error| unusable(Box::new(error)))?;
    if source.fingerprint != start.fingerprint {
        return Err(Error::DifferentModel { name: name.clone() });
    }
    Model::new(source.gguf).map_err(|error| unusable(Box::new(error)))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    PathBuf::from(OsStr::from_bytes(bytes))
}

/// Ends the process if the thread that holds it panics.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// The node, as its runner's process sees it.
#[derive(Clone)]
struct PipeHost(Arc<Shared>);

struct Shared {
    output: Mutex<Pipe>,
    /// Inputs taken, and in the lowest bit whether there is work: one number, so that both are of one moment.
    work: AtomicU64,
    progress: OnceLock<Progress>,
}

struct Pipe {
    output: Box<dyn Write + Send>,
    /// What goes out with the next message.
    unsent: Vec<u8>,
}

impl PipeHost {
    /// Writes a message; `false` if nobody reads any more.
    fn write(&self, message: &FromRunner) -> bool {
        let bytes = message.encode();
        let mut pipe = self.0.output.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unsent = std::mem::take(&mut pipe.unsent);
        let bytes = if unsent.is_empty() {
            bytes
        } else {
            unsent.extend_from_slice(&bytes);
            unsent
        };
        pipe.output.write_all(&bytes).and_then(|()| pipe.output.flush()).is_ok()
    }

    /// Shows the node that the process lives, until `end` or until there is no node.
    fn beat(&self, end: &std::sync::mpsc::Receiver<()>) {
        let node = rustix::process::getppid();
        while end.recv_timeout(BEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
            let work = self.0.work.load(Ordering::Relaxed);
            let progress = self.0.progress.get().map_or(0, Progress::n_dispatches);
            let beat = Beat { n_taken: work >> 1, progress, is_busy: work & 1 == 1 };
            let is_heard = self.write(&FromRunner::Beat(beat));
            if !is_heard || rustix::process::getppid() != node {
                warn!("the node is gone");
                // Not even the main thread may know: another process may keep its standard input open.
                let own = rustix::process::getpid();
                let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
                return;
            }
        }
    }
}

impl Host for PipeHost {
    fn send(&self, outgoing: Outgoing) -> bool {
        self.write(&FromRunner::Outgoing(outgoing))
    }

    fn observe(&self, observed: Observed) {
        // It goes out with the batch's results, which follow at once: one message less for the node to wake up for.
        let bytes = FromRunner::Observed(observed).encode();
        self.0.output.lock().unwrap_or_else(PoisonError::into_inner).unsent.extend(bytes);
    }

    fn at_work(&self, n_taken: u64, is_busy: bool) {
        self.0.work.store(n_taken << 1 | u64::from(is_busy), Ordering::Relaxed);
    }
}
