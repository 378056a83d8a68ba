//! The writers: header widths of notepack 3.0.1, and that the cursor reads back what they write.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use proptest::prelude::*;
use tidegate_msgpack::{Reader, Token, check, write};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

#[test]
fn integers_take_the_shortest_form() {
    for (value, bytes) in [
        (0, &[0x00][..]),
        (127, &[0x7f]),
        (128, &[0xcc, 0x80]),
        (255, &[0xcc, 0xff]),
        (256, &[0xcd, 1, 0]),
        (65535, &[0xcd, 0xff, 0xff]),
        (65536, &[0xce, 0, 1, 0, 0]),
        (0xffff_ffff, &[0xce, 0xff, 0xff, 0xff, 0xff]),
        (0x1_0000_0000, &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0]),
        (-1, &[0xff]),
        (-32, &[0xe0]),
        (-33, &[0xd0, 0xdf]),
        (-128, &[0xd0, 0x80]),
        (-129, &[0xd1, 0xff, 0x7f]),
        (-32768, &[0xd1, 0x80, 0]),
        (-32769, &[0xd2, 0xff, 0xff, 0x7f, 0xff]),
        (-2_147_483_648, &[0xd2, 0x80, 0, 0, 0]),
        (-2_147_483_649, &[0xd3, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]),
    ] {
        assert_eq!(written(|out| write::int(out, value)), bytes, "{value}");
    }
}

#[test]
fn lengths_take_the_shortest_form() {
    let head = |write: &dyn Fn(&mut Vec<u8>), length: usize| written(write)[..length].to_vec();
    let text = "x".repeat(65536);
    assert_eq!(head(&|out| write::str(out, &text[..31]), 1), [0xbf]);
    assert_eq!(head(&|out| write::str(out, &text[..32]), 2), [0xd9, 32]);
    assert_eq!(head(&|out| write::str(out, &text[..255]), 2), [0xd9, 255]);
    assert_eq!(head(&|out| write::str(out, &text[..256]), 3), [0xda, 1, 0]);
    assert_eq!(head(&|out| write::str(out, &text), 5), [0xdb, 0, 1, 0, 0]);
    let data = text.as_bytes();
    assert_eq!(head(&|out| write::bin(out, &data[..0]), 2), [0xc4, 0]);
    assert_eq!(head(&|out| write::bin(out, &data[..256]), 3), [0xc5, 1, 0]);
    assert_eq!(head(&|out| write::bin(out, data), 5), [0xc6, 0, 1, 0, 0]);
    assert_eq!(written(|out| write::array(out, 15)), [0x9f]);
    assert_eq!(written(|out| write::array(out, 16)), [0xdc, 0, 16]);
    assert_eq!(written(|out| write::array(out, 65536)), [0xdd, 0, 1, 0, 0]);
    assert_eq!(written(|out| write::map(out, 15)), [0x8f]);
    assert_eq!(written(|out| write::map(out, 200)), [0xde, 0, 200]);
    assert_eq!(written(|out| write::map(out, 65536)), [0xdf, 0, 1, 0, 0]);
    assert_eq!(head(&|out| write::ext(out, 1, &data[..3]), 3), [0xc7, 3, 1]);
    assert_eq!(head(&|out| write::ext(out, 1, &data[..16]), 2), [0xd8, 1]);
    assert_eq!(head(&|out| write::ext(out, 1, &data[..300]), 4), [0xc8, 1, 44, 1]);
}

/// Each pair was printed by notepack 3.0.1's `encode(new Date(ms))`.
#[test]
fn a_timestamp_has_the_form_that_notepack_chooses() {
    for (unix_ms, hex) in TIMESTAMPS {
        let bytes = written(|out| write::timestamp_ms(out, *unix_ms));
        let printed: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&printed, hex, "{unix_ms}");
    }
}

const TIMESTAMPS: &[(i64, &str)] = &[
    (0, "d6ff00000000"),
    (1, "d7ff003d090000000000"),
    (999, "d7ffee2e1f0000000000"),
    (1_000, "d6ff00000001"),
    (1_700_000_000_123, "d7ff1d5353006553f100"),
    (1_700_000_000_000, "d6ff6553f100"),
    (4_294_967_295_000, "d6ffffffffff"),
    (4_294_967_295_001, "d7ff003d0900ffffffff"),
    (4_294_967_296_000, "d7ff0000000100000000"),
    (4_294_967_296_500, "d7ff7735940100000000"),
    (17_179_869_183_000, "d7ff00000003ffffffff"),
    (17_179_869_183_999, "d7ffee2e1f03ffffffff"),
    (17_179_869_184_000, "c70cff000000000000000400000000"),
    (253_402_300_800_000, "c70cff000000000000003afff44180"),
    (8_640_000_000_000_000, "c70cff00000000000007dba8218000"),
    (-1, "c70cff3b8b87c0ffffffffffffffff"),
    (-1_000, "c70cff00000000ffffffffffffffff"),
    (-1_001, "c70cff3b8b87c0fffffffffffffffe"),
    (-62_135_596_800_000, "c70cff00000000fffffff1886e0900"),
    (-8_640_000_000_000_000, "c70cff00000000fffff82457de8000"),
];

#[derive(Debug, Clone)]
enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    UInt(u64),
    F64(u64),
    Str(Vec<u8>),
    Bin(Vec<u8>),
    Ext(i8, Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

fn value() -> impl Strategy<Value = Value> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<i16>().prop_map(|value| Value::Int(value.into())),
        any::<u64>().prop_map(Value::UInt),
        any::<u64>().prop_map(Value::F64),
        bytes().prop_map(Value::Str),
        bytes().prop_map(Value::Bin),
        (any::<i8>(), bytes()).prop_map(|(kind, data)| Value::Ext(kind, data)),
    ];
    leaf.prop_recursive(4, 64, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            prop::collection::vec((inner.clone(), inner), 0..20).prop_map(Value::Map),
        ]
    })
}

fn append(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Nil => write::nil(out),
        Value::Bool(value) => write::bool(out, *value),
        Value::Int(value) => write::int(out, *value),
        Value::UInt(value) => write::uint(out, *value),
        Value::F64(bits) => write::f64(out, f64::from_bits(*bits)),
        Value::Str(bytes) => write::str_bytes(out, bytes),
        Value::Bin(bytes) => write::bin(out, bytes),
        Value::Ext(kind, data) => write::ext(out, *kind, data),
        Value::Array(items) => {
            write::array(out, u32::try_from(items.len()).unwrap());
            items.iter().for_each(|item| append(out, item));
        }
        Value::Map(entries) => {
            write::map(out, u32::try_from(entries.len()).unwrap());
            for (key, value) in entries {
                append(out, key);
                append(out, value);
            }
        }
    }
}

fn expect(reader: &mut Reader<'_>, value: &Value) {
    let token = reader.token().unwrap();
    match (value, token) {
        (Value::Nil, Token::Nil) => {}
        (Value::Bool(left), Token::Bool(right)) => assert_eq!(*left, right),
        (Value::Int(left), Token::Int(right)) => assert_eq!(*left, right),
        (Value::Int(left), Token::UInt(right)) => assert_eq!(i128::from(*left), i128::from(right)),
        (Value::UInt(left), Token::UInt(right)) => assert_eq!(*left, right),
        (Value::F64(left), Token::F64(right)) => assert_eq!(*left, right.to_bits()),
        (Value::Str(left), Token::Str(right)) | (Value::Bin(left), Token::Bin(right)) => {
            assert_eq!(left, right);
        }
        (Value::Ext(left, data), Token::Ext { kind, data: found, .. }) => {
            assert_eq!((*left, &data[..]), (kind, found));
        }
        (Value::Array(items), Token::Array(length)) => {
            assert_eq!(items.len(), length as usize);
            items.iter().for_each(|item| expect(reader, item));
        }
        (Value::Map(entries), Token::Map(length)) => {
            assert_eq!(entries.len(), length as usize);
            for (key, value) in entries {
                expect(reader, key);
                expect(reader, value);
            }
        }
        (value, token) => panic!("{value:?} was read as {token:?}"),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in value()) {
        let bytes = written(|out| append(out, &value));
        prop_assert_eq!(check(&bytes), Ok(()));
        let mut reader = Reader::new(&bytes);
        expect(&mut reader, &value);
        prop_assert!(reader.is_empty());
        // Every proper prefix is an incomplete value.
        for length in 0..bytes.len() {
            prop_assert!(check(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&bytes);
        let mut reader = Reader::new(&bytes);
        while reader.token().is_ok() {}
    }

    // A second implementation agrees on what a value is.
    #[test]
    fn rmp_serde_reads_the_same_numbers(int in any::<i64>(), uint in any::<u64>(), float in any::<f64>(), text in ".*") {
        prop_assert_eq!(rmp_serde::from_slice::<i64>(&written(|out| write::int(out, int))).unwrap(), int);
        prop_assert_eq!(rmp_serde::from_slice::<u64>(&written(|out| write::uint(out, uint))).unwrap(), uint);
        let back: f64 = rmp_serde::from_slice(&written(|out| write::f64(out, float))).unwrap();
        prop_assert_eq!(back.to_bits(), float.to_bits());
        prop_assert_eq!(rmp_serde::from_slice::<String>(&written(|out| write::str(out, &text))).unwrap(), text);
    }
}
