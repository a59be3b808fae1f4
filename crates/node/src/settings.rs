//! What the owner of a device sets, and its page shows: kept in the data directory, in force at once.
//!
//! A setting has a default; what the owner said differs from it and is kept; what the command line says wins over both, for as
//! long as the process runs. [`file`] is how it is kept.

mod file;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{Config, Error, Node, durable, node::Inner, queue};

/// The file of the settings, in the data directory.
const FILE: &str = "settings";
/// Most characters of a device's name.
const NAME_CHARS_MAX: usize = 64;
/// Slowest and fastest limit of downloads: below, connections would time out; above, there is nothing to limit.
const RATE: (u64, u64) = (16 << 10, 10_000_000_000);

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// The name that people see.
    Name,
    /// Charge in percent below which the device gives its layers away, unless it is plugged in.
    BatteryFloor,
    /// Temperature in degrees Celsius from which it does.
    TemperatureCeiling,
    /// Percent of the memory that was free at its start which it gives to models.
    MemoryShare,
    /// Bytes per second that all downloads take together.
    DownloadRate,
    /// Whether instances move by themselves to placements that are much better.
    Auto,
    /// Answers of one model at once.
    Parallel,
}

impl Setting {
    /// Every setting, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Name,
        Self::BatteryFloor,
        Self::TemperatureCeiling,
        Self::MemoryShare,
        Self::DownloadRate,
        Self::Auto,
        Self::Parallel,
    ];

    /// Its name in the API and in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::BatteryFloor => "battery_floor_percent",
            Self::TemperatureCeiling => "temperature_ceiling_c",
            Self::MemoryShare => "memory_share_percent",
            Self::DownloadRate => "download_bytes_per_s",
            Self::Auto => "auto",
            Self::Parallel => "parallel",
        }
    }

    /// The setting of a name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.as_str() == name)
    }

    /// The least and the greatest number that it can be, if it is a number.
    pub fn range(self) -> Option<(u64, u64)> {
        match self {
            Self::Name | Self::Auto => None,
            Self::BatteryFloor => Some((0, 90)),
            // Below it is no strain for any device, and above it no sensor is believed.
            Self::TemperatureCeiling => Some((50, 110)),
            Self::MemoryShare => Some((10, 100)),
            Self::DownloadRate => Some(RATE),
            Self::Parallel => Some((1, 64)),
        }
    }
}

/// What a setting is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingValue {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// On or off.
    Switch(bool),
    /// No limit.
    Unlimited,
}

impl std::fmt::Display for SettingValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Switch(is_on) => f.write_str(if *is_on { "on" } else { "off" }),
            Self::Unlimited => f.write_str("no limit"),
        }
    }
}

/// A setting as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingStatus {
    /// Which.
    pub setting: Setting,
    /// What is in force.
    pub value: SettingValue,
    /// What is in force if nobody says anything.
    pub default: SettingValue,
    /// Whether the command line says so: then it cannot be changed while the process runs.
    pub is_fixed: bool,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) battery_floor_percent: u8,
    pub(crate) temperature_ceiling_c: u8,
    pub(crate) memory_share_percent: u8,
    pub(crate) download_bytes_per_s: Option<u64>,
    pub(crate) auto: bool,
    pub(crate) parallel: usize,
}

impl Settings {
    /// What is in force on a device of this name of which nothing was said.
    fn new(name: &str) -> Self {
        let limits = shoal_cluster::Limits::default();
        Self {
            name: name.to_owned(),
            battery_floor_percent: limits.empty_percent,
            temperature_ceiling_c: u8::try_from(limits.hot_dc / 10).unwrap_or(u8::MAX),
            memory_share_percent: 100,
            download_bytes_per_s: None,
            auto: false,
            parallel: queue::PARALLEL_DEFAULT,
        }
    }

    fn get(&self, setting: Setting) -> SettingValue {
        match setting {
            Setting::Name => SettingValue::Text(self.name.clone()),
            Setting::BatteryFloor => SettingValue::Number(self.battery_floor_percent.into()),
            Setting::TemperatureCeiling => SettingValue::Number(self.temperature_ceiling_c.into()),
            Setting::MemoryShare => SettingValue::Number(self.memory_share_percent.into()),
            Setting::DownloadRate => {
                self.download_bytes_per_s.map_or(SettingValue::Unlimited, SettingValue::Number)
            }
            Setting::Auto => SettingValue::Switch(self.auto),
            Setting::Parallel => {
                SettingValue::Number(u64::try_from(self.parallel).unwrap_or(u64::MAX))
            }
        }
    }

    /// Sets a value that [`checked`] has let through; any other is left alone.
    fn set(&mut self, setting: Setting, value: &SettingValue) {
        let small = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        match (setting, value) {
            (Setting::Name, SettingValue::Text(name)) => self.name.clone_from(name),
            (Setting::BatteryFloor, &SettingValue::Number(n)) => {
                self.battery_floor_percent = small(n);
            }
            (Setting::TemperatureCeiling, &SettingValue::Number(n)) => {
                self.temperature_ceiling_c = small(n);
            }
            (Setting::MemoryShare, &SettingValue::Number(n)) => {
                self.memory_share_percent = small(n);
            }
            (Setting::DownloadRate, &SettingValue::Number(n)) => {
                self.download_bytes_per_s = Some(n);
            }
            (Setting::DownloadRate, SettingValue::Unlimited) => self.download_bytes_per_s = None,
            (Setting::Auto, &SettingValue::Switch(is_on)) => self.auto = is_on,
            (Setting::Parallel, &SettingValue::Number(n)) => self.parallel = small(n).into(),
            _ => {}
        }
    }

    /// What the device is to bear.
    pub(crate) fn limits(&self) -> shoal_cluster::Limits {
        shoal_cluster::Limits {
            hot_dc: i16::from(self.temperature_ceiling_c) * 10,
            empty_percent: self.battery_floor_percent,
        }
    }
}

/// A value as it is kept, or what is wrong with it.
fn checked(setting: Setting, value: SettingValue) -> Result<SettingValue, Error> {
    let refuse = |message: String| {
        Err(Error::InvalidParameter { name: setting.as_str().to_owned(), message })
    };
    match (setting, setting.range(), value) {
        (Setting::Name, _, SettingValue::Text(text)) => {
            let text = text.trim();
            let n_chars = text.chars().count();
            if text.chars().any(char::is_control) {
                return refuse("expected no control characters, got some".to_owned());
            }
            if !(1..=NAME_CHARS_MAX).contains(&n_chars) {
                return refuse(format!("expected 1 to {NAME_CHARS_MAX} characters, got {n_chars}"));
            }
            Ok(SettingValue::Text(text.to_owned()))
        }
        (Setting::Name, _, other) => refuse(format!("expected a text, got {other}")),
        (Setting::Auto, _, value @ SettingValue::Switch(_)) => Ok(value),
        (Setting::Auto, _, other) => refuse(format!("expected true or false, got {other}")),
        (Setting::DownloadRate, _, SettingValue::Unlimited) => Ok(SettingValue::Unlimited),
        (_, Some((min, max)), SettingValue::Number(n)) if (min..=max).contains(&n) => {
            Ok(SettingValue::Number(n))
        }
        (_, Some((min, max)), other) => refuse(format!("expected {min} to {max}, got {other}")),
        (_, None, other) => refuse(format!("expected something else, got {other}")),
    }
}

/// What was said of settings: which differ from their defaults.
type Said = Vec<(Setting, SettingValue)>;

/// The settings of a node.
#[derive(Debug)]
pub(crate) struct SettingsCell {
    path: Option<PathBuf>,
    defaults: Settings,
    /// What the command line says.
    fixed: Said,
    /// What the owner says.
    said: Mutex<Said>,
    current: watch::Sender<Settings>,
    /// Held while the file is written, so that changes are kept in their order.
    writing: tokio::sync::Mutex<()>,
    /// Memory that was free at the start, in bytes.
    pub(crate) memory_bytes: u64,
}

impl SettingsCell {
    /// Reads what is kept. A file that cannot be used is set aside, with a message.
    pub(crate) fn load(config: &Config, memory_bytes: u64) -> Self {
        let path = config.data_dir.as_ref().map(|dir| dir.join(FILE));
        let said = path.as_deref().map(file::load).unwrap_or_default();
        let number = |n: usize| SettingValue::Number(u64::try_from(n).unwrap_or(u64::MAX));
        let rate = config.library.as_ref().and_then(|library| library.bytes_per_s);
        let name = config.is_name_fixed.then(|| SettingValue::Text(config.name.clone()));
        let fixed = [
            (Setting::Name, name),
            (Setting::DownloadRate, rate.map(SettingValue::Number)),
            (Setting::Auto, config.auto.then_some(SettingValue::Switch(true))),
            (Setting::Parallel, config.parallel.map(number)),
        ];
        let fixed = fixed.into_iter().filter_map(|(setting, value)| Some((setting, value?)));
        let cell = Self {
            path,
            defaults: Settings::new(&config.name),
            fixed: fixed.collect(),
            said: Mutex::new(said),
            current: watch::Sender::new(Settings::new(&config.name)),
            writing: tokio::sync::Mutex::default(),
            memory_bytes,
        };
        cell.current.send_replace(cell.in_force(&cell.said()));
        cell
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_force(&self, said: &Said) -> Settings {
        let mut settings = self.defaults.clone();
        for (setting, value) in said.iter().chain(&self.fixed) {
            settings.set(*setting, value);
        }
        settings
    }

    /// What is in force now.
    pub(crate) fn get(&self) -> Settings {
        self.current.borrow().clone()
    }

    /// Bytes that this device gives to models altogether.
    pub(crate) fn memory_share(&self) -> u64 {
        self.memory_bytes / 100 * u64::from(self.current.borrow().memory_share_percent)
    }

    fn is_fixed(&self, setting: Setting) -> bool {
        self.fixed.iter().any(|(fixed, _)| *fixed == setting)
    }

    fn list(&self) -> Vec<SettingStatus> {
        let current = self.get();
        let status = |setting: Setting| SettingStatus {
            setting,
            value: current.get(setting),
            default: self.defaults.get(setting),
            is_fixed: self.is_fixed(setting),
        };
        Setting::ALL.into_iter().map(status).collect()
    }

    /// What is said after these changes; `None` in place of a value takes back what was said.
    fn changed(&self, changes: Vec<(Setting, Option<SettingValue>)>) -> Result<Said, Error> {
        let mut said = self.said().clone();
        for (setting, value) in changes {
            if self.is_fixed(setting) {
                return Err(Error::SettingFixed { name: setting.as_str() });
            }
            let value = value.map(|value| checked(setting, value)).transpose()?;
            let value = value.filter(|value| *value != self.defaults.get(setting));
            said.retain(|(other, _)| *other != setting);
            said.extend(value.map(|value| (setting, value)));
        }
        said.sort_by_key(|(setting, _)| *setting);
        Ok(said)
    }

    /// Keeps changes and has them in force. Returns which settings are not as before.
    async fn change(
        &self,
        changes: Vec<(Setting, Option<SettingValue>)>,
    ) -> Result<Vec<(Setting, SettingValue)>, Error> {
        let _one_at_a_time = self.writing.lock().await;
        let said = self.changed(changes)?;
        if said == *self.said() {
            return Ok(Vec::new());
        }
        if let Some(path) = self.path.clone() {
            let (bytes, to) = (file::text(&said).into_bytes(), path.clone());
            let written = tokio::task::spawn_blocking(move || durable::replace(&to, &bytes)).await;
            let written = written.unwrap_or_else(|error| Err(error.into()));
            written.map_err(|error| Error::NotKept { path, source: Arc::new(error) })?;
        }
        let (before, now) = (self.get(), self.in_force(&said));
        *self.said() = said;
        self.current.send_replace(now.clone());
        let is_new = |setting: &Setting| before.get(*setting) != now.get(*setting);
        let new = Setting::ALL.into_iter().filter(is_new);
        Ok(new.map(|setting| (setting, now.get(setting))).collect())
    }
}

impl Node {
    /// The settings of this device, in the order in which they are shown.
    pub fn settings(&self) -> Vec<SettingStatus> {
        self.inner().settings.list()
    }

    /// Where this node keeps what it keeps.
    pub fn data_dir(&self) -> Option<&Path> {
        self.inner().config().data_dir.as_deref()
    }

    /// Whether changed settings outlive the process.
    pub fn keeps_settings(&self) -> bool {
        self.inner().settings.path.is_some()
    }

    /// Changes settings, all of them or none; `None` in place of a value means its default. They are in force, and on the disk,
    /// when this returns.
    ///
    /// # Errors
    /// If a value is out of range or of the wrong kind, the command line has fixed one of them, or they cannot be kept.
    pub async fn change_settings(
        &self,
        changes: Vec<(Setting, Option<SettingValue>)>,
    ) -> Result<(), Error> {
        let changed = self.inner().settings.change(changes).await?;
        self.inner().obey_settings();
        let name = self.name();
        for (setting, value) in changed {
            info!(setting = setting.as_str(), "setting changed");
            self.inner().instruments.journal.note(crate::journal::words::set(
                self.id(),
                &name,
                setting,
                &value,
            ));
        }
        Ok(())
    }
}

impl Inner {
    /// Has what the settings say in force, where it is not read from them each time.
    pub(crate) fn obey_settings(&self) {
        let Settings { name, download_bytes_per_s, parallel, .. } = self.settings.get();
        let memory_bytes = self.settings.memory_share();
        self.peers()
            .change_record(|record| (record.name, record.memory_bytes) = (name, memory_bytes));
        if let Some(library) = self.library() {
            library.set_bytes_per_s(download_bytes_per_s);
        }
        self.queues().set_parallel(parallel);
    }
}

/// Moves a file that cannot be used out of the way, for whoever wants to know what happened to it.
fn set_aside(path: &Path, reason: &str) {
    let aside = path.with_extension("damaged");
    let is_kept = std::fs::rename(path, &aside).is_ok();
    warn!(path = %path.display(), reason, is_kept, "settings cannot be read");
}

#[cfg(test)]
mod tests;
