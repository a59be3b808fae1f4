//! What a crash leaves at each step, and that the work can be done again from there.

use super::*;

/// A model of one file, all of whose chunks are there.
fn ready() -> (Fixture, ModelFiles, PathBuf, Vec<u8>) {
    let fixture = Fixture::new();
    let bytes = content(2, 1);
    let model = model(NAME, &[("a.gguf", &bytes)]);
    let dir = fixture.store.create(&model).unwrap();
    part(&dir, &model.files[0], &bytes, 3);
    (fixture, model, dir, bytes)
}

/// The state is understood, nothing is lost, and finishing again makes it whole.
#[track_caller]
fn check(crash: impl FnOnce(&Fixture, &Path, &Path), is_whole: bool) {
    let (fixture, model, dir, bytes) = ready();
    // What finishing does, as a reference: the crash is simulated by putting its files into another directory.
    let done = Fixture::new();
    done.download(NAME, &[("a.gguf", &bytes)]);
    crash(&fixture, &dir, &done.dir(NAME));
    let store = fixture.reopened();
    let found = store.find(NAME).unwrap();
    let n_bytes = bytes.len() as u64;
    let partial = ModelState::Partial { n_bytes, n_total: n_bytes };
    assert_eq!(found.state, if is_whole { ModelState::Whole } else { partial });
    assert_eq!(store.find_file(&model.files[0].id).is_some(), is_whole);
    assert_eq!(store.create(&model).unwrap(), dir);
    store.finish_file(&model, &model.files[0], &chunk_hashes(&bytes), true).unwrap();
    let entries = own::entries(&dir).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    assert_eq!(entries, ["a.gguf", "a.gguf.chunks", "shoal.json"]);
    assert_eq!(fs::read(dir.join("a.gguf")).unwrap(), bytes);
    assert!(store.verify(NAME, false, &mut |_, _| {}).unwrap().is_good());
}

#[test]
fn before_anything() {
    check(|_, _, _| {}, false);
}

#[test]
fn while_a_small_file_is_written() {
    check(|_, dir, _| fs::write(dir.join(".new-1-0"), b"half").unwrap(), false);
    check(|_, dir, _| fs::write(dir.join("a.gguf.chunks"), b"half").unwrap(), false);
}

#[test]
fn after_the_list_of_chunks() {
    let crash = |_: &Fixture, dir: &Path, done: &Path| {
        fs::copy(done.join("a.gguf.chunks"), dir.join("a.gguf.chunks")).unwrap();
    };
    check(crash, false);
}

#[test]
fn after_the_manifest() {
    let crash = |_: &Fixture, dir: &Path, done: &Path| {
        fs::copy(done.join("a.gguf.chunks"), dir.join("a.gguf.chunks")).unwrap();
        fs::copy(done.join(MANIFEST), dir.join(MANIFEST)).unwrap();
    };
    check(crash, false);
}

#[test]
fn after_the_rename() {
    let crash = |_: &Fixture, dir: &Path, done: &Path| {
        fs::copy(done.join("a.gguf.chunks"), dir.join("a.gguf.chunks")).unwrap();
        fs::copy(done.join(MANIFEST), dir.join(MANIFEST)).unwrap();
        fs::rename(dir.join("a.gguf.part"), dir.join("a.gguf")).unwrap();
    };
    check(crash, true);
}

#[test]
fn before_the_manifest_of_a_new_model() {
    let fixture = Fixture::new();
    let dir = fixture.dir(NAME);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(".lock"), b"").unwrap();
    fs::write(dir.join(".new-1-0"), b"half").unwrap();
    assert!(fixture.store.list().is_empty(), "nothing was promised yet");
    fixture.download(NAME, &[("a.gguf", &content(0, 1))]);
    assert_eq!(fixture.store.find(NAME).unwrap().state, ModelState::Whole);
    assert!(!dir.join(".new-1-0").exists());
}

#[test]
fn while_a_model_is_removed() {
    let fixture = Fixture::new();
    fixture.download(NAME, &[("a.gguf", &content(0, 1)), ("b.gguf", &content(0, 2))]);
    fs::remove_file(fixture.dir(NAME).join("a.gguf")).unwrap();
    let state = fixture.store.find(NAME).unwrap().state;
    assert_eq!(state, ModelState::Partial { n_bytes: 77, n_total: 154 });
    fixture.store.remove(NAME).unwrap();
    assert!(!fixture.dir(NAME).exists());
}

#[test]
fn while_a_model_is_imported() {
    let fixture = Fixture::new();
    let unfinished = fixture.store.dir().join(".new-import-1-0");
    fixture.write("models/.new-import-1-0/a.gguf", b"half");
    assert!(fixture.store.list().is_empty());
    let lock = DirLock::take(&unfinished, "").unwrap();
    fixture.reopened();
    assert!(unfinished.exists(), "another process is at it");
    drop(lock);
    fixture.reopened();
    assert!(!unfinished.exists());
}

#[test]
fn a_file_is_not_finished_without_its_bytes() {
    let fixture = Fixture::new();
    let bytes = content(1, 1);
    let model = model(NAME, &[("a.gguf", &bytes)]);
    let dir = fixture.store.create(&model).unwrap();
    let finish = |hashes: &[[u8; 32]]| {
        fixture.store.finish_file(&model, &model.files[0], hashes, true).unwrap_err().to_string()
    };
    let hashes = chunk_hashes(&bytes);
    assert!(finish(&hashes).ends_with("a.gguf"), "there is no such file");
    fs::write(dir.join("a.gguf.part"), &bytes[1..]).unwrap();
    assert!(finish(&hashes).ends_with("expected 262221 bytes, got 262220"));
    assert!(finish(&hashes[1..]).ends_with("expected 2 hashes, got 1"));
}
