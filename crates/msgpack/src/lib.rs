//! MessagePack as a cursor and a set of writers, without a tree of values.
//!
//! Every part of Tidegate that touches MessagePack reads it here: the clients' parser, the wire of
//! `@socket.io/redis-adapter`, and the form in which event data travels inside a node. The reader borrows
//! from its input and keeps what a tree would lose, above all the header byte of an extension: the Socket.IO
//! MessagePack parser tells `undefined`, a date and a buffer apart by nothing else.
//!
//! What this crate never does: allocate by a length that the input merely claims, recurse, or look inside
//! strings and extensions. Format: <https://github.com/msgpack/msgpack/blob/master/spec.md>.
//!
//! - [`Reader`]: the cursor; [`Token`]: what it yields.
//! - [`write`](mod@write): the writers, with the header widths that notepack 3.0.1 chooses.
//! - [`check`]: is this exactly one complete value?

mod reader;
mod token;
pub mod write;

pub use reader::Reader;
pub use token::Token;

/// How many arrays and maps may be nested in one value. A deeper value is refused by [`Reader::skip`],
/// [`Reader::value`] and [`check`].
///
/// The number is generous for data and small enough that a recursive reader above this crate fits in any stack.
pub const DEPTH_MAX: usize = 128;

/// Why some bytes were not the MessagePack that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The input ends inside a value, or a container claims more elements than bytes are left.
    #[error("messagepack ends inside a value")]
    Truncated,
    /// The byte 0xc1, which the format never uses.
    #[error("messagepack holds the reserved byte 0xc1")]
    Reserved,
    /// More than [`DEPTH_MAX`] containers inside one another.
    #[error("messagepack is nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// A value of another type than the caller expected.
    #[error("messagepack value is not {expected}")]
    Type {
        /// What would have been right, with its article: `"a string"`.
        expected: &'static str,
    },
    /// A string that had to be text is not UTF-8.
    #[error("messagepack string is not utf-8")]
    Utf8,
    /// Bytes are left after the value.
    #[error("bytes are left after the messagepack value")]
    Trailing,
}

/// Checks that `bytes` holds exactly one complete value and nothing after it.
///
/// Strings are not checked for UTF-8: those that a JavaScript peer writes may hold lone surrogates.
///
/// # Errors
/// [`Error::Truncated`], [`Error::Reserved`] or [`Error::TooDeep`] for a bad value, [`Error::Trailing`] for a
/// good one with something after it.
pub fn check(bytes: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(bytes);
    reader.skip()?;
    if reader.is_empty() { Ok(()) } else { Err(Error::Trailing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_wants_one_value_and_nothing_after_it() {
        assert_eq!(check(&[0x92, 0x01, 0xc0]), Ok(()));
        assert_eq!(check(&[0x92, 0x01]), Err(Error::Truncated));
        assert_eq!(check(&[0x01, 0x01]), Err(Error::Trailing));
        assert_eq!(check(&[]), Err(Error::Truncated));
        assert_eq!(check(&[0x91, 0xc1]), Err(Error::Reserved));
    }
}
