//! What may be set, what is kept, and who wins.

use shoal_hub::LibraryConfig;

use super::*;

fn config(dir: &std::path::Path) -> Config {
    Config { name: "pixel".into(), data_dir: Some(dir.to_owned()), ..Config::default() }
}

fn value_of(cell: &SettingsCell, setting: Setting) -> SettingValue {
    cell.get().get(setting)
}

#[tokio::test]
async fn changes_are_in_force_and_outlive_the_process() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cell = SettingsCell::load(&config(dir.path()), 1000);
    assert_eq!(value_of(&cell, Setting::Name), SettingValue::Text("pixel".into()));
    let changes = vec![
        (Setting::Name, Some(SettingValue::Text("  kitchen ".into()))),
        (Setting::BatteryFloor, Some(SettingValue::Number(10))),
        (Setting::TemperatureCeiling, Some(SettingValue::Number(80))),
        (Setting::MemoryShare, Some(SettingValue::Number(40))),
        (Setting::DownloadRate, Some(SettingValue::Number(1 << 20))),
    ];
    let new = cell.change(changes).await.expect("in range");
    let names: Vec<&str> = new.iter().map(|(setting, _)| setting.as_str()).collect();
    // The floor is what it was.
    assert_eq!(
        names,
        ["name", "temperature_ceiling_c", "memory_share_percent", "download_bytes_per_s"]
    );
    for cell in [cell, SettingsCell::load(&config(dir.path()), 1000)] {
        assert_eq!(value_of(&cell, Setting::Name), SettingValue::Text("kitchen".into()));
        assert_eq!((cell.get().limits().hot_dc, cell.memory_share()), (800, 400));
        assert_eq!(cell.get().download_bytes_per_s, Some(1 << 20));
        let back = vec![
            (Setting::Name, None),
            (Setting::DownloadRate, Some(SettingValue::Unlimited)),
            (Setting::TemperatureCeiling, Some(SettingValue::Number(80))),
        ];
        let n_new = cell.change(back.clone()).await.expect("in range").len();
        assert_eq!(n_new, 2);
        assert!(cell.change(back).await.expect("in range").is_empty(), "nothing is new");
        cell.change(vec![
            (Setting::Name, Some(SettingValue::Text("kitchen".into()))),
            (Setting::DownloadRate, Some(SettingValue::Number(1 << 20))),
        ])
        .await
        .expect("in range");
    }
}

#[tokio::test]
async fn all_changes_are_made_or_none() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cell = SettingsCell::load(&config(dir.path()), 1000);
    for (setting, value, why) in [
        (
            Setting::BatteryFloor,
            SettingValue::Number(91),
            "battery_floor_percent: expected 0 to 90",
        ),
        (Setting::Parallel, SettingValue::Number(0), "expected 1 to 64, got 0"),
        (Setting::Parallel, SettingValue::Unlimited, "got no limit"),
        (Setting::DownloadRate, SettingValue::Number(1), "expected 16384 to"),
        (Setting::Auto, SettingValue::Number(1), "auto: expected true or false, got 1"),
        (Setting::Name, SettingValue::Switch(true), "name: expected a text"),
        (Setting::Name, SettingValue::Text(" ".into()), "got 0"),
        (Setting::Name, SettingValue::Text("é".repeat(65)), "got 65"),
        (Setting::Name, SettingValue::Text("a\nb".into()), "control characters"),
    ] {
        let other = (Setting::MemoryShare, Some(SettingValue::Number(50)));
        let error = cell.change(vec![other, (setting, Some(value))]).await.expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(cell.get().memory_share_percent, 100);
    assert!(!dir.path().join(FILE).exists());
}

#[tokio::test]
async fn the_command_line_wins() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let free = SettingsCell::load(&config(dir.path()), 0);
    let changes = vec![
        (Setting::Name, Some(SettingValue::Text("kitchen".into()))),
        (Setting::Parallel, Some(SettingValue::Number(3))),
        (Setting::DownloadRate, Some(SettingValue::Number(99_999))),
    ];
    free.change(changes).await.expect("in range");
    let library = LibraryConfig {
        store: shoal_hub::StoreConfig { dir: dir.path().into(), hf_cache: None, ollama: None },
        hub: shoal_hub::HubConfig::default(),
        timing: shoal_hub::DownloadTiming::default(),
        bytes_per_s: Some(77_777),
        cards: None,
    };
    let flags = Config {
        is_name_fixed: true,
        auto: true,
        parallel: Some(200),
        library: Some(library),
        ..config(dir.path())
    };
    let cell = SettingsCell::load(&flags, 0);
    let now = cell.get();
    assert_eq!((now.name.as_str(), now.parallel, now.auto), ("pixel", 200, true));
    assert_eq!(now.download_bytes_per_s, Some(77_777));
    let is_fixed: Vec<bool> = cell.list().iter().map(|status| status.is_fixed).collect();
    assert_eq!(is_fixed, [true, false, false, false, true, true, true]);
    let error = cell.change(vec![(Setting::Name, None)]).await.expect_err("it is fixed");
    assert!(matches!(error, Error::SettingFixed { name: "name" }), "{error}");
    // What the owner said is still there when the flags are gone.
    cell.change(vec![(Setting::BatteryFloor, Some(SettingValue::Number(20)))]).await.expect("free");
    let again = SettingsCell::load(&config(dir.path()), 0).get();
    assert_eq!((again.name.as_str(), again.parallel), ("kitchen", 3));
    assert_eq!(again.battery_floor_percent, 20);
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_in_force() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let gone = dir.path().join("gone");
    let cell = SettingsCell::load(&config(&gone), 0);
    let change = vec![(Setting::Auto, Some(SettingValue::Switch(true)))];
    let error = cell.change(change.clone()).await.expect_err("there is no such directory");
    assert!(matches!(&error, Error::NotKept { path, .. } if *path == gone.join(FILE)), "{error}");
    assert!(!cell.get().auto);
    let homeless = SettingsCell::load(&Config::default(), 0);
    homeless.change(change).await.expect("it needs no disk");
    assert!(homeless.get().auto);
}
