//! Writers that append one value, or the head of one container, to a buffer.
//!
//! Each chooses the shortest header, which is what notepack.io 3.0.1 (the encoder of `@socket.io/redis-adapter`
//! 8.3.0) does for the same JavaScript value, so that our payloads are byte for byte those of a Node peer.

/// Appends nil.
pub fn nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends a boolean.
pub fn bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { 0xc3 } else { 0xc2 });
}

/// Appends an integer that is zero or more.
pub fn uint(out: &mut Vec<u8>, value: u64) {
    if let Ok(value) = u8::try_from(value) {
        if value >= 0x80 {
            out.push(0xcc);
        }
        out.push(value);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(0xcd);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(0xce);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(0xcf);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends an integer. One that is not negative is written as [`uint`] writes it.
pub fn int(out: &mut Vec<u8>, value: i64) {
    if let Ok(value) = u64::try_from(value) {
        uint(out, value);
    } else if let Ok(value) = i8::try_from(value) {
        if value < -0x20 {
            out.push(0xd0);
        }
        out.push(value.cast_unsigned());
    } else if let Ok(value) = i16::try_from(value) {
        out.push(0xd1);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = i32::try_from(value) {
        out.push(0xd2);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(0xd3);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends a float of 64 bits, also when it is integral.
pub fn f64(out: &mut Vec<u8>, value: f64) {
    out.push(0xcb);
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a string.
///
/// # Panics
/// When the string is 4 GiB or longer, which the format cannot say. The same holds for the length of every other
/// writer here; what a node handles is bounded far below.
pub fn str(out: &mut Vec<u8>, value: &str) {
    str_bytes(out, value.as_bytes());
}

/// Appends a string of raw bytes, for relaying one that need not be UTF-8.
///
/// # Panics
/// As [`str()`].
pub fn str_bytes(out: &mut Vec<u8>, value: &[u8]) {
    match length(value.len()) {
        fix @ 0..0x20 => out.push(0xa0 | fix.to_be_bytes()[3]),
        wide => head(out, [0xd9, 0xda, 0xdb], wide),
    }
    out.extend_from_slice(value);
}

/// Appends binary data.
///
/// # Panics
/// As [`str()`].
pub fn bin(out: &mut Vec<u8>, value: &[u8]) {
    head(out, [0xc4, 0xc5, 0xc6], length(value.len()));
    out.extend_from_slice(value);
}

/// Appends the head of an array of `length` values; the caller appends the values.
pub fn array(out: &mut Vec<u8>, length: u32) {
    match length {
        fix @ 0..0x10 => out.push(0x90 | fix.to_be_bytes()[3]),
        wide => head(out, [0xdc, 0xdc, 0xdd], wide),
    }
}

/// Appends the head of a map of `length` entries; the caller appends key, value, key, value.
pub fn map(out: &mut Vec<u8>, length: u32) {
    match length {
        fix @ 0..0x10 => out.push(0x80 | fix.to_be_bytes()[3]),
        wide => head(out, [0xde, 0xde, 0xdf], wide),
    }
}

/// Appends an extension value, in the fixed form where its size has one.
///
/// # Panics
/// As [`str()`].
pub fn ext(out: &mut Vec<u8>, kind: i8, data: &[u8]) {
    match data.len() {
        1 => out.push(0xd4),
        2 => out.push(0xd5),
        4 => out.push(0xd6),
        8 => out.push(0xd7),
        16 => out.push(0xd8),
        other => head(out, [0xc7, 0xc8, 0xc9], length(other)),
    }
    out.push(kind.cast_unsigned());
    out.extend_from_slice(data);
}

/// Appends a moment as the standard timestamp extension (type -1), in the form that notepack 3.0.1 chooses: 32
/// bits for whole seconds up to 2106, 64 bits up to the year 2514, otherwise 96 bits.
///
/// `unix_ms` is milliseconds since 1970 and may be negative.
pub fn timestamp_ms(out: &mut Vec<u8>, unix_ms: i64) {
    const TIMESTAMP: i8 = -1;
    let seconds = unix_ms.div_euclid(1000);
    // At most 999 000 000, which is 30 bits.
    let nanoseconds = unix_ms.rem_euclid(1000).cast_unsigned() * 1_000_000;
    match u64::try_from(seconds) {
        Ok(seconds) if nanoseconds == 0 && seconds <= u64::from(u32::MAX) => {
            ext(out, TIMESTAMP, &seconds.to_be_bytes()[4..]);
        }
        Ok(seconds) if seconds < 1 << 34 => {
            ext(out, TIMESTAMP, &(nanoseconds << 34 | seconds).to_be_bytes());
        }
        _ => {
            let mut data = [0; 12];
            data[..4].copy_from_slice(&nanoseconds.to_be_bytes()[4..]);
            data[4..].copy_from_slice(&seconds.to_be_bytes());
            ext(out, TIMESTAMP, &data);
        }
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("what a node handles is bounded far below 4 GiB")
}

/// Appends the marker of the width that `length` needs, and the length. Containers have no form of 8 bits and
/// give their 16-bit marker for it, so `markers[0] == markers[1]` means the length takes two bytes at least.
fn head(out: &mut Vec<u8>, markers: [u8; 3], length: u32) {
    let [_, _, high, low] = length.to_be_bytes();
    if length < 0x100 && markers[0] != markers[1] {
        out.extend_from_slice(&[markers[0], low]);
    } else if length < 0x1_0000 {
        out.extend_from_slice(&[markers[1], high, low]);
    } else {
        out.push(markers[2]);
        out.extend_from_slice(&length.to_be_bytes());
    }
}
