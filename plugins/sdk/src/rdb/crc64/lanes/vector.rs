//! The instructions of WebAssembly.

use core::arch::wasm32::{
    i8x16_relaxed_swizzle, i8x16_shuffle, u8x16_shr, u8x16_splat, u64x2, u64x2_extract_lane, v128, v128_and, v128_xor,
};

/// Sixteen bytes.
pub(super) type Lanes = v128;

#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn from_bytes(bytes: &[u8; 16]) -> Lanes {
    let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word));
    u64x2(word(0), word(8))
}

#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn to_bytes(lanes: Lanes) -> [u8; 16] {
    let whole = u128::from(u64x2_extract_lane::<1>(lanes)) << 64 | u128::from(u64x2_extract_lane::<0>(lanes));
    whole.to_le_bytes()
}

#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn xor(one: Lanes, other: Lanes) -> Lanes {
    v128_xor(one, other)
}

/// The lower and the upper four bits of each byte.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn halves(lanes: Lanes) -> (Lanes, Lanes) {
    (v128_and(lanes, u8x16_splat(15)), u8x16_shr(lanes, 4))
}

/// The bytes of `table` that `indices`, each below 16, name.
#[inline]
#[target_feature(enable = "simd128,relaxed-simd")]
pub(super) fn look_up(table: Lanes, indices: Lanes) -> Lanes {
    i8x16_relaxed_swizzle(table, indices)
}

/// The first eight bytes of both, in turns.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn low(one: Lanes, other: Lanes) -> Lanes {
    i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(one, other)
}

/// The last eight bytes of both, in turns.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn high(one: Lanes, other: Lanes) -> Lanes {
    i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(one, other)
}
