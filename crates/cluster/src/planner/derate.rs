//! How much of its speed a device should be planned with, by how it feels.

/// Skin temperature from which Android itself begins to throttle visibly, in °C.
const WARM_SKIN: f32 = 40.0;
/// Skin temperature at which a phone is unpleasant to hold and throttles hard, in °C.
const HOT_SKIN: f32 = 45.0;
/// Temperature of a processor that will soon lower its clock, in °C.
const WARM_CPU: f32 = 70.0;
/// Temperature of a processor that lowers its clock, in °C.
const HOT_CPU: f32 = 80.0;
/// A battery below this, in percent, belongs to its owner.
const LOW_BATTERY: u8 = 20;

/// Returns the share of a device's measured speed that plans should count on, in `(0, 1]`.
///
/// - `skin_celsius`, `cpu_celsius`: temperatures, where the device tells them
/// - `battery`: charge in percent, and whether it is charging; none for a device without a battery
///
/// The worse of heat and battery counts, so that a phone that is both is not punished twice:
///
/// | | share |
/// |---|---|
/// | skin ≥ 45 °C or processor ≥ 80 °C | 0.5 |
/// | skin ≥ 40 °C or processor ≥ 70 °C | 0.8 |
/// | battery < 20 %, not charging | 0.25 |
/// | battery ≥ 20 %, not charging | 0.8 |
/// | otherwise | 1.0 |
///
/// The thresholds have no hysteresis: who plans decides when a change is worth a new plan.
pub fn derate(
    skin_celsius: Option<f32>,
    cpu_celsius: Option<f32>,
    battery: Option<(u8, bool)>,
) -> f64 {
    let at_least = |value: Option<f32>, limit: f32| value.is_some_and(|value| value >= limit);
    let heat = if at_least(skin_celsius, HOT_SKIN) || at_least(cpu_celsius, HOT_CPU) {
        0.5
    } else if at_least(skin_celsius, WARM_SKIN) || at_least(cpu_celsius, WARM_CPU) {
        0.8
    } else {
        1.0
    };
    let power = match battery {
        Some((percent, false)) if percent < LOW_BATTERY => 0.25,
        Some((_, false)) => 0.8,
        Some((_, true)) | None => 1.0,
    };
    f64::min(heat, power)
}

#[cfg(test)]
mod tests {
    use super::derate;

    #[test]
    fn hot_low_or_unplugged_devices_get_less() {
        assert_eq!(derate(None, None, None), 1.0);
        assert_eq!(derate(Some(30.0), Some(50.0), Some((15, true))), 1.0);
        assert_eq!(derate(None, None, Some((90, false))), 0.8);
        assert_eq!(derate(None, None, Some((20, false))), 0.8);
        assert_eq!(derate(None, None, Some((19, false))), 0.25);
        assert_eq!(derate(Some(40.0), None, None), 0.8);
        assert_eq!(derate(Some(45.0), None, Some((90, false))), 0.5);
        assert_eq!(derate(None, Some(80.0), Some((90, true))), 0.5);
        assert_eq!(derate(Some(50.0), None, Some((5, false))), 0.25);
        assert_eq!(derate(Some(f32::NAN), None, None), 1.0);
    }
}
