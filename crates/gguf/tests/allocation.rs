//! Parsing allocates no more than the bytes justify, whatever they claim. A file of its own, since it
//! replaces the allocator of the whole test binary.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use shoal_gguf::{Directory, Error, TensorType, Writer};

/// Counts what the current thread allocates, freed again or not.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe by contract")]
// SAFETY: every call goes to the system's allocator unchanged. The counter needs no destructor and allocates
// nothing, so that using it in here cannot recurse.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size() as u64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocated_by<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATED.get();
    let result = work();
    (result, ALLOCATED.get() - before)
}

/// A file of 1 KiB whose only entry is an array of `count` elements of type `ty`.
fn array_of(ty: u32, count: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(3u64.to_le_bytes());
    bytes.extend(b"key");
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(ty.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.resize(1024, 0);
    bytes
}

#[test]
fn a_huge_count_allocates_next_to_nothing() {
    let mut cases = vec![array_of(8, 1 << 60), array_of(0, 1 << 60), array_of(9, u64::MAX)];
    for at in [8, 16, 24] {
        // Tensor count, metadata count, length of the first key.
        let mut bytes = array_of(0, 1);
        bytes[at..at + 8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        cases.push(bytes);
    }
    for bytes in cases {
        // Once as a whole file, once as the beginning of a file that claims to be large enough for anything.
        for file_len in [bytes.len() as u64, u64::MAX] {
            let (result, n) = allocated_by(|| Directory::parse(&bytes, file_len));
            assert!(result.is_err());
            assert!(n < 64 << 10, "{n} bytes for {:?}", result.err());
        }
    }
}

#[test]
fn a_prefix_allocates_in_proportion_to_itself() {
    let names: Vec<String> = (0..500).map(|i| format!("tensor.{i}")).collect();
    let mut writer = Writer::new().metadata("tokens", vec![String::new(); 5000]);
    for name in &names {
        writer = writer.tensor(name, TensorType::F32, &[1], &[0; 4]);
    }
    let mut bytes = Vec::new();
    writer.write(&mut bytes).expect("the file is valid");
    for n in (0..bytes.len()).step_by(331) {
        let (result, allocated) =
            allocated_by(|| Directory::parse(&bytes[..n], bytes.len() as u64));
        let want_more = matches!(result, Err(Error::NeedMore { .. }));
        assert!(want_more || result.is_ok(), "{result:?}");
        // A tensor's entry is 37 bytes in this file and about 400 in memory, while its vectors grow.
        assert!(allocated < 16 * n as u64 + 4096, "{allocated} bytes for a prefix of {n}");
    }
}
