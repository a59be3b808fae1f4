//! What to do about the process of a runner: a state machine without a clock, a process or a pipe.
//!
//! ```text
//!          start ┌─────────┐ ready ┌────┐
//! Down ─────────►│ Loading │──────►│ Up │
//!  ▲   at once,  └─────────┘       └────┘
//!  │   1, 2, 4 s      │ dies          │ dies: whoever has steps in it is told at once
//!  └──────────────────┴───────────────┘        the fifth time within ten minutes: given up
//! ```
//!
//! A death says why: a crash (a signal, an exit code, nonsense on the pipe), the kernel that needs memory, a freeze (no sign of
//! life), a hang (busy, and nothing comes of it). A crash may be the fault of what was being computed. So the sequences that had
//! steps in a runner that crashed are *suspects*: each is computed alone, until it has passed the position at which
//! it was. The one that is there alone when the runner crashes again is *poison*: it fails, and the others go on.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use shoal_proto::{
    InstanceId,
    frame::{Body, Frame, FrameKey},
};

use crate::runner::{
    HeldKey, INBOX_MAX, Input, Observed, Outgoing, Route, held_key,
    wire::{Beat, FromRunner, WireError},
};

/// How often [`Supervisor::tick`] is to be called.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// Ticks without a sign of life after which a process is taken for frozen: 3 s, six beats. Ticks are counted and not time, since a
/// device that sleeps stops the node and the runner alike.
const SILENT_TICKS_MAX: u32 = 6;
/// Ticks at work without progress after which it is taken for hung: 20 s. Progress is a single multiplication of matrices, which
/// takes a slow phone a second or two with a long batch and weights that come from flash.
const STUCK_TICKS_MAX: u32 = 40;
/// Ticks that loading may take: a minute, as its coordinator waits.
const LOADING_TICKS_MAX: u32 = 120;
/// The death within [`DEATHS_WITHIN`] with which a runner is given up.
const DEATHS_MAX: usize = 5;
const DEATHS_WITHIN: Duration = Duration::from_secs(600);
/// Pause after the second death; the first has none, and each later one twice that of the one before.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Most steps that a process may have: more than fill its batches; the rest waits here, where it survives the process.
const UNDER_WAY_MAX: usize = 256;
/// With so much memory free it is not for memory that a process was killed: Android's killer takes background apps at some
/// hundreds of MiB.
const AMPLE_BYTES: u64 = 1 << 30;
/// Poisonous sequences that are remembered, so that what is still on its way for them does no more harm.
const POISONED_MAX: usize = 64;

/// Something to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Start the process.
    Start,
    /// Give it an input.
    Give(Input),
    /// End it at once.
    Kill,
    /// Send a frame.
    Send(Outgoing),
    /// Learn from a batch.
    Observe(Observed),
    /// The shard is loaded for the first time.
    Loaded,
    /// Never start it again, and why.
    GiveUp(String),
}

/// How a process ended, as the system tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Exit {
    /// The signal that ended it.
    pub(super) signal: Option<i32>,
    /// Its exit code.
    pub(super) code: Option<i32>,
    /// The last line that it wrote and that is no log line: what a crash says of itself.
    pub(super) last_words: Option<String>,
    /// Memory of the device that was free shortly before.
    pub(super) free_bytes: Option<u64>,
}

/// Why a runner died.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    /// A signal that a program brings upon itself, or an exit code.
    Crashed(String),
    /// The system or a person killed it; the memory that is free.
    Killed(Option<u64>),
    /// Somebody ended it, by a signal.
    Ended(&'static str),
    /// It gave no sign of life.
    Frozen,
    /// It was busy without progress.
    Hung,
    /// Loading took too long.
    Slow,
    /// It wrote what is no message.
    Garbled(String),
    /// It could not load again what it had loaded.
    Unloadable(String),
    /// It could not be started.
    Unstartable(String),
}

impl Cause {
    /// Whether what was computed may have brought it about.
    fn may_be_poison(&self) -> bool {
        matches!(self, Self::Crashed(_) | Self::Hung | Self::Garbled(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crashed(how) => write!(f, "crashed ({how})"),
            Self::Killed(Some(free)) if *free >= AMPLE_BYTES => {
                let free = free >> 20;
                write!(f, "was killed (SIGKILL) by the system or by somebody; {free} MiB were free")
            }
            Self::Killed(free) => {
                f.write_str("was killed by the system (SIGKILL), since memory ran short")?;
                if let Some(free) = free {
                    write!(f, " ({} MiB were free)", free >> 20)?;
                }
                f.write_str("; more devices for the model, a shorter context or fewer apps help")
            }
            Self::Ended(signal) => write!(f, "was ended by somebody ({signal})"),
            Self::Frozen => write!(f, "gave no sign of life for {} s", seconds(SILENT_TICKS_MAX)),
            Self::Hung => write!(f, "computed for {} s without progress", seconds(STUCK_TICKS_MAX)),
            Self::Slow => write!(f, "did not load within {} s", seconds(LOADING_TICKS_MAX)),
            Self::Garbled(what) => write!(f, "wrote nonsense: {what}"),
            Self::Unloadable(why) => write!(f, "cannot load its layers again: {why}"),
            Self::Unstartable(why) => write!(f, "cannot be started: {why}"),
        }
    }
}

fn seconds(n_ticks: u32) -> u64 {
    (TICK * n_ticks).as_secs()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no process until then.
    Down {
        until: Instant,
    },
    Loading,
    Up,
    GivenUp,
}

/// A step that the process has.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    key: FrameKey,
    /// Position after its last token.
    end: u32,
}

/// What a process has shown of itself since it was started.
#[derive(Debug, Default)]
struct Watch {
    /// Inputs that it was given.
    n_given: u64,
    /// Whether it has said anything yet: until then its program may be on its way from a slow disk.
    has_spoken: bool,
    n_silent: u32,
    n_stuck: u32,
    n_loading: u32,
    last: Beat,
}

/// Watches over the runner of one stage.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// Who it is, for messages.
    name: String,
    instance: InstanceId,
    route: Route,
    state: State,
    has_loaded: bool,
    watch: Watch,
    /// Why the process is being killed.
    killed_for: Option<Cause>,
    /// What waits for the process, in its order.
    held: VecDeque<Input>,
    under_way: Vec<UnderWay>,
    /// Suspects, and the position that each has to pass.
    suspects: HashMap<HeldKey, u32>,
    poisoned: VecDeque<HeldKey>,
    /// The latest deaths.
    deaths: VecDeque<Instant>,
    n_restarts: u32,
    /// Of the latest death.
    why: Option<String>,
    orders: VecDeque<Order>,
}

impl Supervisor {
    /// Returns the supervisor of a runner that is to be started now.
    pub(super) fn new(name: String, instance: InstanceId, route: Route, now: Instant) -> Self {
        Self {
            name,
            instance,
            route,
            state: State::Down { until: now },
            has_loaded: false,
            watch: Watch::default(),
            killed_for: None,
            held: VecDeque::new(),
            under_way: Vec::new(),
            suspects: HashMap::new(),
            poisoned: VecDeque::new(),
            deaths: VecDeque::new(),
            n_restarts: 0,
            why: None,
            orders: VecDeque::new(),
        }
    }

    /// Takes the next thing to do.
    pub(super) fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Where the stage stands in its pipeline now.
    pub(super) fn route(&self) -> Route {
        self.route
    }

    /// The word for people.
    pub(super) fn state(&self) -> &'static str {
        match self.state {
            State::Down { .. } | State::Loading if self.n_restarts > 0 => "restarting",
            State::Down { .. } | State::Loading => "starting",
            State::Up => "ready",
            State::GivenUp => "given up",
        }
    }

    /// How often the process was started anew.
    pub(super) fn n_restarts(&self) -> u32 {
        self.n_restarts
    }

    /// Why it died last.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// When the process is to be started, if it waits for that.
    pub(super) fn start_at(&self) -> Option<Instant> {
        match self.state {
            State::Down { until } => Some(until),
            _ => None,
        }
    }

    /// The time has come that [`start_at`](Self::start_at) named.
    pub(super) fn start(&mut self) {
        self.state = State::Loading;
        self.watch = Watch::default();
        self.orders.push_back(Order::Start);
    }

    /// An input for the runner has come. It waits here as long as there is no process to take it.
    pub(super) fn take(&mut self, input: Input) {
        match &input {
            Input::Move(route) => self.route = *route,
            Input::DropDriver(node) => self.suspects.retain(|(driver, _), _| driver != node),
            Input::Frame(Frame { key, body: Body::Step(_) })
                if self.poisoned.contains(&held_key(key)) =>
            {
                let message = format!("{} has crashed on this request", self.name);
                return self.answer(*key, Body::Failed { message });
            }
            // A driver that waits asks again and again.
            Input::Frame(Frame { key, body: Body::Probe { .. } }) => {
                self.held.retain(|held| {
                    !matches!(held, Input::Frame(Frame { key: other, body: Body::Probe { .. } }) if other == key)
                });
            }
            _ => {}
        }
        if self.held.len() >= INBOX_MAX {
            self.refuse(&input, "too much waits for it");
            return;
        }
        self.held.push_back(input);
        self.pump();
    }

    /// The process says something.
    pub(super) fn hear(&mut self, message: FromRunner) {
        self.watch.n_silent = 0;
        self.watch.has_spoken = true;
        match message {
            FromRunner::Ready => {
                self.state = State::Up;
                if !self.has_loaded {
                    self.has_loaded = true;
                    self.orders.push_back(Order::Loaded);
                }
            }
            FromRunner::LoadFailed(why) if self.has_loaded => self.kill(Cause::Unloadable(why)),
            // What cannot be loaded once will not be loaded by trying again.
            FromRunner::LoadFailed(why) => self.give_up(why),
            FromRunner::Outgoing(Outgoing { frame, .. }) if frame.key.instance != self.instance => {
                self.kill(Cause::Garbled(format!("a frame of instance {}", frame.key.instance)));
            }
            FromRunner::Outgoing(outgoing) => {
                self.note_answer(&outgoing.frame);
                self.orders.push_back(Order::Send(outgoing));
            }
            FromRunner::Observed(observed) => self.orders.push_back(Order::Observe(observed)),
            FromRunner::Beat(beat) => self.hear_beat(beat),
        }
        self.pump();
    }

    /// The process wrote what cannot be read.
    pub(super) fn hear_garbage(&mut self, error: &WireError) {
        self.kill(Cause::Garbled(error.to_string()));
    }

    /// [`TICK`] has passed.
    pub(super) fn tick(&mut self) {
        let watch = &mut self.watch;
        match self.state {
            State::Down { .. } | State::GivenUp => return,
            State::Loading => watch.n_loading += 1,
            State::Up if watch.last.is_busy => watch.n_stuck += 1,
            State::Up => {}
        }
        watch.n_silent += u32::from(watch.has_spoken);
        if watch.n_silent >= SILENT_TICKS_MAX {
            self.kill(Cause::Frozen);
        } else if watch.n_stuck >= STUCK_TICKS_MAX {
            self.kill(Cause::Hung);
        } else if watch.n_loading >= LOADING_TICKS_MAX {
            self.kill(Cause::Slow);
        }
    }

    /// The process could not be started.
    pub(super) fn not_started(&mut self, why: String, now: Instant) {
        self.died_of(&Cause::Unstartable(why), now);
    }

    /// The process has ended, and everything that it wrote was heard.
    pub(super) fn died(&mut self, exit: &Exit, now: Instant) {
        let cause = self.killed_for.take().unwrap_or_else(|| cause_of(exit));
        self.died_of(&cause, now);
    }

    fn died_of(&mut self, cause: &Cause, now: Instant) {
        if self.state == State::GivenUp {
            return;
        }
        let why = format!("{} {cause}", self.name);
        self.why = Some(why.clone());
        let poison = if cause.may_be_poison() { self.accuse() } else { None };
        self.tell_drivers(&why, poison);
        self.deaths.push_back(now);
        self.deaths.retain(|&death| now.saturating_duration_since(death) < DEATHS_WITHIN);
        if self.deaths.len() >= DEATHS_MAX {
            let minutes = DEATHS_WITHIN.as_secs() / 60;
            let n_deaths = self.deaths.len();
            return self.give_up(format!("{why}; that was death {n_deaths} within {minutes} min"));
        }
        let n_pauses = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX) - 1;
        let pause = n_pauses.checked_sub(1).map_or(Duration::ZERO, |n| PAUSE_MIN * (1 << n));
        self.n_restarts += 1;
        self.state = State::Down { until: now + pause };
    }

    /// After a crash: returns the sequence that is to blame, if that is certain; otherwise each that was there is a suspect.
    fn accuse(&mut self) -> Option<HeldKey> {
        let first = held_key(&self.under_way.first()?.key);
        let is_alone = self.under_way.iter().all(|step| held_key(&step.key) == first);
        if is_alone && self.suspects.remove(&first).is_some() {
            if self.poisoned.len() >= POISONED_MAX {
                self.poisoned.pop_front();
            }
            self.poisoned.push_back(first);
            return Some(first);
        }
        for step in &self.under_way {
            let end = self.suspects.entry(held_key(&step.key)).or_default();
            *end = step.end.max(*end);
        }
        None
    }

    /// Tells everybody whose steps were in the process, or waited for it, what has become of them.
    fn tell_drivers(&mut self, why: &str, poison: Option<HeldKey>) {
        let mut keys: Vec<FrameKey> = self.under_way.drain(..).map(|step| step.key).collect();
        // What came after a step that is lost is of no use; but questions are answered once the process is back.
        self.held.retain(|input| match input {
            Input::Frame(Frame { key, body: Body::Step(_) }) => {
                keys.push(*key);
                false
            }
            _ => true,
        });
        let mut told: Vec<FrameKey> = Vec::new();
        for key in keys {
            if told.contains(&key) {
                continue;
            }
            told.push(key);
            let body = if poison == Some(held_key(&key)) {
                let message = format!("{why}, for the second time on this request");
                Body::Failed { message }
            } else {
                Body::Lost { reason: why.to_owned() }
            };
            self.answer(key, body);
        }
    }

    fn give_up(&mut self, why: String) {
        self.state = State::GivenUp;
        self.why = Some(why.clone());
        self.tell_drivers(&why, None);
        while let Some(input) = self.held.pop_front() {
            self.refuse(&input, &why);
        }
        self.orders.push_back(Order::GiveUp(why));
    }

    fn kill(&mut self, cause: Cause) {
        if self.killed_for.is_none() {
            self.killed_for = Some(cause);
            self.orders.push_back(Order::Kill);
        }
    }

    fn hear_beat(&mut self, beat: Beat) {
        if beat.progress != self.watch.last.progress || !beat.is_busy {
            self.watch.n_stuck = 0;
        }
        self.watch.last = beat;
        if !beat.is_busy && beat.n_taken == self.watch.n_given {
            // It has nothing left to answer, whatever was thought of it.
            self.under_way.clear();
        }
    }

    /// Notes what a frame of the process answers.
    fn note_answer(&mut self, frame: &Frame) {
        let key = held_key(&frame.key);
        let end = match &frame.body {
            Body::Step(step) => Some(step.position.saturating_add(n_tokens(&step.tokens))),
            Body::Done { position, .. } => Some(*position),
            // The step came back without a result, but it came back.
            Body::Lost { .. } | Body::Failed { .. } => None,
            _ => return,
        };
        // A sequence's steps are answered in their order. They may go back to an earlier position: only one ends here.
        let is_answered =
            |step: &UnderWay| held_key(&step.key) == key && end.is_none_or(|end| step.end == end);
        if let Some(at) = self.under_way.iter().position(is_answered) {
            self.under_way.remove(at);
        }
        let Some(end) = end else { return };
        if self.suspects.get(&key).is_some_and(|&position| position <= end) {
            self.suspects.remove(&key);
        }
    }

    /// Gives the process what it may have now.
    fn pump(&mut self) {
        if self.state != State::Up || self.killed_for.is_some() {
            return;
        }
        while let Some(input) =
            self.held.pop_front_if(|input| may_go(input, &self.under_way, &self.suspects))
        {
            if let Input::Frame(Frame { key, body: Body::Step(step) }) = &input {
                let end = step.position.saturating_add(n_tokens(&step.tokens));
                self.under_way.push(UnderWay { key: *key, end });
            }
            if let Input::Frame(Frame { key, body: Body::Close }) = &input {
                self.suspects.remove(&held_key(key));
            }
            self.watch.n_given += 1;
            self.orders.push_back(Order::Give(input));
        }
    }

    /// Tells the driver of an input that it will not be taken.
    fn refuse(&mut self, input: &Input, why: &str) {
        if let Input::Frame(Frame { key, body: Body::Step(_) | Body::Probe { .. } }) = input {
            self.answer(*key, Body::Lost { reason: why.to_owned() });
        }
    }

    fn answer(&mut self, key: FrameKey, body: Body) {
        let frame = Frame { key, body };
        self.orders.push_back(Order::Send(Outgoing { to: key.driver, frame }));
    }
}

/// Whether the process may have an input: a suspect's steps, only if nobody else's are there.
fn may_go(input: &Input, under_way: &[UnderWay], suspects: &HashMap<HeldKey, u32>) -> bool {
    let Input::Frame(Frame { key, body: Body::Step(_) }) = input else { return true };
    let key = held_key(key);
    let mut others = under_way.iter().map(|step| held_key(&step.key)).filter(|&it| it != key);
    let is_open = match suspects.contains_key(&key) {
        true => others.next().is_none(),
        false => !others.any(|other| suspects.contains_key(&other)),
    };
    is_open && under_way.len() < UNDER_WAY_MAX
}

fn n_tokens(tokens: &[u32]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}

fn cause_of(exit: &Exit) -> Cause {
    use rustix::process::Signal;

    let ended = [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT"), (Signal::HUP, "SIGHUP")];
    let crashed = [
        (Signal::SEGV, "SIGSEGV"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ILL, "SIGILL"),
    ];
    let find = |named: &[(Signal, &'static str)], raw: i32| {
        named.iter().find(|(signal, _)| signal.as_raw() == raw).map(|(_, name)| *name)
    };
    let how = match (exit.signal, exit.code) {
        (Some(raw), _) if raw == Signal::KILL.as_raw() => return Cause::Killed(exit.free_bytes),
        (Some(raw), _) => match (find(&ended, raw), find(&crashed, raw)) {
            (Some(name), _) => return Cause::Ended(name),
            (None, Some(name)) => name.to_owned(),
            (None, None) => format!("signal {raw}"),
        },
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "no exit status".to_owned(),
    };
    match &exit.last_words {
        Some(words) => Cause::Crashed(format!("{how}: {words}")),
        None => Cause::Crashed(how),
    }
}

#[cfg(test)]
mod tests;
