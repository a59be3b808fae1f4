//! Trees as phones and computers show them, and such as no system should.

use super::*;

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    dir
}

const MEMINFO: &str = "MemTotal:  4000000 kB\nMemFree: 1 kB\nMemAvailable:  1000000 kB\n";

#[test]
fn a_phone_tells_what_it_may() {
    let dir = tree(&[
        ("proc/meminfo", MEMINFO),
        ("proc/self/stat", "7 (a) b) R 1 1 1 0 -1 0 0 0 0 0 100 20 0 0"),
        ("sys/class/thermal/thermal_zone0/type", "battery\n"),
        ("sys/class/thermal/thermal_zone0/temp", "99000\n"),
        ("sys/class/thermal/thermal_zone1/type", "cpu-1-0-usr\n"),
        ("sys/class/thermal/thermal_zone1/temp", "51234\n"),
        ("sys/class/thermal/thermal_zone2/type", "cpu-1-1-usr\n"),
        ("sys/class/thermal/thermal_zone2/temp", "-274000\n"),
        ("sys/class/power_supply/usb/type", "USB\n"),
        ("sys/class/power_supply/battery/type", "Battery\n"),
        ("sys/class/power_supply/battery/capacity", "83\n"),
        ("sys/class/power_supply/battery/status", "Discharging\n"),
    ]);
    let mut sampler = Sampler::at(dir.path(), true);
    let vitals = sampler.sample(&[]);
    assert_eq!(vitals.load_percent, None, "one sample makes no difference");
    assert_eq!(vitals.free_bytes, (1_000_000 - 400_000) * 1024);
    assert_eq!(vitals.temperature_dc, Some(512));
    assert_eq!(vitals.battery, Some(Battery { percent: 83, is_charging: false }));
    assert!(sampler.sample(&[]).load_percent.is_some_and(|load| load <= 100));
}

#[test]
fn load_is_what_became_busy_between_samples() {
    let dir = tree(&[("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1\n")]);
    let mut sampler = Sampler::at(dir.path(), false);
    assert_eq!(sampler.sample(&[]).load_percent, None);
    fs::write(dir.path().join("proc/stat"), "cpu  120 5 105 850 20 0 0 0 9 9\n").expect("a file");
    assert_eq!(sampler.sample(&[]).load_percent, Some(30), "30 of 100 ticks");
    fs::write(dir.path().join("proc/stat"), "cpu  1 0 1 1 0 0 0 0\n").expect("a file");
    assert_eq!(sampler.sample(&[]).load_percent, None, "time ran backwards");
}

#[test]
fn an_empty_device_tells_nothing() {
    let dir = tree(&[]);
    assert_eq!(Sampler::at(dir.path(), true).sample(&[]), Vitals::default());
}

#[test]
fn runners_work_for_their_node() {
    let dir = tree(&[
        ("proc/self/stat", "7 (a) R 1 1 1 0 -1 0 0 0 0 0 100 20 0 0"),
        ("proc/8/stat", "8 (b) R 7 1 1 0 -1 0 0 0 0 0 40 10 0 0"),
    ]);
    let mut sampler = Sampler::at(dir.path(), true);
    sampler.sample(&[8, 9]);
    assert_eq!(sampler.own.map(|(_, ticks)| ticks), Some(170), "9 is gone");
}

#[test]
fn odd_content_is_no_vital_sign() {
    for odd in
        ["", "\n", "-", "99999999999999999999999", "NaN", "cpu ", "cpu x", ") ", "\u{fffd}\0"]
    {
        let dir = tree(&[
            ("proc/meminfo", odd),
            ("proc/stat", odd),
            ("proc/loadavg", odd),
            ("proc/self/stat", odd),
            ("sys/class/thermal/thermal_zone0/type", "cpu"),
            ("sys/class/thermal/thermal_zone0/temp", odd),
            ("sys/class/power_supply/battery/type", "Battery"),
            ("sys/class/power_supply/battery/capacity", odd),
        ]);
        let mut sampler = Sampler::at(dir.path(), false);
        let vitals = sampler.sample(&[]);
        assert_eq!((vitals.free_bytes, vitals.temperature_dc, vitals.battery), (0, None, None));
        // A huge load average is a number all the same.
        assert!(vitals.load_percent.is_none_or(|load| load == 100), "{odd:?}: {vitals:?}");
    }
}

#[test]
fn temperatures_come_in_three_units() {
    for (text, expected) in [
        ("45500", Some(455)),
        ("455", Some(455)),
        ("45", Some(450)),
        ("-5000", Some(-50)),
        ("0", None),
        ("200000", None),
        ("-40000", None),
    ] {
        assert_eq!(temperature_dc(text), expected, "{text}");
    }
}

#[test]
fn reads_what_termux_prints() {
    let text = "{\n  \"health\": \"GOOD\",\n  \"percentage\": 64,\n  \"plugged\": \"PLUGGED_AC\",\n  \
                \"status\": \"CHARGING\",\n  \"temperature\": 30.1\n}\n";
    assert_eq!(termux_battery(text), Some(Battery { percent: 64, is_charging: true }));
    let text = text.replace("PLUGGED_AC", "UNPLUGGED").replace("CHARGING", "DISCHARGING");
    assert_eq!(termux_battery(&text), Some(Battery { percent: 64, is_charging: false }));
    assert_eq!(termux_battery("{}"), None);
    assert_eq!(termux_battery("\"percentage\": 640"), None);
}

#[test]
fn the_margin_is_never_given_away() {
    let poor = "MemTotal: 1000000 kB\nMemAvailable: 200000 kB\n";
    assert_eq!(free_bytes(poor, true), Some(0), "256 MiB are kept");
    assert_eq!(free_bytes(poor, false), Some(150_000 * 1024));
}

#[test]
fn a_command_that_hangs_is_ended() {
    assert_eq!(run_briefly("yes", Duration::from_millis(1)), None);
    assert_eq!(run_briefly("no-such-command-anywhere", Duration::from_secs(1)), None);
}
