//! A stand-in for the model hub, for tests: it listens on loopback and behaves, or misbehaves, as it is told.
//!
//! ```text
//! client ──► hub    /api/models/..            listings, pages, search
//!            hub    /{repo}/resolve/..  ──302──► cdn   /repos/..?Expires=..&Signature=..
//!            plain  /{path}             a file server without any hub
//! ```
//!
//! The three hosts are three ports of 127.0.0.1. The server has threads of its own, so that tests with and without an
//! asynchronous runtime can use it; it stops when it is dropped.
//!
//! ```
//! use shoal_fake_hub::{At, Behaviour, Content, FakeHub, Fault};
//!
//! let hub = FakeHub::start();
//! hub.add_repo("owner/name", vec![("model.gguf", Content::Generated { seed: 1, n_bytes: 1 << 20 })]);
//! hub.behave(Behaviour::new(At::Cdn, Fault::Cut { after_bytes: 1000 }).times(2).path("model.gguf"));
//! // .. run a client with HF_ENDPOINT = hub.endpoint() ..
//! assert_eq!(hub.served_bytes(), 0);
//! ```

mod behaviour;
mod content;
mod http;
mod log;
mod repo;
mod routes;
mod sha1;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinSet,
};

use crate::{
    behaviour::Faults,
    content::Source,
    http::{Connection, encode},
    repo::{Commit, State},
    routes::{Addresses, Host, Topic},
};
pub use crate::{
    behaviour::{At, Behaviour, Fault},
    content::Content,
    log::Request,
    repo::{Card, Gate},
};

/// Connections to one host at once: beyond it clients wait, as at any server.
const N_CONNECTIONS_MAX: usize = 512;
/// Threads that serve: as many as a test can use beside its client.
const N_THREADS: usize = 2;

/// A running hub; it stops when it is dropped.
#[derive(Debug)]
pub struct FakeHub {
    shared: Arc<Shared>,
    addresses: Addresses,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    served_bytes: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No change of the state can stop half-way, so that of a test that panicked is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeHub {
    /// The one token that the hub knows.
    pub const TOKEN: &'static str = "hf_aTokenForTests";

    /// Starts a hub without any repository.
    ///
    /// # Panics
    ///
    /// If loopback has no free port, or no thread can be started.
    pub fn start() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(N_THREADS)
            .thread_name("fake-hub")
            .enable_all()
            .build()
            .expect("threads can be started");
        let shared = Arc::<Shared>::default();
        let listen = || {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let listener = listener.expect("loopback has a free port");
            let address = listener.local_addr().expect("it is bound");
            (listener, address)
        };
        let (hub, cdn, plain) = (listen(), listen(), listen());
        let addresses = Addresses { hub: hub.1, cdn: cdn.1, plain: plain.1 };
        for (listener, host) in [(hub.0, Host::Hub), (cdn.0, Host::Cdn), (plain.0, Host::Plain)] {
            listener.set_nonblocking(true).expect("sockets can be non-blocking");
            let serve = serve(listener, host, addresses, Arc::clone(&shared));
            // Nobody waits for it: it ends with the runtime, which is shut down when the hub is dropped.
            drop(runtime.spawn(serve));
        }
        Self { shared, addresses, runtime: Some(runtime) }
    }

    /// What `HF_ENDPOINT` must be: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addresses.hub)
    }

    /// The address of the host that the hub redirects to.
    pub fn cdn_address(&self) -> SocketAddr {
        self.addresses.cdn
    }

    /// Adds a repository, or a commit to one that is there: its files are then these, and earlier commits stay.
    ///
    /// Files of a megabyte or more, and all `*.gguf` and `*.safetensors`, are in LFS.
    ///
    /// # Panics
    ///
    /// If a file on disk cannot be read.
    pub fn add_repo(&self, repo: &str, files: Vec<(&str, Content)>) {
        let commit = Commit::new(files).expect("the files given can be read");
        self.shared.state().add_commit(repo, commit);
    }

    /// The commit that `main` is, as 40 hexadecimal digits.
    ///
    /// # Panics
    ///
    /// If there is no such repository.
    pub fn commit(&self, repo: &str) -> String {
        self.with_repo(repo, |repo| repo.head().id.clone())
    }

    /// The SHA-256 of a file on `main`, as 64 hexadecimal digits.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn sha256(&self, repo: &str, path: &str) -> String {
        self.with_repo(repo, |repo| {
            repo.head().files.get(path).expect("the file was added").source.sha256().to_owned()
        })
    }

    /// Says who may fetch a repository's files.
    ///
    /// # Panics
    ///
    /// If there is no such repository.
    pub fn set_gated(&self, repo: &str, gate: Gate) {
        self.with_repo(repo, |repo| repo.gate = gate);
    }

    /// Says what a search shows of a repository.
    ///
    /// # Panics
    ///
    /// If there is no such repository.
    pub fn set_card(&self, repo: &str, card: Card) {
        self.with_repo(repo, |repo| repo.card = card);
    }

    /// Gives a repository a new name; the old one redirects to it.
    ///
    /// # Panics
    ///
    /// If there is no such repository.
    pub fn rename(&self, old: &str, new: &str) {
        let mut state = self.shared.state();
        let repo = state.repos.remove(old).expect("the repository was added");
        state.repos.insert(new.to_owned(), repo);
        state.renamed.insert(old.to_owned(), new.to_owned());
    }

    /// Adds a plain file, or changes it: its content and entity tag are other ones from now on. Returns its URL.
    ///
    /// # Panics
    ///
    /// If a file on disk cannot be read.
    pub fn add_file(&self, path: &str, content: Content) -> String {
        let source = Source::new(content).expect("the file given can be read");
        self.shared.state().plain.insert(path.to_owned(), source);
        self.url(path)
    }

    /// The URL of a plain file: no redirect, no hash, but a strong entity tag and ranges.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.addresses.plain, encode(path))
    }

    /// Misbehaves from now on, besides whatever it was told before.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.state().behaviours.push(behaviour);
    }

    /// Forgets all misbehaviour.
    pub fn behave_well(&self) {
        self.shared.state().behaviours.clear();
    }

    /// Sets how long redirects are valid (at first an hour). URLs carry whole seconds, so it is rounded up.
    pub fn set_url_lifetime(&self, lifetime: Duration) {
        self.shared.state().url_lifetime = lifetime;
    }

    /// Makes all URLs that were signed so far invalid at once, as if their time were over.
    pub fn expire_urls(&self) {
        self.shared.state().signing_key += 1;
    }

    /// Sets how many entries a page of a listing or a search has (at first 1000).
    pub fn set_page_size(&self, n_entries: usize) {
        self.shared.state().n_page_entries = n_entries;
    }

    /// Says whether small files of public repositories are behind a relative redirect, as on the hub (at first so).
    pub fn set_resolve_cache(&self, on: bool) {
        self.shared.state().resolve_cache = on;
    }

    /// Every request since the start or the last reset, oldest first.
    pub fn log(&self) -> Vec<Request> {
        self.shared.state().log.snapshot()
    }

    /// Bytes of files that the CDN and the plain host handed to sockets since the start or the last reset.
    pub fn served_bytes(&self) -> u64 {
        self.shared.served_bytes.load(Ordering::Relaxed)
    }

    /// Forgets all requests and the bytes served.
    pub fn reset_log(&self) {
        self.shared.state().log.clear();
        self.shared.served_bytes.store(0, Ordering::Relaxed);
    }

    fn with_repo<T>(&self, name: &str, f: impl FnOnce(&mut repo::Repo) -> T) -> T {
        f(self.shared.state().repos.get_mut(name).expect("the repository was added"))
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it would be an error within a test's own runtime.
            runtime.shutdown_background();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    host: Host,
    addresses: Addresses,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        if connections.len() >= N_CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let shared = Arc::clone(&shared);
        // A connection that breaks concerns its client alone.
        connections.spawn(async move { drop(converse(stream, host, addresses, &shared).await) });
    }
}

/// Answers the requests of one connection until either side closes it.
async fn converse(
    stream: TcpStream,
    host: Host,
    addresses: Addresses,
    shared: &Shared,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream);
    while let Some(head) = connection.next().await? {
        let (reply, faults, entry) = {
            let mut state = shared.state();
            let topic = Topic::of(&state, host, &head);
            let entry = state.log.begin(Request {
                method: head.method.clone(),
                target: head.target.clone(),
                at: topic.at,
                file: topic.names.first().cloned().unwrap_or_default(),
                range: head.header("range").map(str::to_owned),
                authorized: head.header("authorization").is_some(),
                user_agent: head.header("user-agent").map(str::to_owned),
                status: 0,
                sent_bytes: 0,
            });
            let faults = Faults::take(&mut state.behaviours, topic.subject(&head));
            let reply = routes::answer(&state, &addresses, &head, &topic, &faults);
            (reply, faults, entry)
        };
        let counts = host != Host::Hub && reply.status / 100 == 2;
        let on_sent = |n_bytes| {
            if counts {
                shared.served_bytes.fetch_add(n_bytes, Ordering::Relaxed);
            }
        };
        let is_head = head.method == "HEAD";
        let is_kept = connection.send(&reply, is_head, &faults, &entry, &on_sent).await?;
        if !is_kept || head.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
    Ok(())
}
