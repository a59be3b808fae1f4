//! How this device feels: load, memory, warmth and battery, read from where Linux and Android tell them. Whatever is denied,
//! missing or senseless is `None`; nothing here fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use shoal_proto::control::{Battery, Vitals};

/// Most of a file that is read: all of these are a page at most.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// Most entries of a directory that are looked at; phones have up to about a hundred thermal zones.
const ENTRIES_MAX: usize = 256;
/// Ticks of `/proc/*/stat` per second: `USER_HZ`, 100 on every architecture that Shoal runs on.
const TICKS_PER_S: f64 = 100.0;
/// Termux's battery command starts a JVM: it is asked seldom.
const TERMUX_EVERY: Duration = Duration::from_secs(30);
const TERMUX_TIMEOUT: Duration = Duration::from_secs(5);

/// Ticks of all processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTicks {
    busy: u64,
    all: u64,
}

/// Reads how this device feels. The first sample has no load where only differences tell it.
#[derive(Debug)]
pub(crate) struct Sampler {
    root: PathBuf,
    is_android: bool,
    n_cores: usize,
    system: Option<CpuTicks>,
    own: Option<(Instant, u64)>,
    termux: Option<Termux>,
}

impl Sampler {
    /// A sampler of this device.
    pub(crate) fn new() -> Self {
        let is_android = cfg!(target_os = "android");
        let termux = is_android.then(Termux::default);
        Self { termux, ..Self::at(Path::new("/"), is_android) }
    }

    /// A sampler of the tree of files below `root`.
    fn at(root: &Path, is_android: bool) -> Self {
        Self {
            root: root.to_owned(),
            is_android,
            n_cores: std::thread::available_parallelism().map_or(1, usize::from),
            system: None,
            own: None,
            termux: None,
        }
    }

    /// Takes a sample; `runners` are the processes that compute for this one. Reads a few dozen small files; blocks for no longer than that.
    pub(crate) fn sample(&mut self, runners: &[u32]) -> Vitals {
        Vitals {
            load_percent: self.load(runners),
            free_bytes: self.free_bytes().unwrap_or(0),
            temperature_dc: self.temperature(),
            battery: self.battery().or_else(|| self.termux.as_mut().and_then(Termux::battery)),
            n_requests: 0,
        }
    }

    /// The share of the processors that is busy: of the whole system where that may be read, else from its run queue, else
    /// what this process and its runners take (Android tells an app nothing else).
    fn load(&mut self, runners: &[u32]) -> Option<u8> {
        if let Some(now) = self.read("proc/stat").and_then(|text| cpu_ticks(&text)) {
            let before = self.system.replace(now)?;
            return busy_percent(before, now);
        }
        if let Some(load) = self.read("proc/loadavg").and_then(|text| load_average(&text)) {
            return percent(load / self.n_cores as f64);
        }
        let ticks_of = |process: &str| {
            self.read(&format!("proc/{process}/stat")).and_then(|text| process_ticks(&text))
        };
        let of_runners = runners.iter().filter_map(|pid| ticks_of(&pid.to_string()));
        let ticks = of_runners.fold(ticks_of("self")?, u64::saturating_add);
        let now = Instant::now();
        let (then, before) = self.own.replace((now, ticks))?;
        let available = (now - then).as_secs_f64() * TICKS_PER_S * self.n_cores as f64;
        percent(ticks.checked_sub(before)? as f64 / available)
    }

    fn free_bytes(&self) -> Option<u64> {
        free_bytes(&self.read("proc/meminfo")?, self.is_android)
    }

    /// The warmest of the sensors that tell of the processor or of the device's skin, in tenths of a degree.
    fn temperature(&self) -> Option<i16> {
        let zones = self.entries("sys/class/thermal", "thermal_zone");
        let warmest = zones.iter().filter_map(|zone| {
            let kind = self.read(&format!("{zone}/type"))?;
            is_of_interest(&kind).then_some(())?;
            temperature_dc(&self.read(&format!("{zone}/temp"))?)
        });
        warmest.max()
    }

    fn battery(&self) -> Option<Battery> {
        self.entries("sys/class/power_supply", "").iter().find_map(|supply| {
            let read = |name: &str| self.read(&format!("{supply}/{name}"));
            let is_battery = read("type")?.trim() == "Battery";
            // A mouse or a pen has a battery too.
            let is_device = read("scope").is_some_and(|scope| scope.trim() == "Device");
            (is_battery && !is_device).then_some(())?;
            battery(&read("capacity")?, read("status").as_deref())
        })
    }

    /// Reads a small file; what is not UTF-8 in it is replaced.
    fn read(&self, path: &str) -> Option<String> {
        use std::io::Read as _;
        let path = self.root.join(path);
        // A pipe in this place would block for ever.
        fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let mut bytes = Vec::new();
        let file = fs::File::open(path).ok()?;
        file.take(FILE_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Paths of a directory's entries whose names begin with `prefix`, sorted.
    fn entries(&self, dir: &str, prefix: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(dir)) else { return Vec::new() };
        let names = entries.flatten().take(ENTRIES_MAX);
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let mut paths: Vec<String> = names
            .filter(|name| name.starts_with(prefix))
            .map(|name| format!("{dir}/{name}"))
            .collect();
        paths.sort();
        paths
    }
}

/// Termux's way to the battery, where the system's files are denied. A thread of its own asks, so that nobody waits for it.
#[derive(Debug, Default)]
struct Termux {
    asked: Option<Instant>,
    answer: Arc<Mutex<Option<Battery>>>,
}

impl Termux {
    /// The last answer; asks again if it is old.
    fn battery(&mut self) -> Option<Battery> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= TERMUX_EVERY) {
            self.asked = Some(Instant::now());
            let answer = Arc::clone(&self.answer);
            // Without the thread the last answer stands.
            let _ = std::thread::Builder::new().name("battery".into()).spawn(move || {
                let battery = run_briefly("termux-battery-status", TERMUX_TIMEOUT)
                    .and_then(|text| termux_battery(&text));
                *answer.lock().unwrap_or_else(PoisonError::into_inner) = battery;
            });
        }
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a command and returns what it prints; ends it after `timeout`. `None` if it is missing or fails.
fn run_briefly(command: &str, timeout: Duration) -> Option<String> {
    use std::io::Read as _;
    let mut command = Command::new(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let stdout = child.stdout.take()?;
    // A process cannot be waited for with a limit, but a message can, and the process's output ends with it.
    let (printed, text) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.take(FILE_BYTES_MAX as u64).read_to_string(&mut text);
        let _ = printed.send(read.is_ok().then_some(text));
    });
    let text = text.recv_timeout(timeout).ok().flatten();
    if text.is_none() {
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    text.filter(|_| status.success())
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn cpu_ticks(text: &str) -> Option<CpuTicks> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let fields: Vec<u64> = fields.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = fields.get(3)?.checked_add(fields.get(4).copied().unwrap_or(0))?;
    let all = fields.iter().try_fold(0u64, |sum, field| sum.checked_add(*field))?;
    Some(CpuTicks { busy: all.checked_sub(idle)?, all })
}

fn busy_percent(before: CpuTicks, now: CpuTicks) -> Option<u8> {
    let all = now.all.checked_sub(before.all).filter(|&all| all > 0)?;
    // The kernel lets idle time run backwards now and then.
    percent(now.busy.saturating_sub(before.busy) as f64 / all as f64)
}

/// The first figure of `/proc/loadavg`.
fn load_average(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// User and system ticks of `/proc/self/stat`. The name of the program, in brackets, may hold anything.
fn process_ticks(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    user.checked_add(system)
}

/// A share in whole percent, at most 100. `None` if it is no number.
fn percent(share: f64) -> Option<u8> {
    // The conversion cannot truncate after the clamp.
    share.is_finite().then(|| (share.clamp(0.0, 1.0) * 100.0).round() as u8)
}

/// Memory that can be given to models: what the system could give, less a margin at which it begins to kill. Android's killer
/// takes background apps at some hundreds of MiB left, so that a tenth of the memory and at least 256 MiB are kept; elsewhere
/// it is a twentieth.
fn free_bytes(meminfo: &str, is_android: bool) -> Option<u64> {
    let available = crate::memory::field(meminfo, "MemAvailable:")?;
    let total = crate::memory::field(meminfo, "MemTotal:")?;
    let margin = if is_android { (total / 10).max(256 << 20) } else { total / 20 };
    Some(available.saturating_sub(margin))
}

/// Whether a sensor's type says that it is at the processor or the skin. Chargers, modems and batteries have others.
fn is_of_interest(kind: &str) -> bool {
    let kind = kind.trim().to_ascii_lowercase();
    ["cpu", "soc", "skin", "pkg", "acpitz", "mtktsap"].iter().any(|part| kind.contains(part))
}

/// A sensor's figure in tenths of a degree. The kernel's unit is a thousandth, but some phones tell tenths or whole degrees;
/// what is not between -20 and 150 °C is no temperature.
fn temperature_dc(text: &str) -> Option<i16> {
    let raw: i64 = text.trim().parse().ok()?;
    let tenths = match raw.unsigned_abs() {
        0 => return None,
        1..=150 => raw * 10,
        151..=1500 => raw,
        _ => raw / 100,
    };
    i16::try_from(tenths).ok().filter(|tenths| (-200..=1500).contains(tenths))
}

fn battery(capacity: &str, status: Option<&str>) -> Option<Battery> {
    let percent: u8 = capacity.trim().parse().ok().filter(|percent| *percent <= 100)?;
    // "Not charging" is what a full battery at the mains says, or one that is kept from overcharging.
    let is_charging = matches!(
        status.map(str::trim).map(str::to_ascii_lowercase).as_deref(),
        Some("charging" | "full" | "not charging")
    );
    Some(Battery { percent, is_charging })
}

/// What `termux-battery-status` prints: a flat JSON object, of which two fields matter.
fn termux_battery(text: &str) -> Option<Battery> {
    let value = |name: &str| {
        let (_, rest) = text.split_once(&format!("\"{name}\""))?;
        let rest = rest.trim_start().strip_prefix(':')?;
        Some(rest.split([',', '}', '\n']).next()?.trim().trim_matches('"'))
    };
    let mut found = battery(value("percentage")?, value("status"))?;
    found.is_charging |= value("plugged").is_some_and(|plugged| plugged.starts_with("PLUGGED"));
    Some(found)
}

#[cfg(test)]
mod tests;
