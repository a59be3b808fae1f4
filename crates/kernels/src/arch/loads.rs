//! Loads that AVX2 and AVX-512 have in common.

use std::arch::x86_64::*;

/// 32 bytes from memory.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load32<T>(at: &T) -> __m256i {
    const { assert!(size_of::<T>() == 32) };
    // SAFETY: 32 bytes are read, which is the size of `T`; no alignment is needed.
    unsafe { _mm256_loadu_si256(std::ptr::from_ref(at).cast()) }
}

/// 16 bytes from memory.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load16<T>(at: &T) -> __m128i {
    const { assert!(size_of::<T>() == 16) };
    // SAFETY: 16 bytes are read, which is the size of `T`; no alignment is needed.
    unsafe { _mm_loadu_si128(std::ptr::from_ref(at).cast()) }
}
