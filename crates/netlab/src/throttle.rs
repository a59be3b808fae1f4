//! Processes that get a share of a core, as if their machine were slower than this one.
//!
//! ```text
//! budget += share × time passed        at most BURST
//! budget -= what the group computed
//! budget < 0  →  stop the group        budget ≥ 0  →  let it go on
//! ```
//!
//! It is what the kernel's quota for a group of processes does, but it needs no rights over control groups, and its period
//! is below a millisecond instead of a hundred: over a hundred, a stage that computes for ten milliseconds and then waits for others
//! would never notice its share. A group is a process with all that it has started.

use std::{
    collections::HashMap,
    fs,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    time::ClockId,
    unistd::Pid,
};

/// How often a group's clocks are looked at.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// How often a group is searched for new processes.
const SEARCH_EVERY: Duration = Duration::from_millis(100);
/// What a group that has waited may compute at full speed: so little that it hardly helps a stage of a few layers.
const BURST_S: f64 = 0.2e-3;
/// What a group owes at most: a pause of a few periods, and not one for each look that came late.
const DEBT_S: f64 = 20e-3;

/// Keeps a process, with its descendants, at its share until it is dropped; then they run free.
#[derive(Debug)]
pub struct Throttle {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Gives a process, with its descendants, a share of one core: 1 is all of it, however many threads compute.
    ///
    /// # Errors
    /// Returns an error if no thread can be started.
    ///
    /// # Panics
    /// Panics if the share is not above zero.
    pub fn start(pid: u32, share: f64) -> crate::Result<Self> {
        let group = Group::new(pid, share);
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("throttle".into());
        let thread = thread
            .spawn(move || run(group, &stopped))
            .map_err(crate::Error::io("start the throttle"))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut group: Group, stopped: &Receiver<()>) {
    let mut searched: Option<Instant> = None;
    while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if searched.is_none_or(|at| at.elapsed() >= SEARCH_EVERY) {
            searched = Some(Instant::now());
            group.search(&parents());
        }
        group.look();
    }
    group.signal(Signal::SIGCONT);
}

/// A process of a group.
#[derive(Debug, Default)]
struct Member {
    /// What it had computed at the last look.
    computed: Duration,
    /// What each of its threads had, in nanoseconds, at the last search.
    threads: HashMap<Pid, u64>,
    /// The thread that computed most before that. It is the one that is told to stop the process: another one would first have
    /// to get its core.
    busiest: Option<Pid>,
}

impl Member {
    fn search(&mut self, pid: Pid) {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
        let of_thread = |entry: fs::DirEntry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("schedstat")).ok()?;
            Some((Pid::from_raw(id), stat.split(' ').next()?.parse().ok()?))
        };
        let threads: HashMap<Pid, u64> = entries.flatten().filter_map(of_thread).collect();
        let grown = threads.iter().map(|(id, now)| {
            (now.saturating_sub(self.threads.get(id).copied().unwrap_or_default()), *id)
        });
        self.busiest = grown.max().map(|(_, id)| id);
        self.threads = threads;
    }
}

/// A process and what it has started.
struct Group {
    root: Pid,
    share: f64,
    members: HashMap<Pid, Member>,
    budget_s: f64,
    looked: Instant,
    is_stopped: bool,
}

impl Group {
    fn new(pid: u32, share: f64) -> Self {
        assert!(share > 0.0, "a share above zero, not {share}");
        let root = Pid::from_raw(i32::try_from(pid).expect("Linux's are smaller"));
        let (members, budget_s) = (HashMap::new(), 0.0);
        Self { root, share, members, budget_s, looked: Instant::now(), is_stopped: false }
    }

    /// Finds its processes.
    fn search(&mut self, parents: &HashMap<Pid, Pid>) {
        let is_member = |pid: Pid| {
            std::iter::successors(Some(pid), |pid| parents.get(pid).copied())
                .take(parents.len())
                .any(|pid| pid == self.root)
        };
        self.members.retain(|pid, _| parents.contains_key(pid));
        for &pid in parents.keys().filter(|&&pid| is_member(pid)) {
            let new =
                || Member { computed: computed(pid).unwrap_or_default(), ..Member::default() };
            self.members.entry(pid).or_insert_with(new).search(pid);
        }
        // Who was started just before the others were stopped stands still with them.
        if self.is_stopped {
            self.signal(Signal::SIGSTOP);
        }
    }

    /// Stops it or lets it go on, by what it has computed since the last look.
    fn look(&mut self) {
        let passed_s = self.looked.elapsed().as_secs_f64();
        self.looked = Instant::now();
        let mut used = Duration::ZERO;
        for (&pid, member) in &mut self.members {
            if let Some(now) = computed(pid) {
                used += now.saturating_sub(member.computed);
                member.computed = now;
            }
        }
        let stops = self.spend(passed_s, used.as_secs_f64());
        if stops != self.is_stopped {
            self.signal(if stops { Signal::SIGSTOP } else { Signal::SIGCONT });
            self.is_stopped = stops;
        }
    }

    /// Takes what was computed out of the budget; returns whether the group has to wait.
    fn spend(&mut self, passed_s: f64, used_s: f64) -> bool {
        let budget_s = self.budget_s + self.share * passed_s - used_s;
        self.budget_s = budget_s.clamp(-DEBT_S, BURST_S);
        self.budget_s < 0.0
    }

    fn signal(&self, signal: Signal) {
        // One that has ended needs none, and the next search forgets it.
        for (&pid, member) in &self.members {
            let _ = kill(member.busiest.unwrap_or(pid), signal);
        }
    }
}

/// The time for which a process has computed, on all cores.
fn computed(pid: Pid) -> Option<Duration> {
    ClockId::pid_cpu_clock_id(pid).ok()?.now().ok().map(Duration::from)
}

/// Every process that can be seen, and its parent.
fn parents() -> HashMap<Pid, Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let parent = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Behind the name, which may hold anything: the state and the parent.
        let (_, rest) = stat.rsplit_once(')')?;
        let parent: i32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        Some((Pid::from_raw(pid), Pid::from_raw(parent)))
    };
    entries.flatten().filter_map(parent).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn a_group_pays_for_what_it_computes() {
        let mut group = Group::new(1, 0.25);
        assert!(!group.spend(0.001, 0.0001), "less than its share");
        // 4 ms on a quarter of a core take 16 ms, less what it has saved: 0.15 ms of computing, 0.6 ms of waiting.
        assert!(group.spend(0.004, 0.004));
        let n_waits = (0..100).take_while(|_| group.spend(0.001, 0.0)).count();
        assert_eq!(n_waits, 11);
        group.spend(100.0, 0.0);
        assert!(group.spend(0.001, 0.0005), "it saves no more than a burst");
        group.spend(0.001, 100.0);
        assert!(!group.spend(0.081, 0.0), "nor does it owe more than a pause");
    }

    /// A process that computes for ever, and one that it has started which does so too.
    struct Busy(Child);

    impl Busy {
        fn start() -> Self {
            let loops = "(while :; do :; done) & while :; do :; done";
            Self(Command::new("sh").args(["-c", loops]).spawn().expect("a shell"))
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            let mut group = Group::new(self.0.id(), 1.0);
            group.search(&parents());
            group.signal(Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }

    fn is_stopped(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    }

    #[test]
    fn who_joins_a_group_that_stands_still_does_so_too() {
        let busy = Busy::start();
        let mut group = Group::new(busy.0.id(), 1.0);
        group.is_stopped = true;
        let deadline = Instant::now() + Duration::from_secs(60);
        while group.members.len() < 2 || !group.members.keys().all(|&pid| is_stopped(pid)) {
            assert!(Instant::now() < deadline, "it computes on: {:?}", group.members);
            group.search(&parents());
        }
    }

    #[test]
    fn a_group_without_budget_stands_still_until_the_throttle_ends() {
        let busy = Busy::start();
        let throttle = Throttle::start(busy.0.id(), 1e-6).unwrap();
        let mut group = Group::new(busy.0.id(), 1.0);
        let deadline = Instant::now() + Duration::from_secs(60);
        let all_stand = |group: &mut Group| {
            group.search(&parents());
            group.members.len() == 2 && group.members.keys().all(|&pid| is_stopped(pid))
        };
        while !all_stand(&mut group) {
            assert!(Instant::now() < deadline, "it computes on: {:?}", group.members);
        }
        drop(throttle);
        // Nothing lets it go on but the end of the throttle: it must be seen to compute.
        while group.members.keys().any(|&pid| is_stopped(pid)) {
            assert!(Instant::now() < deadline, "it stands still");
        }
    }
}
