//! A switch with its devices and the thread that carries frames.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::AsFd,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tun_rs::SyncDevice;

use crate::{
    Error, Host, Result,
    switch::{Counters, PortId, Switch},
};

/// Frames read from one device before the others have their turn.
const N_READ_AT_ONCE: usize = 64;
/// A TAP device without offloads hands out nothing longer than its MTU with the header; jumbo frames would still fit.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// A piece of network where every host hears every other: a WiFi or a LAN.
///
/// Clones are the same segment. Its thread ends with the last of them and the last host attached.
#[derive(Clone)]
pub struct Segment {
    name: Arc<str>,
    shared: Arc<Shared>,
    _thread: Arc<StopOnDrop>,
}

struct Shared {
    state: Mutex<State>,
    /// A byte written here wakes the thread.
    waker: UnixStream,
}

#[derive(Default)]
struct State {
    switch: Switch,
    devices: BTreeMap<PortId, Arc<SyncDevice>>,
    is_stopped: bool,
}

struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.change(|state| state.is_stopped = true);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and has the thread look at it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        // A full pipe wakes as well as one byte more would.
        let _ = io::Write::write(&mut (&self.waker), &[0]);
        result
    }
}

impl Segment {
    /// Makes a segment without hosts, delay, loss or filters.
    ///
    /// # Errors
    /// Returns an error if the system gives no thread or descriptors.
    pub fn new(name: &str) -> Result<Self> {
        let failed = || Error::io(format!("segment {name}"));
        let (waker, woken) = UnixStream::pair().map_err(failed())?;
        waker.set_nonblocking(true).map_err(failed())?;
        woken.set_nonblocking(true).map_err(failed())?;
        let shared = Arc::new(Shared { state: Mutex::default(), waker });
        let carried = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("switch {name}"))
            .spawn(move || carry(&carried, &woken))
            .map_err(failed())?;
        let thread = Arc::new(StopOnDrop(Arc::clone(&shared)));
        Ok(Self { name: name.into(), shared, _thread: thread })
    }

    /// Sets how long every frame is under way, in one direction.
    ///
    /// Frames already under way keep theirs. On an idle machine a frame is late by some 0.1 ms besides.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.change(|state| state.switch.conditions.delay = delay);
    }

    /// Lets every frame be under way for any time up to this besides its delay, drawn as loss is: frames overtake each other.
    pub fn set_jitter(&self, jitter: Duration) {
        self.shared.change(|state| state.switch.conditions.jitter = jitter);
    }

    /// Drops frames to groups, as many access points do.
    ///
    /// Neighbour discovery of IPv6 passes: access points that filter still carry it.
    pub fn drop_multicast(&self, drops: bool) {
        self.shared.change(|state| state.switch.conditions.drops_multicast = drops);
    }

    /// Drops frames to everybody, except those of ARP, without which nothing works at all.
    pub fn drop_broadcast(&self, drops: bool) {
        self.shared.change(|state| state.switch.conditions.drops_broadcast = drops);
    }

    /// Carries nothing from client to client: only between a client and a router ("AP client isolation").
    pub fn isolate_clients(&self, isolates: bool) {
        self.shared.change(|state| state.switch.conditions.isolates = isolates);
    }

    /// Loses this share of all frames, chosen by the seed and the frames' order.
    ///
    /// # Panics
    /// Panics if `percent` is above 100.
    pub fn set_loss(&self, percent: u32, seed: u64) {
        assert!(percent <= 100, "a share of 100, not {percent}");
        let share = u64::from(u32::MAX) * u64::from(percent) / 100;
        let share = u32::try_from(share).expect("at most u32::MAX");
        self.shared.change(|state| {
            state.switch.set_seed(seed);
            state.switch.conditions.loss = (percent > 0).then_some(share);
        });
    }

    /// Cuts a host off, or attaches it again; its interfaces stay up, as out of reach of a WiFi that does not notice.
    pub fn cut(&self, host: &Host, is_cut: bool) {
        let ports = host.ports_on(self);
        self.shared.change(|state| {
            for port in ports {
                state.switch.set_cut(port, is_cut);
            }
        });
    }

    /// Keeps all frames, and delivers them when the pause ends, up to a bound of 16,384.
    pub fn pause(&self, is_paused: bool) {
        self.shared.change(|state| state.switch.conditions.is_paused = is_paused);
    }

    /// What happened to its frames so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.lock().switch.counters
    }

    /// Whether these are the same segment.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn attach(&self, device: Arc<SyncDevice>, is_access_point: bool) -> PortId {
        /// Ports are never numbered again, in any segment.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = PortId(NEXT.fetch_add(1, Ordering::Relaxed));
        self.shared.change(|state| {
            state.switch.add_port(id, is_access_point);
            state.devices.insert(id, device);
        });
        id
    }

    pub(crate) fn detach(&self, port: PortId) {
        self.shared.change(|state| {
            state.switch.remove_port(port);
            state.devices.remove(&port);
        });
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The thread: delivers what is due, waits for frames or the next due time, takes what hosts send.
fn carry(shared: &Shared, woken: &UnixStream) {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        let (devices, timeout) = {
            let mut state = shared.lock();
            if state.is_stopped {
                return;
            }
            deliver(&mut state);
            let devices: Vec<_> =
                state.devices.iter().map(|(id, device)| (*id, Arc::clone(device))).collect();
            (devices, state.switch.next_due().map(until))
        };
        let mut fds: Vec<_> = devices.iter().map(|(_, device)| readable(device)).collect();
        fds.push(readable(woken));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // The descriptors are held above: nothing but memory can be short, and then the test fails anyway.
            Err(_) => return,
        }
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready.last() == Some(&true) {
            // Only that it was written matters.
            let _ = io::Read::read(&mut (&*woken), &mut buffer);
        }
        let mut state = shared.lock();
        for ((port, device), _) in devices.iter().zip(&ready).filter(|(_, is_ready)| **is_ready) {
            take(&mut state.switch, *port, device, &mut buffer);
        }
    }
}

fn readable(source: &impl AsFd) -> PollFd<'_> {
    PollFd::new(source, PollFlags::IN)
}

fn until(due: Instant) -> Timespec {
    let left = due.saturating_duration_since(Instant::now());
    Timespec::try_from(left).expect("a delay of a test is no age of the universe")
}

fn deliver(state: &mut State) {
    while let Some((port, frame)) = state.switch.arrived(Instant::now()) {
        if let Some(device) = state.devices.get(&port) {
            // An interface that is down, or whose queue is full, loses the frame: so do real ones.
            let _ = device.send(&frame);
        }
    }
}

fn take(switch: &mut Switch, port: PortId, device: &SyncDevice, buffer: &mut [u8]) {
    let now = Instant::now();
    for _ in 0..N_READ_AT_ONCE {
        match device.recv(buffer) {
            Ok(n_bytes) => switch.receive(now, port, &buffer[..n_bytes]),
            // Empty; or down, until it is up again.
            Err(_) => return,
        }
    }
}
