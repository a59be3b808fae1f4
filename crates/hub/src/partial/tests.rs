//! What a partial file remembers, and what it does not believe.

use std::fs;

use proptest::prelude::*;
use shoal_proto::model::CHUNK_BYTES;
use tempfile::TempDir;

use super::*;

const N_CHUNKS: u32 = 5;

fn file_ref() -> FileRef {
    let n_bytes = CHUNK_BYTES * u64::from(N_CHUNKS - 1) + 1000;
    let id = FileId { digest: Digest::Sha256([1; 32]), n_bytes };
    FileRef { name: "m.gguf".into(), id, origin: None }
}

fn content(chunk: u32) -> Vec<u8> {
    let range = file_ref().id.chunk_range(chunk);
    let byte = u8::try_from(chunk + 1).expect("few chunks");
    vec![byte; usize::try_from(range.end - range.start).expect("small")]
}

#[track_caller]
fn write(partial: &Partial, chunk: u32, source: ChunkSource) {
    let bytes = content(chunk);
    let hash = *blake3::hash(&bytes).as_bytes();
    partial.write(chunk, &bytes, hash, source).expect("there is space");
}

fn begun(chunks: &[u32]) -> (TempDir, Partial) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let partial = Partial::open(dir.path(), &file_ref()).expect("new");
    chunks.iter().for_each(|&chunk| write(&partial, chunk, ChunkSource::Hub));
    (dir, partial)
}

fn held(dir: &TempDir) -> Vec<u32> {
    let partial = Partial::open(dir.path(), &file_ref()).expect("opens again");
    let mut buffer = Vec::new();
    for chunk in partial.held().iter() {
        partial.read(chunk, &mut buffer).expect("readable");
        assert_eq!(buffer, content(chunk), "chunk {chunk}");
    }
    partial.held().iter().collect()
}

#[test]
fn remembers_what_was_written() {
    let (dir, partial) = begun(&[3, 0, 4]);
    write(&partial, 1, ChunkSource::Peer);
    partial.forget(&[3].into_iter().collect()).expect("written");
    assert_eq!(partial.hashes(), None, "chunks are missing");
    drop(partial);
    assert_eq!(held(&dir), [0, 1, 4]);
    let inspected = Partial::inspect(dir.path(), &file_ref()).expect("readable");
    assert_eq!(inspected.iter().collect::<Vec<_>>(), [0, 1, 4]);
    let partial = Partial::open(dir.path(), &file_ref()).expect("opens");
    assert_eq!(partial.given_by_peers().iter().collect::<Vec<_>>(), [1]);
}

#[test]
fn the_last_chunk_is_as_long_as_the_file() {
    let (dir, partial) = begun(&[4]);
    assert_eq!(fs::metadata(partial.data_path()).expect("there").len(), file_ref().id.n_bytes);
    drop(partial);
    assert_eq!(held(&dir), [4]);
}

#[test]
fn forgets_chunks_that_never_reached_the_disk() {
    let (dir, partial) = begun(&[0, 1]);
    partial.seal().expect("flushed");
    write(&partial, 2, ChunkSource::Hub);
    write(&partial, 3, ChunkSource::Hub);
    let path = partial.data_path().to_owned();
    drop(partial);
    let data = OpenOptions::new().write(true).open(path).expect("there");
    data.write_all_at(&[0; 8], CHUNK_BYTES * 2 + 77).expect("written");
    assert_eq!(held(&dir), [0, 1, 3]);
}

#[test]
fn a_torn_journal_costs_only_the_torn_entry() {
    let (dir, partial) = begun(&[0, 1, 2]);
    drop(partial);
    let path = dir.path().join("m.gguf.journal");
    let bytes = fs::read(&path).expect("there");
    fs::write(&path, &bytes[..bytes.len() - 5]).expect("written");
    assert_eq!(held(&dir), [0, 1]);
    let partial = Partial::open(dir.path(), &file_ref()).expect("opens");
    write(&partial, 2, ChunkSource::Hub);
    drop(partial);
    assert_eq!(held(&dir), [0, 1, 2], "the next entry takes the torn one's place");
}

#[test]
fn another_content_begins_anew() {
    let (dir, partial) = begun(&[0, 1]);
    drop(partial);
    let mut other = file_ref();
    other.id.digest = Digest::Sha256([2; 32]);
    assert!(Partial::inspect(dir.path(), &other).expect("readable").is_empty());
    assert!(Partial::open(dir.path(), &other).expect("opens").held().is_empty());
}

#[test]
fn only_one_process_writes() {
    let (dir, _partial) = begun(&[]);
    let error = Partial::open(dir.path(), &file_ref()).expect_err("it is open");
    assert!(matches!(error, PartialError::Busy { .. }), "{error}");
}

#[test]
fn a_damaged_file_becomes_partial() {
    let (dir, partial) = begun(&[0, 1, 2, 3, 4]);
    let hashes = partial.hashes().expect("all are held");
    drop(partial);
    fs::rename(dir.path().join("m.gguf.part"), dir.path().join("m.gguf")).expect("renamed");
    let good = [0, 2, 3, 4].into_iter().collect();
    Partial::from_whole(dir.path(), &file_ref(), &hashes, &good).expect("written");
    assert_eq!(held(&dir), [0, 2, 3, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_damaged_journal_never_vouches_for_wrong_bytes(at in 0usize..400, bit in 0u8..8) {
        let (dir, partial) = begun(&[0, 2, 4]);
        drop(partial);
        let path = dir.path().join("m.gguf.journal");
        let mut bytes = fs::read(&path).expect("there");
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        fs::write(&path, &bytes).expect("written");
        let left = held(&dir);
        prop_assert!(left.iter().all(|chunk| [0, 2, 4].contains(chunk)), "{left:?}");
    }
}
