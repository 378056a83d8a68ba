//! What an extension value stands for.
//!
//! notepack.io 2.2.0, the codec of the clients' MessagePack parser, writes `undefined`, dates and buffers as type 0
//! and tells them apart by the header byte. notepack.io 3.0.1, the codec of the adapter wire, still reads those and
//! adds the standard timestamp, type -1, which 2.2.0 does not know.

/// The meaning of an extension value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extension<'a> {
    /// JavaScript's `undefined`.
    Undefined,
    /// A moment, in milliseconds since 1970. JavaScript has no date beyond [`DATE_MS_MAX`](super::date::DATE_MS_MAX).
    Date(i64),
    /// An `ArrayBuffer` or a typed array.
    Bytes(&'a [u8]),
    /// Anything else; notepack decodes it as the array `[kind, bytes]`.
    Unknown(i8, &'a [u8]),
}

impl<'a> Extension<'a> {
    /// The type number of the standard timestamp.
    pub(crate) const TIMESTAMP: i8 = -1;

    /// Reads an extension token as notepack 2.2.0 does.
    pub(crate) fn of_client(kind: i8, data: &'a [u8], header: u8) -> Self {
        match (kind, header) {
            (0, 0xd4) => Extension::Undefined,
            (0, 0xd7) => data
                .try_into()
                .map_or(Extension::Unknown(kind, data), |ms| Extension::Date(i64::from_be_bytes(ms))),
            (0, 0xc7..=0xc9) => Extension::Bytes(data),
            _ => Extension::Unknown(kind, data),
        }
    }

    /// Reads an extension token as notepack 3.0.1 does.
    pub(crate) fn of_wire(kind: i8, data: &'a [u8], header: u8) -> Self {
        if kind != Self::TIMESTAMP || header == 0xc8 || header == 0xc9 {
            return Extension::of_client(kind, data, header);
        }
        let (seconds, nanoseconds) = match *data {
            [a, b, c, d] => (i64::from(u32::from_be_bytes([a, b, c, d])), 0),
            [a, b, c, d, e, f, g, h] => {
                let both = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                ((both & 0x3_ffff_ffff).cast_signed(), both >> 34)
            }
            [n0, n1, n2, n3, a, b, c, d, e, f, g, h] => (
                i64::from_be_bytes([a, b, c, d, e, f, g, h]),
                u64::from(u32::from_be_bytes([n0, n1, n2, n3])),
            ),
            _ => return Extension::Unknown(kind, data),
        };
        // JavaScript cuts a fraction of a millisecond off towards zero. What does not fit 64 bits is no date anyway.
        let nanoseconds = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let ms = nanoseconds / 1_000_000;
        Extension::Date(i64::try_from(ms).unwrap_or(if ms < 0 { i64::MIN } else { i64::MAX }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_zero_is_told_apart_by_its_header() {
        let eight = [0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(Extension::of_client(0, &[7], 0xd4), Extension::Undefined);
        assert_eq!(Extension::of_client(0, &eight, 0xd7), Extension::Date(1));
        assert_eq!(Extension::of_client(0, &eight, 0xc7), Extension::Bytes(&eight));
        assert_eq!(Extension::of_client(0, &[7], 0xc7), Extension::Bytes(&[7]));
        assert_eq!(Extension::of_client(0, &[7, 7], 0xd5), Extension::Unknown(0, &[7, 7]));
        assert_eq!(Extension::of_client(5, &[7], 0xd4), Extension::Unknown(5, &[7]));
    }

    #[test]
    fn only_the_wire_knows_timestamps() {
        let four = [0, 0, 0, 2];
        assert_eq!(Extension::of_client(-1, &four, 0xd6), Extension::Unknown(-1, &four));
        assert_eq!(Extension::of_wire(-1, &four, 0xd6), Extension::Date(2000));
        assert_eq!(Extension::of_wire(-1, &[1], 0xd4), Extension::Unknown(-1, &[1]));
        let twelve = [0x3b, 0x8b, 0x87, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Extension::of_wire(-1, &twelve, 0xc7), Extension::Date(-1));
        let far = [0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Extension::of_wire(-1, &far, 0xc7), Extension::Date(i64::MAX));
    }
}
