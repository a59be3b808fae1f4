//! A runner's process as the system sees it: started, fed, listened to, ended and reaped.
//!
//! A thread of its own starts the process and waits for its end, so that the system, which ends a child together with the
//! *thread* that started it, does so only when the node ends. Nothing of the node is inherited but the three pipes: every
//! other file and socket is closed as the program starts. Signals of the terminal do not reach it, since it is in a process
//! group of its own: whether it ends is for the node to say.

use std::{
    collections::VecDeque,
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::{net::unix::pipe, sync::oneshot};
use tracing::Level;

use super::{
    RunnerCommand,
    lines::Lines,
    supervisor::Exit,
    wire::{Decoder, FromRunner, ToRunner, WireError},
};

/// Bytes that are read at once: what a pipe holds.
const PIECE_BYTES: usize = 64 * 1024;
/// Longest wait for a process that was asked to end, by the end of its input.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for a process that was killed to be gone: longer only if it is stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after its end something that it wrote may still be read: only others that hold its pipe make this necessary.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// What a process does.
#[derive(Debug)]
pub(super) enum Happening {
    /// It says something.
    Said(FromRunner),
    /// It wrote what is no message.
    Garbled(WireError),
    /// It has ended.
    Ended(Exit),
}

/// A running process. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    child: Arc<Mutex<Option<Child>>>,
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    exited: oneshot::Receiver<io::Result<ExitStatus>>,
    /// Whether it is gone, and how it ended if the system has told.
    is_gone: bool,
    status: Option<ExitStatus>,
    /// When nothing more is waited for: what a process that is gone may still have written, or the end of one that was killed and
    /// that the kernel does not let go of.
    over_at: Option<Instant>,
    /// Messages that wait to be written, and how much of the first one has been.
    unwritten: VecDeque<Vec<u8>>,
    n_written: usize,
    decoder: Decoder,
    is_garbled: bool,
    lines: Lines,
    piece: Box<[u8]>,
    free_bytes: Option<u64>,
    /// Who it is, for the log.
    name: String,
}

/// What the thread of a process hands over.
struct Spawned {
    pid: u32,
    child: Arc<Mutex<Option<Child>>>,
    pipes: [OwnedFd; 3],
}

impl Process {
    /// Starts a process.
    pub(super) async fn start(command: &RunnerCommand, name: &str) -> io::Result<Self> {
        let (spawned, starting) = oneshot::channel();
        let (ended, exited) = oneshot::channel();
        let command = prepare(command);
        let thread = std::thread::Builder::new().name(format!("wait for {name}"));
        thread.spawn(move || live(command, spawned, ended))?;
        let gone = |_| io::Error::other("the thread that starts it has ended");
        let Spawned { pid, child, pipes: [stdin, stdout, stderr] } =
            starting.await.map_err(gone)??;
        Ok(Self {
            pid,
            child,
            stdin: Some(pipe::Sender::from_owned_fd(stdin)?),
            stdout: Some(pipe::Receiver::from_owned_fd(stdout)?),
            stderr: Some(pipe::Receiver::from_owned_fd(stderr)?),
            exited,
            is_gone: false,
            status: None,
            over_at: None,
            unwritten: VecDeque::new(),
            n_written: 0,
            decoder: Decoder::default(),
            is_garbled: false,
            lines: Lines::default(),
            piece: vec![0; PIECE_BYTES].into(),
            free_bytes: crate::memory::available_bytes(),
            name: name.to_owned(),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Looks how much memory is free: when the process has died, what it held is free too.
    pub(super) fn look_at_memory(&mut self) {
        self.free_bytes = crate::memory::available_bytes();
    }

    /// Gives it a message. It is written as the process reads, by [`next`](Self::next).
    pub(super) fn give(&mut self, message: &ToRunner) {
        if self.stdin.is_some() {
            self.unwritten.push_back(message.encode());
            self.write();
        }
    }

    /// Ends it at once. Its end comes as any other.
    pub(super) fn kill(&mut self) {
        self.over_at.get_or_insert_with(|| Instant::now() + KILL_TIMEOUT);
        if let Some(child) = lock(&self.child).as_mut() {
            // An error says that it has ended.
            let _ = child.kill();
        }
    }

    /// Waits for what it does next; what it said is taken only if `listens`. Nothing is lost if this future is dropped.
    pub(super) async fn next(&mut self, listens: bool) -> Happening {
        loop {
            if listens && !self.is_garbled {
                match self.decoder.next() {
                    Ok(Some(message)) => return Happening::Said(message),
                    Ok(None) => {}
                    Err(error) => {
                        self.is_garbled = true;
                        return Happening::Garbled(error);
                    }
                }
            }
            let is_late = listens && self.over_at.is_some_and(|at| at <= Instant::now());
            if is_late || self.is_gone && self.stdout.is_none() {
                return Happening::Ended(self.exit());
            }
            self.wait(listens).await;
        }
    }

    /// Waits until anything moves, and moves it.
    async fn wait(&mut self, listens: bool) {
        let has_unwritten = !self.unwritten.is_empty();
        let over_at = self.over_at.filter(|_| listens);
        tokio::select! {
            () = ready(self.stdout.as_ref().map(pipe::Receiver::readable)), if listens => self.read(),
            () = ready(self.stderr.as_ref().map(pipe::Receiver::readable)) => self.log(),
            () = ready(self.stdin.as_ref().map(pipe::Sender::writable)), if has_unwritten => {
                self.write();
            }
            status = &mut self.exited, if !self.is_gone => {
                self.is_gone = true;
                self.status = status.ok().and_then(Result::ok);
                self.over_at = Some(Instant::now() + DRAIN_TIMEOUT);
                self.stdin = None;
            }
            () = ready(over_at.map(|at| async move {
                tokio::time::sleep_until(at.into()).await;
                Ok::<(), io::Error>(())
            })) => {}
        }
    }

    fn read(&mut self) {
        let Some(stdout) = &self.stdout else { return };
        match stdout.try_read(&mut self.piece) {
            Ok(n) if n > 0 && self.is_garbled => {}
            Ok(n) if n > 0 => self.decoder.push(&self.piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => {
                // Whoever has closed its output has nothing more to say, and may not go on in silence.
                self.stdout = None;
                self.kill();
            }
        }
    }

    fn log(&mut self) {
        let Some(stderr) = &self.stderr else { return };
        match stderr.try_read(&mut self.piece) {
            Ok(n) if n > 0 => self.log_piece(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.stderr = None,
        }
    }

    fn log_piece(&mut self, n: usize) {
        let (runner, pid) = (&self.name, self.pid);
        for line in self.lines.push(&self.piece[..n], Instant::now()) {
            let text = line.text;
            match line.level {
                Level::ERROR => tracing::error!(runner, pid, "{text}"),
                Level::WARN => tracing::warn!(runner, pid, "{text}"),
                Level::INFO => tracing::info!(runner, pid, "{text}"),
                Level::DEBUG => tracing::debug!(runner, pid, "{text}"),
                Level::TRACE => tracing::trace!(runner, pid, "{text}"),
            }
        }
    }

    /// Writes as much as the process takes now.
    fn write(&mut self) {
        while let (Some(stdin), Some(first)) = (&self.stdin, self.unwritten.front()) {
            match stdin.try_write(&first[self.n_written..]) {
                Ok(n) => self.n_written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It has closed its input, and will be heard to end.
                Err(_) => {
                    self.stdin = None;
                    self.unwritten.clear();
                    return;
                }
            }
            if self.n_written == first.len() {
                self.unwritten.pop_front();
                self.n_written = 0;
            }
        }
    }

    fn exit(&mut self) -> Exit {
        // Its last words may be in the pipe still.
        if let Some(stderr) = &self.stderr
            && let Ok(n) = stderr.try_read(&mut self.piece)
        {
            self.log_piece(n);
        }
        Exit {
            signal: self.status.and_then(|status| status.signal()),
            code: self.status.and_then(|status| status.code()),
            last_words: self.lines.last_words(),
            free_bytes: self.free_bytes,
        }
    }

    /// Ends it and waits until it is gone: by the end of its input, and by force if that does not help.
    pub(super) async fn end(mut self) {
        self.stdin = None;
        if self.is_gone {
            return;
        }
        if tokio::time::timeout(END_TIMEOUT, &mut self.exited).await.is_err() {
            self.kill();
            // The thread reaps it whenever the kernel lets go of it.
            let _ = tokio::time::timeout(KILL_TIMEOUT, &mut self.exited).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a pipe that may not be there any more.
async fn ready(event: Option<impl Future<Output = io::Result<()>>>) {
    match event {
        // What is wrong with a pipe shows when it is used.
        Some(event) => drop(event.await),
        None => std::future::pending().await,
    }
}

fn prepare(command: &RunnerCommand) -> Command {
    let mut prepared = Command::new(&command.program);
    prepared.args(&command.args);
    if command.program == Path::new("/proc/self/exe") {
        prepared.arg0("shoal");
    }
    prepared.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    prepared.process_group(0);
    prepared
}

/// The thread of a process: starts it, waits for its end, and says how it ended.
fn live(
    mut command: Command,
    spawned: oneshot::Sender<io::Result<Spawned>>,
    ended: oneshot::Sender<io::Result<ExitStatus>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = spawned.send(Err(error));
            return;
        }
    };
    let id = Pid::from_child(&child);
    let pipes = [
        child.stdin.take().expect("piped above").into(),
        child.stdout.take().expect("piped above").into(),
        child.stderr.take().expect("piped above").into(),
    ];
    let pid = child.id();
    let child = Arc::new(Mutex::new(Some(child)));
    let handed = spawned.send(Ok(Spawned { pid, child: Arc::clone(&child), pipes }));
    if handed.is_err()
        && let Some(child) = lock(&child).as_mut()
    {
        let _ = child.kill();
    }
    // It stays a zombie until it is taken out of the mutex, so that nobody can kill another process by its number.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(id), options) {}
    let status = lock(&child).take().map(|mut child| child.wait());
    let _ = ended.send(status.unwrap_or_else(|| Err(io::Error::other("reaped by somebody else"))));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
