//! Finding the end of a plain run of text in a JSON string.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// How many bytes at the front stand for themselves in a JSON string: up to the first quote, backslash or control
/// character, or all of them.
///
/// Eight bytes are tested at a time: most strings in messages are short, where this beats a call to a vectorised
/// search.
pub(crate) fn plain_len(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5c);
        // A byte's high bit is set where subtracting borrowed, that is where the byte was zero (or below a space).
        // The lowest such bit is exact; only bits above it can be false, because borrows travel upwards.
        let special = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let special = special & HIGHS;
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let whole = words.len() * 8;
    whole + rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len())
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_agree_with_bytes(bytes in prop::collection::vec(prop_oneof![3 => 0x1e_u8..0x24, 3 => 0x5a_u8..0x5e, 8 => any::<u8>(), 20 => Just(b'a')], 0..40)) {
            let expected = bytes.iter().position(|byte| is_special(*byte)).unwrap_or(bytes.len());
            prop_assert_eq!(plain_len(&bytes), expected);
        }
    }
}
