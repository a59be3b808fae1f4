//! When a device suffers so much that it should give its layers away: by heat, by its battery, by its memory.

use std::time::Duration;

use shoal_proto::control::{DrainCause, Vitals};

use crate::Time;

/// How much cooler than its ceiling a device has to be to have cooled down, in tenths of a degree.
const COOLER_BY_DC: i16 = 150;
/// How much more charge than its floor a battery needs, to help again without being plugged in.
const CHARGED_BY_PERCENT: u8 = 15;
/// Memory in bytes below which its system begins to kill; the margin that vital signs keep is gone by then too.
const TIGHT_BYTES: u64 = 1;
/// Memory with which it is well again.
const ROOMY_BYTES: u64 = 512 << 20;
/// How long it has to suffer: one sample of a sensor is no sign, and a program that starts takes memory for a moment.
const SUFFERS_FOR: Duration = Duration::from_secs(10);
/// How long it has to be well again: layers that leave take its load with them, and it would be well at once.
const WELL_FOR: Duration = Duration::from_secs(120);

/// What a device's owner lets it bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Temperature of its processor from which it suffers, in tenths of a degree.
    pub hot_dc: i16,
    /// Charge in percent below which the rest belongs to its owner, unless it is plugged in.
    pub empty_percent: u8,
}

impl Default for Limits {
    /// Phones shut down soon above 95 degrees; full load alone brings many to 80.
    fn default() -> Self {
        Self { hot_dc: 950, empty_percent: 10 }
    }
}

/// Watches one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Strain {
    /// From which it suffers, and since when.
    suffers: Option<(DrainCause, Time)>,
    /// Since when it has been well.
    well_since: Option<Time>,
    cause: Option<DrainCause>,
}

impl Strain {
    /// Takes in how the device feels. Returns why it should give its layers away, if it should.
    pub fn feel(&mut self, vitals: &Vitals, limits: &Limits, now: Time) -> Option<DrainCause> {
        // A device that has not looked yet says nothing.
        if *vitals == Vitals::default() {
            return self.cause;
        }
        match self.cause {
            None => self.cause = self.sufficient(suffers_from(vitals, limits), now),
            Some(cause) => self.recover(cause, vitals, limits, now),
        }
        self.cause
    }

    /// It is well once it has been so for long enough.
    fn recover(&mut self, cause: DrainCause, vitals: &Vitals, limits: &Limits, now: Time) {
        if suffers_from(vitals, limits).is_some() || !is_well(cause, vitals, limits) {
            self.well_since = None;
            return;
        }
        let since = *self.well_since.get_or_insert(now);
        if now.saturating_sub(since) >= WELL_FOR {
            *self = Self::default();
        }
    }

    fn sufficient(&mut self, from: Option<DrainCause>, now: Time) -> Option<DrainCause> {
        let since = self.suffers.filter(|(cause, _)| Some(*cause) == from);
        self.suffers = from.map(|cause| (cause, since.map_or(now, |(_, since)| since)));
        let (cause, since) = self.suffers?;
        (now.saturating_sub(since) >= SUFFERS_FOR).then_some(cause)
    }
}

/// The worst that a device suffers from.
fn suffers_from(vitals: &Vitals, limits: &Limits) -> Option<DrainCause> {
    if vitals.free_bytes < TIGHT_BYTES {
        Some(DrainCause::LowMemory)
    } else if vitals.temperature_dc.is_some_and(|it| it >= limits.hot_dc) {
        Some(DrainCause::Hot)
    } else if vitals.battery.is_some_and(|it| it.percent < limits.empty_percent && !it.is_charging)
    {
        Some(DrainCause::LowBattery)
    } else {
        None
    }
}

/// Whether a device has recovered from a cause.
fn is_well(cause: DrainCause, vitals: &Vitals, limits: &Limits) -> bool {
    match cause {
        DrainCause::Hot => {
            let cool_dc = limits.hot_dc.saturating_sub(COOLER_BY_DC);
            vitals.temperature_dc.is_none_or(|it| it <= cool_dc)
        }
        DrainCause::LowBattery => {
            // A floor near the top would never be left otherwise.
            let charged = limits.empty_percent.saturating_add(CHARGED_BY_PERCENT).min(95);
            vitals.battery.is_none_or(|it| it.is_charging || it.percent >= charged)
        }
        DrainCause::LowMemory => vitals.free_bytes >= ROOMY_BYTES,
        DrainCause::Asked | DrainCause::Ending => true,
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::control::Battery;

    use super::*;

    fn well() -> Vitals {
        Vitals { free_bytes: 2 << 30, temperature_dc: Some(700), ..Vitals::default() }
    }

    fn battery(percent: u8, is_charging: bool) -> Vitals {
        Vitals { battery: Some(Battery { percent, is_charging }), ..well() }
    }

    /// What it says while it feels like this for so many seconds.
    fn feel(strain: &mut Strain, at: &mut u64, n_s: u64, vitals: Vitals) -> Option<DrainCause> {
        let until = *at + n_s;
        let mut said = None;
        while *at < until {
            *at += 1;
            said = strain.feel(&vitals, &Limits::default(), Duration::from_secs(*at));
        }
        said
    }

    #[test]
    fn heat_drains_and_only_lasting_coolness_brings_back() {
        let (mut strain, mut at) = (Strain::default(), 0);
        let hot = Vitals { temperature_dc: Some(960), ..well() };
        let warm = Vitals { temperature_dc: Some(850), ..well() };
        assert_eq!(feel(&mut strain, &mut at, 9, hot), None);
        assert_eq!(feel(&mut strain, &mut at, 1, well()), None);
        assert_eq!(feel(&mut strain, &mut at, 10, hot), None);
        assert_eq!(feel(&mut strain, &mut at, 1, hot), Some(DrainCause::Hot));
        assert_eq!(feel(&mut strain, &mut at, 600, warm), Some(DrainCause::Hot), "not cool yet");
        assert_eq!(feel(&mut strain, &mut at, 119, well()), Some(DrainCause::Hot));
        assert_eq!(feel(&mut strain, &mut at, 1, warm), Some(DrainCause::Hot));
        assert_eq!(feel(&mut strain, &mut at, 120, well()), Some(DrainCause::Hot));
        assert_eq!(feel(&mut strain, &mut at, 1, well()), None);
    }

    #[test]
    fn a_low_battery_drains_unless_it_is_charged() {
        let (mut strain, mut at) = (Strain::default(), 0);
        assert_eq!(feel(&mut strain, &mut at, 60, battery(5, true)), None);
        assert_eq!(feel(&mut strain, &mut at, 60, battery(10, false)), None);
        assert_eq!(feel(&mut strain, &mut at, 60, battery(9, false)), Some(DrainCause::LowBattery));
        assert_eq!(feel(&mut strain, &mut at, 300, battery(24, false)), strain.cause);
        assert!(strain.cause.is_some());
        assert_eq!(feel(&mut strain, &mut at, 300, battery(12, true)), None);
    }

    #[test]
    fn no_memory_drains_and_silence_says_nothing() {
        let (mut strain, mut at) = (Strain::default(), 0);
        assert_eq!(feel(&mut strain, &mut at, 60, Vitals::default()), None);
        let tight = Vitals { free_bytes: 0, ..well() };
        assert_eq!(feel(&mut strain, &mut at, 60, tight), Some(DrainCause::LowMemory));
        assert_eq!(feel(&mut strain, &mut at, 60, Vitals::default()), Some(DrainCause::LowMemory));
        let little = Vitals { free_bytes: 100 << 20, ..well() };
        assert_eq!(feel(&mut strain, &mut at, 600, little), Some(DrainCause::LowMemory));
        assert_eq!(feel(&mut strain, &mut at, 600, well()), None);
    }

    #[test]
    fn the_owner_says_what_it_bears() {
        let limits = Limits { hot_dc: 600, empty_percent: 90 };
        let feel_for = |strain: &mut Strain, from_s: u64, n_s: u64, vitals: Vitals| {
            let seconds = from_s..=from_s + n_s;
            seconds.map(|at| strain.feel(&vitals, &limits, Duration::from_secs(at))).last()
        };
        let warm = Vitals { temperature_dc: Some(600), ..well() };
        let mut strain = Strain::default();
        assert_eq!(feel_for(&mut strain, 0, 10, warm), Some(Some(DrainCause::Hot)));
        let cool = Vitals { temperature_dc: Some(451), ..well() };
        assert_eq!(feel_for(&mut strain, 20, 300, cool), Some(Some(DrainCause::Hot)));
        let cool = Vitals { temperature_dc: Some(450), ..well() };
        assert_eq!(feel_for(&mut strain, 400, 120, cool), Some(None));
        let mut strain = Strain::default();
        let cool_at = |percent| Vitals { temperature_dc: None, ..battery(percent, false) };
        assert_eq!(feel_for(&mut strain, 0, 10, cool_at(89)), Some(Some(DrainCause::LowBattery)));
        assert_eq!(feel_for(&mut strain, 20, 120, cool_at(95)), Some(None), "it can be left");
    }
}
