//! The same in plain Rust: what the tests of other machines run.

/// Sixteen bytes.
pub(super) type Lanes = [u8; 16];

pub(super) fn from_bytes(bytes: &[u8; 16]) -> Lanes {
    *bytes
}

pub(super) fn to_bytes(lanes: Lanes) -> [u8; 16] {
    lanes
}

pub(super) fn xor(one: Lanes, other: Lanes) -> Lanes {
    std::array::from_fn(|lane| one[lane] ^ other[lane])
}

pub(super) fn halves(lanes: Lanes) -> (Lanes, Lanes) {
    (lanes.map(|byte| byte & 15), lanes.map(|byte| byte >> 4))
}

pub(super) fn look_up(table: Lanes, indices: Lanes) -> Lanes {
    indices.map(|index| table[usize::from(index)])
}

pub(super) fn low(one: Lanes, other: Lanes) -> Lanes {
    std::array::from_fn(|lane| if lane % 2 == 0 { one[lane / 2] } else { other[lane / 2] })
}

pub(super) fn high(one: Lanes, other: Lanes) -> Lanes {
    std::array::from_fn(|lane| if lane % 2 == 0 { one[8 + lane / 2] } else { other[8 + lane / 2] })
}
