//! Inside the client values travel in the wire form, one MessagePack array of an event's name and its arguments;
//! see `tidegate_protocol::value`.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_msgpack::{DEPTH_MAX, Reader, Token, write};

use super::Value;

/// Integers beyond this are not exact in a JavaScript number, so they are left as floats.
const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// Why bytes from a server are not a [`Value`].
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// Not one complete MessagePack value.
    #[error("not a messagepack value: {0}")]
    MessagePack(#[from] tidegate_msgpack::Error),
    /// An extension that is no timestamp.
    #[error("extension of kind {kind} with {len} bytes has no meaning here")]
    Extension {
        /// The extension's type.
        kind: i8,
        /// Its length.
        len: usize,
    },
    /// A map key that is neither text nor a whole number.
    #[error("map key is neither text nor a whole number")]
    Key,
    /// Deeper than the protocol allows.
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// An event or acknowledgement is always an array.
    #[error("packet data is not an array")]
    NotArray,
}

impl Value {
    /// Appends the wire form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => write::nil(out),
            Value::Bool(flag) => write::bool(out, *flag),
            Value::Int(number) => write_int(out, *number),
            Value::UInt(number) => write::uint(out, *number),
            Value::Float(number) => match exact_integer(*number) {
                Some(whole) => write_int(out, whole),
                None => write::f64(out, *number),
            },
            Value::String(text) => write::str(out, text),
            Value::Bytes(bytes) => write::bin(out, bytes),
            Value::Date(unix_ms) => write::timestamp_ms(out, *unix_ms),
            Value::Array(items) => {
                write::array(out, wire_len(items.len()));
                for item in items {
                    item.encode(out);
                }
            }
            Value::Object(map) => {
                write::map(out, wire_len(map.len()));
                for (key, value) in map {
                    write::str(out, key);
                    value.encode(out);
                }
            }
        }
    }

    /// Reads one wire form value.
    pub(crate) fn decode(wire: &[u8]) -> Result<Value, ValueError> {
        decode_at(&mut Reader::new(wire), 0)
    }
}

/// The wire form of an event: `[name, args...]`.
pub(crate) fn encode_event(name: &str, args: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    write::array(&mut out, wire_len(args.len() + 1));
    write::str(&mut out, name);
    for arg in args {
        arg.encode(&mut out);
    }
    out
}

/// The wire form of an acknowledgement's arguments.
pub(crate) fn encode_args(args: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    write::array(&mut out, wire_len(args.len()));
    for arg in args {
        arg.encode(&mut out);
    }
    out
}

/// The items of an event's or an acknowledgement's data.
pub(crate) fn decode_args(wire: &[u8]) -> Result<Vec<Value>, ValueError> {
    match Value::decode(wire)? {
        Value::Array(items) => Ok(items),
        _ => Err(ValueError::NotArray),
    }
}

/// The message and the data of a CONNECT_ERROR. Servers before Socket.IO 3 send the bare message.
pub(crate) fn connect_error(wire: &[u8]) -> Result<(String, Value), ValueError> {
    let details = Value::decode(wire)?;
    let message = details["message"].as_str().or(details.as_str()).unwrap_or_default().to_owned();
    Ok((message, details["data"].clone()))
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("a list of four milliard values does not fit in memory")
}

fn write_int(out: &mut Vec<u8>, number: i64) {
    match u64::try_from(number) {
        Ok(number) => write::uint(out, number),
        Err(_) => write::int(out, number),
    }
}

fn exact_integer(number: f64) -> Option<i64> {
    let exact = number.fract() == 0.0 && number.abs() <= EXACT_INTEGER_MAX;
    exact.then_some(number as i64)
}

fn decode_at(reader: &mut Reader<'_>, depth: usize) -> Result<Value, ValueError> {
    if depth > DEPTH_MAX {
        return Err(ValueError::TooDeep);
    }
    Ok(match reader.token()? {
        Token::Nil => Value::Null,
        Token::Bool(flag) => Value::Bool(flag),
        Token::UInt(number) => i64::try_from(number).map_or(Value::UInt(number), Value::Int),
        Token::Int(number) => Value::Int(number),
        Token::F32(number) => Value::Float(number.into()),
        Token::F64(number) => Value::Float(number),
        Token::Str(text) => Value::String(String::from_utf8_lossy(text).into_owned()),
        Token::Bin(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
        Token::Ext { kind: -1, data, .. } => Value::Date(timestamp_ms(data)?),
        Token::Ext { kind, data, .. } => return Err(ValueError::Extension { kind, len: data.len() }),
        Token::Array(len) => {
            // The reader has checked the length against the bytes that are left, one at least per item, but a
            // value here is larger than a byte: grow as items arrive.
            let mut items = Vec::new();
            for _ in 0..len {
                items.push(decode_at(reader, depth + 1)?);
            }
            Value::Array(items)
        }
        Token::Map(len) => {
            let mut map = BTreeMap::new();
            for _ in 0..len {
                let key = match reader.token()? {
                    Token::Str(text) => String::from_utf8_lossy(text).into_owned(),
                    Token::UInt(number) => number.to_string(),
                    Token::Int(number) => number.to_string(),
                    _ => return Err(ValueError::Key),
                };
                map.insert(key, decode_at(reader, depth + 1)?);
            }
            Value::Object(map)
        }
    })
}

/// The three widths of MessagePack's timestamp extension (msgpack spec, "Timestamp extension type").
fn timestamp_ms(data: &[u8]) -> Result<i64, ValueError> {
    const NANOS_PER_MS: i64 = 1_000_000;
    let unknown = ValueError::Extension { kind: -1, len: data.len() };
    if let Ok(seconds) = <[u8; 4]>::try_from(data) {
        return Ok(i64::from(u32::from_be_bytes(seconds)) * 1000);
    }
    if let Ok(packed) = <[u8; 8]>::try_from(data) {
        let packed = u64::from_be_bytes(packed);
        let (nanos, seconds) = ((packed >> 34) as i64, (packed & 0x3_ffff_ffff) as i64);
        return Ok(seconds * 1000 + nanos / NANOS_PER_MS);
    }
    let Ok(wide) = <[u8; 12]>::try_from(data) else { return Err(unknown) };
    let [n0, n1, n2, n3, seconds @ ..] = wide;
    let nanos = i64::from(u32::from_be_bytes([n0, n1, n2, n3]));
    let ms = i64::from_be_bytes(seconds).checked_mul(1000).ok_or(unknown)?;
    Ok(ms.saturating_add(nanos / NANOS_PER_MS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (i64::MAX as u64 + 1..).prop_map(Value::UInt),
            any::<f64>()
                .prop_filter("sent as an integer", |number| exact_integer(*number).is_none())
                .prop_map(Value::Float),
            ".{0,20}".prop_map(Value::String),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::bytes),
            (-62_135_596_800_000i64..253_402_300_800_000).prop_map(Value::Date),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
                proptest::collection::btree_map(".{0,6}", inner, 0..20).prop_map(Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_wire_form_round_trips(value in any_value()) {
            let mut wire = Vec::new();
            value.encode(&mut wire);
            prop_assert_eq!(Value::decode(&wire).unwrap(), value);
        }

        #[test]
        fn arbitrary_bytes_never_panic(wire in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Value::decode(&wire);
            let _ = decode_args(&wire);
        }

        #[test]
        fn json_survives(value in any_value()) {
            if let Some(json) = value.to_json() {
                prop_assert_eq!(Value::from(json), value);
            }
        }
    }

    #[test]
    fn whole_floats_are_integers_on_the_wire() {
        for (float, wire) in
            [(1.0, vec![0x01]), (-0.0, vec![0x00]), (-1.0, vec![0xff]), (300.0, vec![0xcd, 1, 44])]
        {
            let mut out = Vec::new();
            Value::Float(float).encode(&mut out);
            assert_eq!(out, wire, "{float}");
        }
    }

    #[test]
    fn all_three_timestamp_widths_are_read() {
        assert_eq!(Value::decode(&[0xd6, 0xff, 0, 0, 0, 1]).unwrap(), Value::Date(1000));
        let packed = (500_000_000u64 << 34 | 2).to_be_bytes();
        let eight = [&[0xd7, 0xff][..], &packed].concat();
        assert_eq!(Value::decode(&eight).unwrap(), Value::Date(2500));
        let twelve = [&[0xc7, 12, 0xff, 0, 0, 0, 0][..], &(-3i64).to_be_bytes()].concat();
        assert_eq!(Value::decode(&twelve).unwrap(), Value::Date(-3000));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let wire = vec![0x91; 100_000];
        assert!(Value::decode(&wire).is_err());
    }
}
