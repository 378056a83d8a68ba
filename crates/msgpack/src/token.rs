//! What the cursor yields: one scalar, or the head of a container.

/// One step of a [`Reader`](crate::Reader). Containers are only announced: their elements are the next tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token<'a> {
    /// The nil value.
    Nil,
    /// A boolean.
    Bool(bool),
    /// Any integer that is zero or more, whatever width or signedness it was written with.
    UInt(u64),
    /// An integer below zero.
    Int(i64),
    /// A float of 32 bits.
    F32(f32),
    /// A float of 64 bits.
    F64(f64),
    /// The raw bytes of a string. A JavaScript peer may write lone surrogates, so they need not be UTF-8.
    Str(&'a [u8]),
    /// Binary data.
    Bin(&'a [u8]),
    /// An array of so many values, which follow.
    Array(u32),
    /// A map of so many entries, which follow as key, value, key, value.
    Map(u32),
    /// An extension value.
    Ext {
        /// The application's type number.
        kind: i8,
        /// The payload.
        data: &'a [u8],
        /// The first byte as it was read: 0xd4 to 0xd8 for the fixed sizes, 0xc7 to 0xc9 for the others. The
        /// Socket.IO MessagePack parser gives type 0 a different meaning for each.
        header: u8,
    },
}
