//! The store on directories that each test writes.

use std::io::{Seek as _, Write as _};

use shoal_gguf::{TensorType, Writer};
use shoal_proto::model::CHUNK_BYTES;
use tempfile::TempDir;

use super::*;
use crate::partial::{ChunkSource, Partial};

mod caches;
mod crashes;
mod import;
mod verify;

/// A store in a directory of its own, with caches beside it.
struct Fixture {
    root: TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        Self { root, store }
    }

    /// Where the model of that name belongs.
    fn dir(&self, name: &str) -> PathBuf {
        self.store.dir().join(slug(name))
    }

    /// The store as another process, or this one after a crash, would see it.
    fn reopened(&self) -> Store {
        open(self.root.path())
    }

    /// Writes a file and the directories that lead to it.
    fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Puts a model into the store as a download does.
    fn download(&self, name: &str, files: &[(&str, &[u8])]) -> ModelFiles {
        let model = model(name, files);
        let dir = self.store.create(&model).unwrap();
        for (file, (_, bytes)) in model.files.iter().zip(files) {
            part(&dir, file, bytes, file.id.n_chunks());
            self.store.finish_file(&model, file, &chunk_hashes(bytes), true).unwrap();
        }
        model
    }
}

fn open(root: &Path) -> Store {
    let config = StoreConfig {
        dir: root.join("models"),
        hf_cache: Some(root.join("hub")),
        ollama: Some(root.join("ollama")),
    };
    Store::open(config).unwrap()
}

/// Bytes of so many chunks and a bit, none like the other.
fn content(n_chunks: usize, seed: u8) -> Vec<u8> {
    let n_bytes = n_chunks * CHUNK_BYTES as usize + 77;
    let mut bytes = vec![0; n_bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn gguf(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let writer = Writer::new().metadata("general.name", name.to_owned());
    writer.tensor("t", TensorType::F32, &[4], &[1; 16]).write(&mut bytes).unwrap();
    bytes
}

fn chunk_hashes(bytes: &[u8]) -> Vec<[u8; 32]> {
    bytes.chunks(CHUNK_BYTES as usize).map(|chunk| *blake3::hash(chunk).as_bytes()).collect()
}

fn id(bytes: &[u8]) -> FileId {
    hashes::hash(bytes, std::io::sink(), &mut |_| {}).unwrap().id()
}

fn hex(id: &FileId) -> String {
    id.digest.to_string().split_off("sha256:".len())
}

fn model(name: &str, files: &[(&str, &[u8])]) -> ModelFiles {
    let file = |(name, bytes): &(&str, &[u8])| FileRef {
        name: (*name).to_owned(),
        id: id(bytes),
        origin: None,
    };
    ModelFiles { name: name.to_owned(), files: files.iter().map(file).collect() }
}

/// Writes the first chunks of a file as a download does.
fn part(dir: &Path, file: &FileRef, bytes: &[u8], n_chunks: u32) {
    let partial = Partial::open(dir, file).unwrap();
    for (chunk, bytes) in (0..n_chunks).zip(bytes.chunks(CHUNK_BYTES as usize)) {
        partial.write(chunk, bytes, *blake3::hash(bytes).as_bytes(), ChunkSource::Hub).unwrap();
    }
    partial.seal().unwrap();
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(std::io::SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

fn names(store: &Store) -> Vec<String> {
    store.list().into_iter().map(|model| model.name).collect()
}

#[track_caller]
fn damage(model: &StoredModel) -> &str {
    match &model.state {
        ModelState::Damaged { what } => what,
        state => panic!("expected damage, got {state:?}"),
    }
}

const NAME: &str = "owner/repo-GGUF:Q4_K_M";

#[test]
fn a_download_is_partial_until_every_file_is_finished() {
    let fixture = Fixture::new();
    let (a, b) = (content(3, 1), content(1, 2));
    let model = model(NAME, &[("a.gguf", &a), ("b.gguf", &b)]);
    let dir = fixture.store.create(&model).unwrap();
    assert_eq!(dir, fixture.dir(NAME));
    assert_eq!(fixture.store.create(&model).unwrap(), dir, "again is fine");
    let n_total = model.n_bytes();
    let state = || fixture.store.find(NAME).unwrap().state;
    assert_eq!(state(), ModelState::Partial { n_bytes: 0, n_total });

    part(&dir, &model.files[0], &a, 2);
    assert_eq!(state(), ModelState::Partial { n_bytes: 2 * CHUNK_BYTES, n_total });
    part(&dir, &model.files[0], &a, 4);
    assert_eq!(state(), ModelState::Partial { n_bytes: a.len() as u64, n_total });
    fixture.store.finish_file(&model, &model.files[0], &chunk_hashes(&a), true).unwrap();
    part(&dir, &model.files[1], &b, 2);
    fixture.store.finish_file(&model, &model.files[1], &chunk_hashes(&b), false).unwrap();

    let found = fixture.reopened().find(NAME).unwrap();
    assert_eq!((&found.state, found.manifest.as_ref()), (&ModelState::Whole, Some(&model)));
    assert_eq!(fs::read(&found.files[0].path).unwrap(), a);
    assert!(found.n_bytes_on_disk >= n_total);
    let manifest = Manifest::read(&dir).unwrap().unwrap();
    assert_eq!(manifest.checked.keys().collect::<Vec<_>>(), ["a.gguf"]);
    let file = fixture.store.find_file(&model.files[0].id).unwrap();
    assert_eq!(fixture.store.hashes(&file).unwrap().hashes, chunk_hashes(&a));
}

#[test]
fn a_sparse_file_counts_what_it_occupies() {
    let fixture = Fixture::new();
    let bytes = content(16, 1);
    let model = model(NAME, &[("a.gguf", &bytes)]);
    let dir = fixture.store.create(&model).unwrap();
    part(&dir, &model.files[0], &bytes, 1);
    let found = fixture.store.find(NAME).unwrap();
    assert!((CHUNK_BYTES..4 * CHUNK_BYTES).contains(&found.n_bytes_on_disk), "{found:?}");
}

#[test]
fn another_version_of_a_model_is_not_mixed_with_the_first() {
    let fixture = Fixture::new();
    fixture.download(NAME, &[("a.gguf", &content(0, 1))]);
    let error = fixture.store.create(&model(NAME, &[("a.gguf", &content(0, 2))])).unwrap_err();
    assert!(matches!(error, StoreError::OtherVersion { .. }), "{error}");
}

#[test]
fn a_file_copied_by_hand_is_not_fetched_again() {
    let fixture = Fixture::new();
    let bytes = gguf("m");
    fixture.write(&format!("models/{}/a.gguf", slug(NAME)), &bytes);
    let other = model(NAME, &[("a.gguf", &content(0, 1))]);
    assert!(matches!(fixture.store.create(&other), Err(StoreError::OtherVersion { .. })));
    let same = model(NAME, &[("a.gguf", &bytes)]);
    fixture.store.create(&same).unwrap();
    assert_eq!(fixture.store.find(NAME).unwrap().state, ModelState::Whole);
}

#[test]
fn models_that_lead_out_of_their_directory_are_refused() {
    let fixture = Fixture::new();
    let check = |name: &str, files: &[(&str, &[u8])]| {
        let error = fixture.store.create(&model(name, files)).unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "{name:?} {files:?}: {error}");
    };
    let b: &[u8] = b"x";
    for file in ["../a.gguf", "a/b", ".lock", "shoal.json", "a.part", "a.Journal", "a.chunks"] {
        check(NAME, &[(file, b)]);
    }
    check(NAME, &[("a.gguf", b), ("A.GGUF", b)]);
    check(NAME, &[]);
    check("", &[("a.gguf", b)]);
    check("a\nb", &[("a.gguf", b)]);
    fixture.store.create(&model("../../x", &[("a.gguf", b)])).unwrap();
    assert!(!fixture.root.path().join("x").exists(), "a name is one directory, whatever it is");
    assert_eq!(names(&fixture.store), ["../../x"]);
}

#[test]
fn names_are_found_whatever_their_case() {
    let fixture = Fixture::new();
    for name in ["Owner/Repo:Q4", "owner/repo:Q4", "other"] {
        fixture.download(name, &[("a.gguf", &content(0, 1))]);
    }
    let found = |name: &str| fixture.store.find(name).map(|model| model.name);
    assert_eq!(found("OTHER").as_deref(), Some("other"));
    assert_eq!(found("owner/repo:Q4").as_deref(), Some("owner/repo:Q4"));
    assert_eq!(found("OWNER/REPO:Q4"), None, "it could be either");
    assert_eq!(found("nothing"), None);
}

#[test]
fn whatever_lies_in_the_directory_is_a_model() {
    let fixture = Fixture::new();
    let write = |path: &str| fixture.write(&format!("models/{path}"), &gguf(path));
    write("loose.gguf");
    write("big-00001-of-00002.gguf");
    write("big-00002-of-00002.gguf");
    write("my-own/anything.gguf");
    write("my-own/mmproj-anything.gguf");
    write("owner--repo--Q8_0/x-00001-of-00003.gguf");
    write("pair/m-Q4_K_M.gguf");
    write("pair/m-q8_0.gguf");
    fixture.write("models/pictures/cat.jpg", b"meow");
    fs::create_dir(fixture.store.dir().join("empty")).unwrap();
    let expected = ["big", "loose", "my-own", "owner/repo:Q8_0", "pair:Q4_K_M", "pair:Q8_0"];
    assert_eq!(names(&fixture.store), expected);
    assert_eq!(fixture.store.find("big").unwrap().files.len(), 2);
    let broken = fixture.store.find("owner/repo:Q8_0").unwrap();
    assert_eq!(damage(&broken), "x: part 2 of 3 is missing");

    let own = fixture.store.find("my-own").unwrap();
    assert_eq!((own.files.len(), own.files[0].id, &own.manifest), (1, None, &None));
    let hashes = fixture.store.hashes(&own.files[0]).unwrap();
    let again = fixture.reopened().find("my-own").unwrap();
    assert_eq!(again.files[0].id, Some(hashes.id), "it was read once");
    assert!(again.manifest.is_some() && fixture.store.find_file(&hashes.id).is_some());
    fs::write(&own.files[0].path, gguf("changed by its owner")).unwrap();
    assert_eq!(fixture.store.find("my-own").unwrap().files[0].id, None, "it is another file now");
}

#[test]
fn a_copied_directory_works_elsewhere() {
    let (one, two) = (Fixture::new(), Fixture::new());
    let bytes = content(2, 1);
    let model = one.download(NAME, &[("a.gguf", &bytes)]);
    let target = two.store.dir().join("under another name");
    fs::create_dir(&target).unwrap();
    for (name, path, _) in own::entries(&one.dir(NAME)) {
        fs::copy(path, target.join(name)).unwrap();
    }
    let found = two.store.find(NAME).unwrap();
    assert_eq!((&found.state, &found.dir), (&ModelState::Whole, &target));
    assert_eq!(found.manifest.unwrap(), model);
    assert_eq!(two.store.create(&model).unwrap(), target);
    let file = two.store.find_file(&model.files[0].id).unwrap();
    assert_eq!(two.store.hashes(&file).unwrap().hashes, chunk_hashes(&bytes));
    assert!(!two.store.dir().join(INDEX).exists(), "nothing was computed");
}

#[test]
fn a_damaged_manifest_is_shown_and_can_be_removed() {
    let check = |bytes: &[u8], expected: &str| {
        let fixture = Fixture::new();
        fixture.download(NAME, &[("a.gguf", &content(0, 1))]);
        fs::write(fixture.dir(NAME).join(MANIFEST), bytes).unwrap();
        let found = fixture.store.find(NAME).unwrap();
        assert!(damage(&found).contains(expected), "{found:?}");
        assert!(fixture.store.remove(NAME).unwrap().n_bytes > 0);
        assert!(names(&fixture.store).is_empty() && !fixture.dir(NAME).exists());
    };
    check(b"", "not a manifest");
    check(b"{\"version\": 2, \"new\": true}", "expected version 1, got 2");
    check(br#"{"version":1,"model":{"name":"m","files":[]}}"#, "expected 1 to 256 files, got 0");
    let path = r#"{"version":1,"model":{"name":"m","files":[{"name":"../x","id":"#;
    let id =
        format!(r#"{{"digest":"sha256:{}","n_bytes":1}},"origin":null}}]}}}}"#, "0".repeat(64));
    check(format!("{path}{id}").as_bytes(), "expected a plain file name");
    check(&vec![b' '; (1 << 20) + 1], "expected at most 1048576 bytes");
}

#[test]
fn a_file_of_the_wrong_length_is_shown() {
    let fixture = Fixture::new();
    fixture.download(NAME, &[("a.gguf", &content(0, 1))]);
    fs::File::options()
        .write(true)
        .open(fixture.dir(NAME).join("a.gguf"))
        .unwrap()
        .set_len(5)
        .unwrap();
    let found = fixture.store.find(NAME).unwrap();
    assert!(damage(&found).ends_with("a.gguf: expected 77 bytes, got 5"), "{found:?}");
}

#[test]
fn a_damaged_list_of_chunks_is_computed_anew() {
    let fixture = Fixture::new();
    let bytes = content(2, 1);
    let model = fixture.download(NAME, &[("a.gguf", &bytes)]);
    let list = fixture.dir(NAME).join("a.gguf.chunks");
    let good = fs::read(&list).unwrap();
    let file = fixture.store.find_file(&model.files[0].id).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&list, &bad).unwrap();
        assert!(hashes::read_beside(&file.path, &model.files[0].id).is_err(), "byte {at}");
        assert_eq!(fixture.store.hashes(&file).unwrap().hashes, chunk_hashes(&bytes));
    }
    fs::write(&list, &good[..good.len() - 1]).unwrap();
    overwrite(&file.path, 5, b"damage");
    let error = fixture.store.hashes(&file).unwrap_err().to_string();
    assert!(error.contains("expected sha256:"), "nobody is given hashes of damaged bytes: {error}");
}

#[test]
fn removing_frees_what_the_model_took_and_nothing_else() {
    let fixture = Fixture::new();
    let bytes = content(4, 1);
    let model = fixture.download(NAME, &[("a.gguf", &bytes), ("b.gguf", &bytes)]);
    let note = fixture.write(&format!("models/{}/notes.txt", slug(NAME)), b"mine");
    let report = fixture.store.remove(&NAME.to_lowercase()).unwrap();
    assert_eq!(report.left, [note.canonicalize().unwrap()]);
    assert!(report.n_bytes >= model.n_bytes(), "{report:?}");
    assert!(fixture.store.list().is_empty());
    assert!(matches!(fixture.store.remove(NAME), Err(StoreError::Unknown { .. })));

    fixture.write("models/loose.gguf", b"x");
    fixture.write("models/pair/m-Q4_0.gguf", b"x");
    fixture.write("models/pair/m-Q8_0.gguf", b"x");
    fixture.store.remove("loose").unwrap();
    fixture.store.remove("pair:Q8_0").unwrap();
    assert_eq!(names(&fixture.store), ["pair"], "what is alone needs no more than that");
}

#[test]
fn removing_a_link_leaves_what_it_leads_to() {
    let fixture = Fixture::new();
    let file = fixture.write("elsewhere/m/m.gguf", b"x");
    let link = fixture.store.dir().join("linked");
    std::os::unix::fs::symlink(file.parent().unwrap(), &link).unwrap();
    assert_eq!(fixture.store.find("linked").unwrap().files.len(), 1);
    fixture.store.remove("linked").unwrap();
    assert!(file.exists() && fs::symlink_metadata(link).is_err());
}

#[test]
fn a_partial_file_that_nobody_describes_is_shown_and_can_be_removed() {
    let fixture = Fixture::new();
    fixture.write("models/m/a.gguf.part", b"x");
    fixture.write("models/m/a.gguf.journal", b"x");
    fixture.write("models/loose.gguf", b"x");
    let found = fixture.store.find("m").unwrap();
    assert_eq!(damage(&found), "a.gguf.journal is partial, and no manifest says of what");
    fixture.store.remove("m").unwrap();
    assert_eq!(names(&fixture.store), ["loose"]);
    assert!(!fixture.store.dir().join("m").exists());
}

#[test]
fn a_model_that_is_being_downloaded_is_not_removed() {
    let fixture = Fixture::new();
    let bytes = content(2, 1);
    let model = model(NAME, &[("a.gguf", &bytes)]);
    let dir = fixture.store.create(&model).unwrap();
    let partial = Partial::open(&dir, &model.files[0]).unwrap();
    assert!(matches!(fixture.store.remove(NAME), Err(StoreError::Busy { .. })));
    drop(partial);
    let lock = DirLock::take(&dir, NAME).unwrap();
    assert!(matches!(fixture.store.remove(NAME), Err(StoreError::Busy { .. })));
    assert!(matches!(fixture.store.create(&model), Err(StoreError::Busy { .. })));
    drop(lock);
    fixture.store.remove(NAME).unwrap();
    assert!(!dir.exists());
}

#[test]
fn a_part_of_the_disk_is_left_to_the_system() {
    let space = |total: u64, available: u64| Space { total, available };
    assert_eq!(space(1000, 500).free(), 450);
    assert_eq!(space(128 << 30, 1 << 30).reserve(), 500 << 20);
    assert_eq!(space(1000, 20).free(), 0);
    let root = tempfile::tempdir().unwrap();
    let config = StoreConfig { dir: root.path().join("models"), hf_cache: None, ollama: None };
    let measure = Measure(Arc::new(|_| Ok(Space { total: 1000, available: 150 })));
    let store = Store::open_with(config, measure).unwrap();
    store.check_space(100).unwrap();
    let error = store.check_space(101).unwrap_err();
    let expected = "expected 101 bytes of free space, got 100 (besides 50 that the system keeps)";
    assert!(error.to_string().ends_with(expected), "{error}");
    let real = Space::of(root.path()).unwrap();
    assert!(real.total >= real.available && real.total > 0);
}
