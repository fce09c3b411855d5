//! The generator's random numbers: Marsaglia's xorshift with 32 bits.

/// What a sequence begins with.
pub(crate) const SEED: u32 = 0x2545_f491;

/// The number after this one, which is not 0.
pub(crate) fn next(mut random: u32) -> u32 {
    random ^= random << 13;
    random ^= random >> 17;
    random ^ random << 5
}

/// That number, scaled to those below a limit.
pub(crate) fn below(random: u32, limit: u32) -> u32 {
    ((u64::from(random) * u64::from(limit)) >> 32) as u32
}

/// Puts values into random order, always the same.
pub(crate) fn shuffle<T>(values: &mut [T]) {
    let mut random = SEED;
    for last in (1..values.len()).rev() {
        random = next(random);
        values.swap(last, below(random, last as u32 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_values_are_the_same_in_another_order() {
        let mut values: Vec<u32> = (0..1_000).collect();
        shuffle(&mut values);
        assert!(!values.is_sorted());
        values.sort_unstable();
        assert!((0..1_000).eq(values));
    }
}
