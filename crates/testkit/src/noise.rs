//! Text that packing does not shorten, for tests that fill a disk, a buffer or what is kept of the past.

/// Letters and digits in no order, the same ones every time.
pub fn noise(length: usize) -> String {
    // The numbers of Knuth's generator MMIX; its highest bits are its best.
    let mut state = 1u64;
    let any = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from((state >> 57) as u8)
    });
    any.filter(char::is_ascii_alphanumeric).take(length).collect()
}
