//! Taking files from elsewhere into the store.

use std::os::unix::fs::MetadataExt as _;

use super::*;

fn split_gguf(fixture: &Fixture, dir: &str, count: u32) -> PathBuf {
    for no in 0..count {
        let mut bytes = Vec::new();
        let (mut writer, data) = (Writer::new(), [0; 16]);
        writer = writer.metadata("split.count", count).metadata("split.no", no);
        writer = writer.metadata("split.tensors.count", count);
        writer.tensor(format!("t{no}"), TensorType::F32, &[4], &data).write(&mut bytes).unwrap();
        fixture.write(&format!("{dir}/big-{:05}-of-{count:05}.gguf", no + 1), &bytes);
    }
    fixture.root.path().join(format!("{dir}/big-00002-of-{count:05}.gguf"))
}

#[test]
fn a_file_on_the_same_file_system_is_linked() {
    let fixture = Fixture::new();
    let bytes = gguf("m");
    let file = fixture.write("elsewhere/m.Q4_0.gguf", &bytes);
    let mut last = (0, 0);
    let imported = fixture.store.import(&file, None, &mut |n, total| last = (n, total)).unwrap();
    assert_eq!((imported.way, imported.model.name.as_str()), (ImportWay::Link, "m.Q4_0"));
    assert_eq!(last, (bytes.len() as u64, bytes.len() as u64));
    let (here, there) = (&imported.model.files[0], fs::metadata(&file).unwrap());
    assert_eq!(fs::metadata(&here.path).unwrap().ino(), there.ino());
    assert_eq!((here.id, &imported.model.state), (Some(id(&bytes)), &ModelState::Whole));
    assert_eq!(fixture.store.hashes(here).unwrap().hashes, chunk_hashes(&bytes));

    let again = fixture.store.import(&file, None, &mut |_, _| {}).unwrap();
    assert_eq!(again.model.dir, imported.model.dir, "it is there already");
    assert_eq!(names(&fixture.store), ["m.Q4_0"]);
    let other = fixture.write("elsewhere/other.gguf", &gguf("other"));
    let error = fixture.store.import(&other, Some("m.Q4_0"), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, StoreError::OtherVersion { .. }), "{error}");
    let on_disk = |name| fs::metadata(imported.model.dir.join(name)).unwrap().blocks() * 512;
    let n_bytes = on_disk("m.Q4_0.gguf.chunks");
    let removed = fixture.store.remove("m.Q4_0").unwrap();
    assert!(file.exists());
    assert_eq!(removed.n_bytes, n_bytes, "a second name frees nothing");
    assert_eq!(fs::read_dir(fixture.store.dir()).unwrap().count(), 0, "nothing is left over");
}

#[test]
fn a_download_that_was_begun_is_completed() {
    let fixture = Fixture::new();
    let bytes = gguf("m");
    let mut model = model(NAME, &[("m.gguf", &bytes)]);
    model.files[0].origin =
        Some(shoal_proto::model::FileOrigin::Url("https://example.com/m".to_owned()));
    let dir = fixture.store.create(&model).unwrap();
    let partial = Partial::open(&dir, &model.files[0]).unwrap();
    let file = fixture.write("elsewhere/m.gguf", &bytes);
    let import = || fixture.store.import(&file, Some(NAME), &mut |_, _| {});
    assert!(matches!(import(), Err(StoreError::Busy { .. })));
    drop(partial);
    let imported = import().unwrap().model;
    assert_eq!((imported.state, imported.manifest), (ModelState::Whole, Some(model)));
    let entries = own::entries(&dir).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    assert_eq!(entries, ["m.gguf", "m.gguf.chunks", "shoal.json"]);
}

#[test]
fn a_part_stands_for_all() {
    let fixture = Fixture::new();
    let part = split_gguf(&fixture, "elsewhere", 3);
    let imported = fixture.store.import(&part, Some("owner/big:Q8_0"), &mut |_, _| {}).unwrap();
    assert_eq!(imported.model.dir, fixture.dir("owner/big:Q8_0"));
    assert_eq!(imported.model.files.len(), 3);
    shoal_gguf::Gguf::open(&imported.model.files[0].path).unwrap();
    fs::remove_file(part.with_file_name("big-00003-of-00003.gguf")).unwrap();
    let error = fixture.store.import(&part, Some("n"), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, StoreError::NoModel { .. }), "{error}");
}

#[test]
fn what_is_no_model_is_refused() {
    let fixture = Fixture::new();
    let file = fixture.write("elsewhere/m.gguf", b"not a model");
    let error = fixture.store.import(&file, None, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, StoreError::NoModel { .. }), "{error}");
    let file = fixture.write("elsewhere/m.gguf", &gguf("m"));
    let error = fixture.store.import(&file, Some("a\nb"), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    assert_eq!(fs::read_dir(fixture.store.dir()).unwrap().count(), 0, "nothing is left over");
}

/// A directory on another file system than the temporary directory's, if this machine has one that can be written to.
fn other_file_system(than: &Path) -> Option<TempDir> {
    let device = fs::metadata(than).unwrap().dev();
    let candidates = ["/dev/shm", "/var/tmp", "/run"];
    let is_other = |path: &&&str| fs::metadata(path).is_ok_and(|there| there.dev() != device);
    candidates.iter().filter(is_other).find_map(|path| tempfile::tempdir_in(path).ok())
}

#[test]
fn a_file_on_another_file_system_is_copied_if_it_fits() {
    let fixture = Fixture::new();
    let Some(other) = other_file_system(fixture.root.path()) else {
        println!("not shown: there is no second file system here");
        return;
    };
    let (bytes, file) = (gguf("m"), other.path().join("m.gguf"));
    fs::write(&file, &bytes).unwrap();
    let imported = fixture.store.import(&file, None, &mut |_, _| {}).unwrap();
    assert_eq!(imported.way, ImportWay::Copy);
    assert_eq!(fs::read(&imported.model.files[0].path).unwrap(), bytes);
    assert!(fixture.store.verify("m", false, &mut |_, _| {}).unwrap().is_good());

    let config =
        StoreConfig { dir: fixture.root.path().join("full"), hf_cache: None, ollama: None };
    let measure = Measure(Arc::new(|_| Ok(Space { total: 10_000, available: 500 })));
    let full = Store::open_with(config, measure).unwrap();
    let error = full.import(&file, None, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, StoreError::Full { free: 0, reserve: 500, .. }), "{error}");
    assert_eq!(fs::read_dir(full.dir()).unwrap().count(), 0, "nothing is left over");
}
