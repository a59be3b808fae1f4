//! Reading models back.

use std::os::unix::fs::MetadataExt as _;

use shoal_proto::ChunkSet;

use super::*;

fn verdict(store: &Store, name: &str, repair: bool) -> Verdict {
    let mut last = (0, 0);
    let report = store.verify(name, repair, &mut |n, total| last = (n, total)).unwrap();
    assert_eq!(last.0, last.1, "progress reaches its end");
    report.files.into_iter().next().unwrap().verdict
}

fn chunks(chunks: &[u32]) -> ChunkSet {
    chunks.iter().copied().collect()
}

#[test]
fn a_damaged_chunk_is_named_and_given_up() {
    let fixture = Fixture::new();
    let bytes = content(4, 1);
    let model = fixture.download(NAME, &[("a.gguf", &bytes)]);
    assert_eq!(verdict(&fixture.store, NAME, true), Verdict::Good);
    let path = fixture.dir(NAME).join("a.gguf");
    overwrite(&path, CHUNK_BYTES + 9, b"damage");
    overwrite(&path, 4 * CHUNK_BYTES, b"damage");
    let wrong = chunks(&[1, 4]);
    let damaged = |repaired| Verdict::Damaged { chunks: wrong.clone(), repaired };
    assert_eq!(verdict(&fixture.store, NAME, false), damaged(false));
    assert_eq!(verdict(&fixture.store, NAME, true), damaged(true));

    let n_bytes = 3 * CHUNK_BYTES;
    let state = ModelState::Partial { n_bytes, n_total: bytes.len() as u64 };
    assert_eq!(fixture.store.find(NAME).unwrap().state, state);
    assert!(fixture.store.find_file(&model.files[0].id).is_none());
    let partial = Partial::open(&fixture.dir(NAME), &model.files[0]).unwrap();
    let mut missing = ChunkSet::all(5);
    missing.subtract(&partial.held());
    assert_eq!(missing, wrong, "exactly these are fetched again");
    drop(partial);
    part(&fixture.dir(NAME), &model.files[0], &bytes, 5);
    fixture.store.finish_file(&model, &model.files[0], &chunk_hashes(&bytes), true).unwrap();
    assert_eq!(verdict(&fixture.store, NAME, false), Verdict::Good);
}

#[test]
fn a_truncated_file_lacks_its_end() {
    let fixture = Fixture::new();
    let bytes = content(3, 1);
    fixture.download(NAME, &[("a.gguf", &bytes)]);
    let file = fs::File::options().write(true).open(fixture.dir(NAME).join("a.gguf")).unwrap();
    file.set_len(CHUNK_BYTES + 5).unwrap();
    let report = fixture.store.verify(NAME, true, &mut |_, _| {}).unwrap();
    let expected = Verdict::Damaged { chunks: chunks(&[1, 2, 3]), repaired: true };
    assert_eq!(report.files[0].verdict, expected);
    let state = ModelState::Partial { n_bytes: CHUNK_BYTES, n_total: bytes.len() as u64 };
    assert_eq!(fixture.store.find(NAME).unwrap().state, state);
}

#[test]
fn a_file_that_goes_on_loses_its_end() {
    let fixture = Fixture::new();
    let bytes = &content(2, 1)[..2 * CHUNK_BYTES as usize];
    fixture.download(NAME, &[("a.gguf", bytes)]);
    overwrite(&fixture.dir(NAME).join("a.gguf"), 2 * CHUNK_BYTES, b"more");
    let expected = Verdict::Damaged { chunks: chunks(&[1]), repaired: true };
    assert_eq!(verdict(&fixture.store, NAME, true), expected);
    let part = fixture.dir(NAME).join("a.gguf.part");
    assert!(part.exists() && !fixture.dir(NAME).join("a.gguf").exists());
}

#[test]
fn without_a_list_of_chunks_all_are_suspect() {
    let fixture = Fixture::new();
    fixture.download(NAME, &[("a.gguf", &content(1, 1))]);
    fs::remove_file(fixture.dir(NAME).join("a.gguf.chunks")).unwrap();
    assert_eq!(verdict(&fixture.store, NAME, false), Verdict::Good);
    assert!(fixture.dir(NAME).join("a.gguf.chunks").exists(), "what was learnt is kept");
    fs::remove_file(fixture.dir(NAME).join("a.gguf.chunks")).unwrap();
    overwrite(&fixture.dir(NAME).join("a.gguf"), 0, b"damage");
    let expected = Verdict::Damaged { chunks: chunks(&[0, 1]), repaired: true };
    assert_eq!(verdict(&fixture.store, NAME, true), expected);
}

#[test]
fn a_file_without_a_description_is_known_after_it_was_read() {
    let fixture = Fixture::new();
    let path = fixture.write("models/m.gguf", &content(2, 1));
    assert!(matches!(verdict(&fixture.store, "m", true), Verdict::Unknown { .. }));
    assert_eq!(verdict(&fixture.store, "m", true), Verdict::Good);
    // The disk loses a bit, and nobody wrote.
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    overwrite(&path, CHUNK_BYTES, b"damage");
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let expected = Verdict::Damaged { chunks: chunks(&[1]), repaired: false };
    assert_eq!(verdict(&fixture.store, "m", true), expected);
    assert!(path.exists(), "there is nowhere to fetch it from");
}

#[test]
fn without_a_hash_only_the_chunks_tell() {
    let fixture = Fixture::new();
    let bytes = content(2, 1);
    let mut model = model(NAME, &[("a.gguf", &bytes)]);
    model.files[0].id.digest = Digest::Origin([1; 32]);
    let dir = fixture.store.create(&model).unwrap();
    part(&dir, &model.files[0], &bytes, 3);
    fixture.store.finish_file(&model, &model.files[0], &chunk_hashes(&bytes), false).unwrap();
    assert_eq!(verdict(&fixture.store, NAME, false), Verdict::Good);
    overwrite(&dir.join("a.gguf"), CHUNK_BYTES, b"damage");
    let expected = Verdict::Damaged { chunks: chunks(&[1]), repaired: false };
    assert_eq!(verdict(&fixture.store, NAME, false), expected);
    fs::remove_file(dir.join("a.gguf.chunks")).unwrap();
    let id = model.files[0].id;
    assert_eq!(verdict(&fixture.store, NAME, false), Verdict::Unknown { id }, "nothing to go by");
    assert!(Manifest::read(&dir).unwrap().unwrap().checked.is_empty());
}

#[test]
fn the_chunks_of_a_partial_file_are_read_back() {
    let fixture = Fixture::new();
    let bytes = content(4, 1);
    let model = model(NAME, &[("a.gguf", &bytes)]);
    let dir = fixture.store.create(&model).unwrap();
    let report =
        || fixture.store.verify(NAME, true, &mut |_, _| {}).unwrap().files[0].verdict.clone();
    assert_eq!(report(), Verdict::Partial);
    part(&dir, &model.files[0], &bytes, 3);
    assert_eq!(report(), Verdict::Partial);
    overwrite(&dir.join("a.gguf.part"), CHUNK_BYTES, b"damage");
    assert_eq!(report(), Verdict::Damaged { chunks: chunks(&[1]), repaired: true });
    assert_eq!(Partial::inspect(&dir, &model.files[0]).unwrap(), chunks(&[0, 2]));
}

#[test]
fn repairing_leaves_a_second_name_of_the_file_alone() {
    let fixture = Fixture::new();
    let file = fixture.write("elsewhere/m.gguf", &gguf("m"));
    fixture.store.import(&file, None, &mut |_, _| {}).unwrap();
    overwrite(&file, 100, b"by its owner");
    let theirs = fs::read(&file).unwrap();
    assert!(matches!(verdict(&fixture.store, "m", true), Verdict::Damaged { repaired: true, .. }));
    let part = fixture.dir("m").join("m.gguf.part");
    assert_ne!(fs::metadata(&part).unwrap().ino(), fs::metadata(&file).unwrap().ino());
    assert_eq!(fs::read(&file).unwrap(), theirs);
}
