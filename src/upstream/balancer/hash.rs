//! A 64-bit hash that stays the same between releases and machines.
//!
//! Not for secrets. Eight bytes at a time are folded in, each followed by the finaliser of
//! SplitMix64 (D. Stafford's "Mix13"), which is a bijection in which every bit reaches every other.

/// SplitMix64's increment: 2⁶⁴ by the golden ratio.
pub(super) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hashes `bytes`; another seed gives another, independent hash.
pub(super) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let begin = mix(seed ^ (bytes.len() as u64).wrapping_mul(GOLDEN));
    let state = words.iter().fold(begin, |state, word| mix(state ^ u64::from_le_bytes(*word)));
    if tail.is_empty() {
        return state;
    }
    let last = tail.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    mix(state ^ last)
}

/// Scrambles a word; no two give the same.
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_that_of_splitmix64() {
        // The first outputs of the reference implementation for seed 1234567.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for (count, expected) in (1..).zip(expected) {
            assert_eq!(mix(GOLDEN.wrapping_mul(count).wrapping_add(1_234_567)), expected);
        }
    }

    #[test]
    fn a_hash_never_changes() {
        // By an independent implementation in Python.
        let cases: [(u64, &[u8], u64); 4] = [
            (0, b"a", 0x343E_6937_0AD4_A4EE),
            (1, b"12345678", 0x5F37_D90E_B566_0D60),
            (1, b"127.0.0.1:8080", 0x3F80_C088_1897_5BB6),
            (2, b"127.0.0.1:8080", 0xDCC9_9231_E9CB_B94A),
        ];
        for (seed, bytes, expected) in cases {
            assert_eq!(hash(seed, bytes), expected, "{seed} {bytes:?}");
        }
    }

    #[test]
    fn every_bit_of_a_key_moves_half_of_the_hash() {
        for length in 1..40 {
            let key: Vec<u8> = (0..length).collect();
            for bit in 0..usize::from(length) * 8 {
                let mut other = key.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                let moved = (hash(7, &key) ^ hash(7, &other)).count_ones();
                assert!((10..=54).contains(&moved), "{moved} bits moved");
            }
        }
    }

    #[test]
    fn zeros_at_the_end_count() {
        assert_ne!(hash(0, b"a"), hash(0, b"a\0"));
        assert_ne!(hash(0, b""), hash(0, &[0; 8]));
    }
}
