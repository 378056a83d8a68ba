//! The cursor: every header, what is refused, and how deep it goes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use tidegate_msgpack::{DEPTH_MAX, Error, Reader, Token, check};

fn one(bytes: &[u8]) -> Token<'_> {
    let mut reader = Reader::new(bytes);
    let token = reader.token().unwrap();
    assert_eq!(reader.position(), bytes.len(), "{bytes:02x?}");
    assert!(reader.is_empty());
    token
}

#[test]
fn every_scalar_header_is_read() {
    assert_eq!(one(&[0x00]), Token::UInt(0));
    assert_eq!(one(&[0x7f]), Token::UInt(127));
    assert_eq!(one(&[0xff]), Token::Int(-1));
    assert_eq!(one(&[0xe0]), Token::Int(-32));
    assert_eq!(one(&[0xc0]), Token::Nil);
    assert_eq!(one(&[0xc2]), Token::Bool(false));
    assert_eq!(one(&[0xc3]), Token::Bool(true));
    assert_eq!(one(&[0xca, 0x3f, 0xc0, 0, 0]), Token::F32(1.5));
    assert_eq!(one(&[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]), Token::F64(1.5));
    assert_eq!(one(&[0xcc, 200]), Token::UInt(200));
    assert_eq!(one(&[0xcd, 1, 0]), Token::UInt(256));
    assert_eq!(one(&[0xce, 0, 1, 0, 0]), Token::UInt(65536));
    assert_eq!(one(&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Token::UInt(u64::MAX));
    assert_eq!(one(&[0xd0, 0x80]), Token::Int(-128));
    assert_eq!(one(&[0xd1, 0x80, 0]), Token::Int(-32768));
    assert_eq!(one(&[0xd2, 0x80, 0, 0, 0]), Token::Int(-2_147_483_648));
    assert_eq!(one(&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0]), Token::Int(i64::MIN));
    assert_eq!(one(&[0xa2, b'h', b'i']), Token::Str(b"hi"));
    assert_eq!(one(&[0xd9, 1, b'h']), Token::Str(b"h"));
    assert_eq!(one(&[0xda, 0, 1, b'h']), Token::Str(b"h"));
    assert_eq!(one(&[0xdb, 0, 0, 0, 1, b'h']), Token::Str(b"h"));
    assert_eq!(one(&[0xc4, 1, 9]), Token::Bin(&[9]));
    assert_eq!(one(&[0xc5, 0, 1, 9]), Token::Bin(&[9]));
    assert_eq!(one(&[0xc6, 0, 0, 0, 1, 9]), Token::Bin(&[9]));
}

#[test]
fn a_non_negative_integer_is_unsigned_whatever_its_width() {
    assert_eq!(one(&[0xd0, 5]), Token::UInt(5));
    assert_eq!(one(&[0xd1, 0, 5]), Token::UInt(5));
    assert_eq!(one(&[0xd2, 0, 0, 0, 5]), Token::UInt(5));
    assert_eq!(one(&[0xd3, 0, 0, 0, 0, 0, 0, 0, 5]), Token::UInt(5));
}

#[test]
fn an_extension_keeps_its_header() {
    for (header, size) in [(0xd4, 1), (0xd5, 2), (0xd6, 4), (0xd7, 8), (0xd8, 16)] {
        let mut bytes = vec![header, 0xff];
        bytes.extend(std::iter::repeat_n(7, size));
        assert_eq!(one(&bytes), Token::Ext { kind: -1, data: &bytes[2..], header });
    }
    assert_eq!(one(&[0xc7, 1, 0, 7]), Token::Ext { kind: 0, data: &[7], header: 0xc7 });
    assert_eq!(one(&[0xc8, 0, 1, 0, 7]), Token::Ext { kind: 0, data: &[7], header: 0xc8 });
    assert_eq!(one(&[0xc9, 0, 0, 0, 1, 0, 7]), Token::Ext { kind: 0, data: &[7], header: 0xc9 });
}

#[test]
fn a_container_is_announced_and_its_elements_follow() {
    let bytes = [0x92, 0x01, 0x81, 0xa1, b'k', 0xdc, 0, 0];
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.array(), Ok(2));
    assert_eq!(reader.uint(), Ok(1));
    assert_eq!(reader.map(), Ok(1));
    assert_eq!(reader.str(), Ok("k"));
    assert_eq!(reader.remaining(), &[0xdc, 0, 0]);
    assert_eq!(reader.array(), Ok(0));
    assert!(reader.is_empty());
}

#[test]
fn a_length_that_cannot_fit_is_refused_at_once() {
    for bytes in [
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 0][..],
        &[0xdf, 0xff, 0xff, 0xff, 0xff, 0],
        &[0xdc, 0, 2, 0],
        &[0xde, 0, 1, 0],
        &[0x92, 0],
        &[0x81, 0],
        &[0xc6, 0xff, 0xff, 0xff, 0xff, 0],
        &[0xdb, 0, 0, 0, 2, 0],
        &[0xc9, 0, 0, 0, 2, 0, 0],
        &[0xd8, 0, 1],
        &[0xcf, 0],
        &[0xcc],
        &[0xc4],
    ] {
        assert_eq!(Reader::new(bytes).token(), Err(Error::Truncated), "{bytes:02x?}");
    }
}

#[test]
fn the_reserved_byte_is_refused() {
    assert_eq!(Reader::new(&[0xc1]).token(), Err(Error::Reserved));
}

#[test]
fn a_typed_read_refuses_other_types() {
    let expected = |error: Error| match error {
        Error::Type { expected } => expected,
        other => panic!("{other}"),
    };
    assert_eq!(expected(Reader::new(&[0x01]).str().unwrap_err()), "a string");
    assert_eq!(expected(Reader::new(&[0x80]).array().unwrap_err()), "an array");
    assert_eq!(expected(Reader::new(&[0x90]).map().unwrap_err()), "a map");
    assert_eq!(expected(Reader::new(&[0xff]).uint().unwrap_err()), "an unsigned integer");
    assert_eq!(expected(Reader::new(&[0xc0]).bool().unwrap_err()), "a boolean");
    assert_eq!(Reader::new(&[0xc3]).bool(), Ok(true));
    // A lone surrogate, as a JavaScript encoder writes it.
    assert_eq!(Reader::new(&[0xa3, 0xed, 0xa0, 0x80]).str(), Err(Error::Utf8));
}

#[test]
fn skip_and_value_take_one_whole_value() {
    let bytes = [0x82, 0xa1, b'a', 0x92, 0x01, 0x90, 0x02, 0xc4, 1, 0, 0x2a];
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.value(), Ok(&bytes[..10]));
    let mut copy = reader.clone();
    assert_eq!(copy.skip(), Ok(()));
    assert!(copy.is_empty());
    assert_eq!(reader.uint(), Ok(0x2a));
}

#[test]
fn depth_is_bounded_whatever_the_container() {
    let nested = |levels: usize, open: &[u8], last: &[u8]| {
        let mut bytes = open.repeat(levels);
        bytes.extend_from_slice(last);
        check(&bytes)
    };
    assert_eq!(nested(DEPTH_MAX, &[0x91], &[0x01]), Ok(()));
    assert_eq!(nested(DEPTH_MAX + 1, &[0x91], &[0x01]), Err(Error::TooDeep));
    assert_eq!(nested(DEPTH_MAX - 1, &[0x91], &[0x90]), Ok(()));
    assert_eq!(nested(DEPTH_MAX, &[0x91], &[0x90]), Err(Error::TooDeep));
    assert_eq!(nested(DEPTH_MAX, &[0x81, 0x00], &[0x01]), Ok(()));
    assert_eq!(nested(DEPTH_MAX + 1, &[0x81, 0x00], &[0x01]), Err(Error::TooDeep));
    assert_eq!(nested(1_000_000, &[0x91], &[]), Err(Error::TooDeep));
    // Depth counts open containers only: a long row of shallow ones is fine.
    let mut row = vec![0xdc, 0x03, 0xe8];
    row.extend(std::iter::repeat_n(0x90, 1000));
    assert_eq!(check(&row), Ok(()));
}
