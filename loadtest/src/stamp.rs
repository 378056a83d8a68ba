//! What a message carries for its receiver to judge it by: its number, and the moment it was sent.

const NUMBER_DIGITS: usize = 10;
const MOMENT_DIGITS: usize = 20;
/// `#NUMBER.MOMENT.`
pub(crate) const STAMP_BYTES: usize = 1 + NUMBER_DIGITS + 1 + MOMENT_DIGITS + 1;

/// Parses the length of a message's data.
pub(crate) fn bytes_range(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (STAMP_BYTES..=1_000_000).contains(&bytes) => Ok(bytes),
        _ => Err(format!("a whole number from {STAMP_BYTES} to 1000000")),
    }
}

/// The data of a message: its number, its moment, and padding.
pub(crate) fn data(number: u64, moment_ns: u64, bytes: usize) -> String {
    let mut data = format!("#{number:0NUMBER_DIGITS$}.{moment_ns:0MOMENT_DIGITS$}.");
    data.extend(std::iter::repeat_n('x', bytes.saturating_sub(STAMP_BYTES)));
    data
}

/// Reads number and moment from what follows the mark, `#`.
pub(crate) fn stamp(text: &str) -> Option<(u64, u64)> {
    let number = text.get(..NUMBER_DIGITS)?.parse().ok()?;
    let moment = text.get(NUMBER_DIGITS + 1..)?.get(..MOMENT_DIGITS)?.parse().ok()?;
    Some((number, moment))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stamp_is_read_back(number in 0u64..10_000_000_000, moment in any::<u64>(), bytes in STAMP_BYTES..500) {
            let data = data(number, moment, bytes);
            prop_assert_eq!(data.len(), bytes);
            prop_assert_eq!(data.strip_prefix('#').and_then(stamp), Some((number, moment)));
        }

        #[test]
        fn other_texts_are_no_stamps(text in "\\PC{0,60}") {
            prop_assert!(stamp(&text).is_none());
        }
    }

    #[test]
    fn data_has_room_for_its_stamp() {
        assert_eq!(bytes_range("33"), Ok(STAMP_BYTES));
        assert!(bytes_range("32").is_err() && bytes_range("x").is_err());
    }
}
