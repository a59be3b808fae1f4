//! When a device suffers so much that it should give its layers away: by heat, by its battery, by its memory.

use std::time::Duration;

use shoal_proto::control::{DrainCause, Vitals};

use crate::Time;

/// Temperature of a processor at which phones shut down soon, in tenths of a degree. Full load alone brings many to 80.
const HOT_DC: i16 = 950;
/// Temperature at which it has cooled down.
const COOL_DC: i16 = 800;
/// Charge in percent below which the rest belongs to its owner, unless it is plugged in.
const EMPTY_PERCENT: u8 = 10;
/// Charge from which it helps again without being plugged in.
const CHARGED_PERCENT: u8 = 25;
/// Memory in bytes below which its system begins to kill; the margin that vital signs keep is gone by then too.
const TIGHT_BYTES: u64 = 1;
/// Memory with which it is well again.
const ROOMY_BYTES: u64 = 512 << 20;
/// How long it has to suffer: one sample of a sensor is no sign, and a program that starts takes memory for a moment.
const SUFFERS_FOR: Duration = Duration::from_secs(10);
/// How long it has to be well again: layers that leave take its load with them, and it would be well at once.
const WELL_FOR: Duration = Duration::from_secs(120);

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
    pub fn feel(&mut self, vitals: &Vitals, now: Time) -> Option<DrainCause> {
        // A device that has not looked yet says nothing.
        if *vitals == Vitals::default() {
            return self.cause;
        }
        match self.cause {
            None => self.cause = self.sufficient(suffers_from(vitals), now),
            Some(cause) if suffers_from(vitals).is_some() || !is_well(cause, vitals) => {
                self.well_since = None;
            }
            Some(_) => {
                let since = *self.well_since.get_or_insert(now);
                if now.saturating_sub(since) >= WELL_FOR {
                    *self = Self::default();
                }
            }
        }
        self.cause
    }

    fn sufficient(&mut self, from: Option<DrainCause>, now: Time) -> Option<DrainCause> {
        let since = self.suffers.filter(|(cause, _)| Some(*cause) == from);
        self.suffers = from.map(|cause| (cause, since.map_or(now, |(_, since)| since)));
        let (cause, since) = self.suffers?;
        (now.saturating_sub(since) >= SUFFERS_FOR).then_some(cause)
    }
}

/// The worst that a device suffers from.
fn suffers_from(vitals: &Vitals) -> Option<DrainCause> {
    if vitals.free_bytes < TIGHT_BYTES {
        Some(DrainCause::LowMemory)
    } else if vitals.temperature_dc.is_some_and(|it| it >= HOT_DC) {
        Some(DrainCause::Hot)
    } else if vitals.battery.is_some_and(|it| it.percent < EMPTY_PERCENT && !it.is_charging) {
        Some(DrainCause::LowBattery)
    } else {
        None
    }
}

/// Whether a device has recovered from a cause.
fn is_well(cause: DrainCause, vitals: &Vitals) -> bool {
    match cause {
        DrainCause::Hot => vitals.temperature_dc.is_none_or(|it| it <= COOL_DC),
        DrainCause::LowBattery => {
            vitals.battery.is_none_or(|it| it.is_charging || it.percent >= CHARGED_PERCENT)
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
            said = strain.feel(&vitals, Duration::from_secs(*at));
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
}
