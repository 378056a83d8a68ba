//! Values cross between JSON, MessagePack clients and the wire form as they do in stock servers and clients.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod vectors;

use bytes::Bytes;
use serde_json::Value as Json;
use tidegate_msgpack::{check, write};
use tidegate_protocol::value::{
    Binary, DEPTH_MAX, Error, client_to_wire, json_to_wire, wire_to_client, wire_to_json,
};
use vectors::{hex, unhex};

fn from_json(json: &str, attachments: &[Bytes]) -> Result<Vec<u8>, Error> {
    // Not empty, so that a transcoder that counts from the front of the buffer is found out.
    let mut wire = b"front".to_vec();
    json_to_wire(json.as_bytes(), attachments, &mut wire)?;
    Ok(wire.split_off(5))
}

fn from_client(msgpack: &[u8]) -> Result<Vec<u8>, Error> {
    let mut wire = b"front".to_vec();
    client_to_wire(msgpack, &mut wire)?;
    Ok(wire.split_off(5))
}

fn to_json(wire: &[u8]) -> Result<(String, Vec<Bytes>), Error> {
    let (mut json, mut attachments) = (b"front".to_vec(), Vec::new());
    wire_to_json(wire, &mut json, &mut attachments)?;
    Ok((String::from_utf8(json.split_off(5)).unwrap(), attachments))
}

fn to_client(wire: &[u8]) -> Result<Vec<u8>, Error> {
    let mut client = b"front".to_vec();
    wire_to_client(wire, &mut client)?;
    Ok(client.split_off(5))
}

fn text_of(row: &Json) -> (&str, Vec<Bytes>) {
    let attachments = row["attachments"].as_array().unwrap();
    (row["json"].as_str().unwrap(), attachments.iter().map(|hex| unhex(hex).into()).collect())
}

#[test]
fn every_value_crosses_as_with_stock_encoders() {
    let vectors = vectors::crossings();
    let rows = vectors["values"].as_array().unwrap();
    assert!(rows.len() > 30);
    for row in rows {
        let name = row["name"].as_str().unwrap();
        let (json, attachments) = text_of(&row["text"]);
        assert_eq!(hex(&from_json(json, &attachments).unwrap()), row["wire_of_text"], "text to wire: {name}");
        let wire = from_client(&unhex(&row["client"])).unwrap();
        assert_eq!(hex(&wire), row["wire_of_client"], "client to wire: {name}");
        let (printed, printed_attachments) = to_json(&wire).unwrap();
        let (expected, expected_attachments) = text_of(&row["to_text"]);
        if name == "fractions" {
            // JavaScript writes 1e+300 where we write 1e300; both are read as the same number.
            let numbers = |json: &str| serde_json::from_str::<Json>(json).unwrap();
            assert_eq!(numbers(&printed), numbers(expected), "wire to text: {name}");
        } else {
            assert_eq!(printed, expected, "wire to text: {name}");
        }
        assert_eq!(printed_attachments, expected_attachments, "wire to text: {name}");
        assert_eq!(Binary::of(&wire).map(|binary| binary.count), Ok(expected_attachments.len()), "{name}");
        assert_eq!(hex(&to_client(&wire).unwrap()), row["to_client"], "wire to client: {name}");
    }
}

/// What a JavaScript client makes of MessagePack, as far as JSON can tell.
fn seen_by_client(msgpack: &[u8]) -> (String, Vec<Bytes>) {
    to_json(&from_client(msgpack).unwrap()).unwrap()
}

#[test]
fn foreign_encodings_on_the_wire_reach_receivers_as_with_stock_servers() {
    let vectors = vectors::crossings();
    for row in vectors["wires"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let wire = unhex(&row["wire"]);
        let (printed, attachments) = to_json(&wire).unwrap();
        let (expected, expected_attachments) = text_of(&row["to_text"]);
        let client = to_client(&wire).unwrap();
        match name {
            // Stock rounds these to a double; the digits are the same double when JavaScript reads them.
            "the largest integer" => assert_eq!(printed, "[\"e\",18446744073709551615]"),
            "the smallest integer" => assert_eq!(printed, "[\"e\",-9223372036854775808]"),
            _ => assert_eq!(printed, expected, "wire to text: {name}"),
        }
        assert_eq!(attachments, expected_attachments, "wire to text: {name}");
        assert_eq!(Binary::of(&wire).map(|binary| binary.count), Ok(attachments.len()), "{name}");
        match name {
            // Stock writes 0 for the one and 1970 for the other.
            "the largest integer" => assert_eq!(client, wire),
            "a timestamp beyond all dates" => assert_eq!(hex(&client), "92a165d7007fffffffffffffff"),
            // A reader of ours would mend what a browser's throws on, so the bytes themselves count here.
            _ if name.contains("utf-8") || name.contains("cut") || name.contains("surrogate") => {
                assert_eq!(hex(&client), row["to_client"], "wire to client: {name}");
            }
            _ => {
                let stock = unhex(&row["to_client"]);
                assert_eq!(seen_by_client(&client), seen_by_client(&stock), "wire to client: {name}");
            }
        }
    }
}

#[test]
fn foreign_encodings_of_clients_are_read_as_by_stock_servers() {
    let vectors = vectors::crossings();
    for row in vectors["clients"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let wire = from_client(&unhex(&row["client"])).unwrap();
        assert_eq!(check(&wire), Ok(()));
        assert_eq!(to_json(&wire), to_json(&unhex(&row["wire"])), "client to wire: {name}");
        if !["a float of 32 bits", "an integral float", "an unneeded width"].contains(&name) {
            // These three keep their bytes, where stock writes its own choice for the same value.
            assert_eq!(hex(&wire), row["wire"], "client to wire: {name}");
        }
    }
}

#[test]
fn large_containers_get_wide_lengths() {
    for length in [15_u32, 16, 17, 255, 256, 65535, 65536, 70000] {
        let numbers: Vec<String> = (0..length).map(|number| (number % 100).to_string()).collect();
        let mut expected = Vec::new();
        write::array(&mut expected, length);
        (0..length).for_each(|number| write::uint(&mut expected, u64::from(number % 100)));
        let json = format!("[{}]", numbers.join(","));
        assert_eq!(from_json(&json, &[]), Ok(expected.clone()));
        assert_eq!(to_json(&expected).unwrap().0, json);

        let mut expected = Vec::new();
        write::map(&mut expected, length);
        let mut client = expected.clone();
        for number in 0..length {
            write::str(&mut expected, &format!("k{number}"));
            write::nil(&mut expected);
            write::str(&mut client, &format!("k{number}"));
            write::nil(&mut client);
        }
        let entries: Vec<String> = (0..length).map(|number| format!("\"k{number}\":null")).collect();
        let json = format!("{{{}}}", entries.join(","));
        assert_eq!(from_json(&json, &[]), Ok(expected.clone()));
        assert_eq!(to_json(&expected).unwrap().0, json);
        assert_eq!(from_client(&client), Ok(expected));
    }
}

#[test]
fn wide_containers_and_attachments_nest_in_any_order() {
    let attachments: Vec<Bytes> = vec![vec![1; 300].into(), Bytes::new(), vec![3; 70000].into()];
    let filler = "0,".repeat(20);
    let json = format!(
        "[{filler}[{{\"_placeholder\":true,\"num\":2}},{{\"_placeholder\":true,\"num\":1}},[{filler}{{\"num\":0,\"_placeholder\":true}}]]]"
    );
    let mut expected = Vec::new();
    let zeros = |out: &mut Vec<u8>| (0..20).for_each(|_| write::uint(out, 0));
    write::array(&mut expected, 21);
    zeros(&mut expected);
    write::array(&mut expected, 3);
    write::bin(&mut expected, &attachments[2]);
    write::bin(&mut expected, &attachments[1]);
    write::array(&mut expected, 21);
    zeros(&mut expected);
    write::bin(&mut expected, &attachments[0]);
    assert_eq!(from_json(&json, &attachments), Ok(expected));
}

#[test]
fn numbers_become_what_a_node_server_would_write() {
    for (json, expected) in [
        ("1.0", "01"),
        ("1e3", "cd03e8"),
        ("-0", "00"),
        ("-0.0e5", "00"),
        ("100E-2", "01"),
        ("9007199254740992.0", "cf0020000000000000"),
        ("9007199254740994.0", "cb4340000000000001"),
        ("18446744073709551615", "cfffffffffffffffff"),
        ("18446744073709551616", "cb43f0000000000000"),
        ("-9223372036854775808", "d38000000000000000"),
        ("-9223372036854775809", "cbc3e0000000000000"),
        ("1e400", "cb7ff0000000000000"),
        ("-1e400", "cbfff0000000000000"),
        ("1e-400", "00"),
        ("0.1", "cb3fb999999999999a"),
        ("1e15", "cf00038d7ea4c68000"),
    ] {
        assert_eq!(from_json(json, &[]).map(|wire| hex(&wire)), Ok(expected.to_owned()), "{json}");
    }
}

#[test]
fn strings_are_unescaped_and_lone_surrogates_replaced() {
    for (json, text) in [
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u0041\u00e9\u6f22""#, "Aé漢"),
        (r#""\ud83d\ude00""#, "😀"),
        (r#""\uD83D\uDE00""#, "😀"),
        (r#""\ud83d""#, "\u{fffd}"),
        (r#""\ud83dx""#, "\u{fffd}x"),
        (r#""\ud83d\n""#, "\u{fffd}\n"),
        (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
        (r#""\ud83d\u0041""#, "\u{fffd}A"),
        ("\"\u{7f}\u{2028}\"", "\u{7f}\u{2028}"),
        (r#""\u0000""#, "\0"),
    ] {
        let mut expected = Vec::new();
        write::str(&mut expected, text);
        assert_eq!(from_json(json, &[]), Ok(expected), "{json}");
    }
}

#[test]
fn what_is_not_json_is_refused_where_it_goes_wrong() {
    for (json, at) in [
        ("", 0),
        (" ", 1),
        ("1 2", 2),
        ("[1,]", 3),
        ("[,1]", 1),
        ("[1 2]", 3),
        ("[1", 2),
        ("{\"a\":1,}", 7),
        ("{\"a\" 1}", 5),
        ("{a:1}", 1),
        ("{1:1}", 1),
        ("{\"a\":}", 5),
        ("{\"a\":1", 6),
        ("01", 1),
        ("-", 1),
        ("+1", 0),
        (".5", 0),
        ("1.", 2),
        ("1.e5", 2),
        ("1e", 2),
        ("1e+", 3),
        ("0x1", 1),
        ("NaN", 0),
        ("nul", 0),
        ("truE", 0),
        ("'a'", 0),
        ("\"a", 2),
        ("\"\\x\"", 2),
        ("\"\\u12g4\"", 5),
        ("\"\\u12", 5),
        ("\"a\nb\"", 2),
        ("\"\u{0}\"", 1),
        ("[1]]", 3),
        ("/**/1", 0),
        ("\u{feff}1", 0),
        ("\u{a0}1", 0),
        ("undefined", 0),
    ] {
        assert_eq!(from_json(json, &[]), Err(Error::Json { at }), "{json:?}");
    }
    let mut out = Vec::new();
    assert_eq!(json_to_wire(b"\"\xff\"", &[], &mut out), Err(Error::Utf8));
    assert_eq!(json_to_wire(b"\"\xed\xa0\x80\"", &[], &mut out), Err(Error::Utf8));
}

#[test]
fn nesting_is_bounded() {
    let json = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(from_json(&json(DEPTH_MAX), &[]).is_ok());
    assert_eq!(from_json(&json(DEPTH_MAX + 1), &[]), Err(Error::TooDeep));
    assert_eq!(from_json(&"[".repeat(1_000_000), &[]), Err(Error::TooDeep));
    assert_eq!(from_json(&"{\"a\":".repeat(DEPTH_MAX + 1), &[]), Err(Error::TooDeep));

    let client = |levels: usize, innermost: &[u8]| [&vec![0x91; levels][..], innermost].concat();
    assert!(from_client(&client(DEPTH_MAX, &[0x01])).is_ok());
    assert_eq!(from_client(&client(DEPTH_MAX + 1, &[0x01])), Err(Error::TooDeep));
    assert_eq!(from_client(&client(1_000_000, &[0x01])), Err(Error::TooDeep));
    // A date sends it down the other path. An unknown extension becomes an array, which is one level more.
    assert!(from_client(&client(DEPTH_MAX, &[0xd7, 0, 0, 0, 0, 0, 0, 0, 0, 1])).is_ok());
    assert_eq!(from_client(&client(DEPTH_MAX + 1, &[0xd7, 0, 0, 0, 0, 0, 0, 0, 0, 1])), Err(Error::TooDeep));
    assert!(from_client(&client(DEPTH_MAX - 1, &[0xd4, 5, 1])).is_ok());
    assert_eq!(from_client(&client(DEPTH_MAX, &[0xd4, 5, 1])), Err(Error::TooDeep));

    // What a Node peer may nest deeper still goes out, as far as the reader below goes.
    let deepest = client(tidegate_msgpack::DEPTH_MAX, &[0x01]);
    assert!(to_json(&deepest).is_ok());
    assert_eq!(to_json(&client(tidegate_msgpack::DEPTH_MAX + 1, &[0x01])), Err(Error::TooDeep));
}

#[test]
fn placeholders_stand_for_attachments() {
    let one: [Bytes; 1] = [Bytes::from_static(b"\x07")];
    let two: [Bytes; 2] = [Bytes::from_static(b"\x07"), Bytes::from_static(b"\x08")];
    let accepted = |json: &str, attachments: &[Bytes], expected: &str| {
        assert_eq!(from_json(json, attachments).map(|wire| hex(&wire)), Ok(expected.to_owned()), "{json}");
    };
    accepted(r#"{"_placeholder":true,"num":0}"#, &one, "c40107");
    accepted(r#"{"num":0,"_placeholder":true}"#, &one, "c40107");
    accepted(r#"{"\u005fplaceholder":true,"num":0}"#, &one, "c40107");
    accepted(r#"{"a":[1],"num":0e0,"x":{"y":2},"_placeholder":true,"z":null}"#, &one, "c40107");
    accepted(r#"{"_placeholder":false,"num":5,"_placeholder":true,"num":0}"#, &one, "c40107");
    accepted(r#"[{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]"#, &two, "92c40108c40107");
    // Not every attachment has to be mentioned.
    accepted(r#"[{"_placeholder":true,"num":1}]"#, &two, "91c40108");
    // Only the value true makes a placeholder.
    accepted(r#"{"_placeholder":1,"num":0}"#, &one, "82ac5f706c616365686f6c64657201a36e756d00");
    accepted(r#"{"_placeholder":"true"}"#, &one, "81ac5f706c616365686f6c646572a474727565");
    // Without attachments it is an ordinary object.
    accepted(r#"{"_placeholder":true,"num":0}"#, &[], "82ac5f706c616365686f6c646572c3a36e756d00");

    for json in [
        r#"{"_placeholder":true,"num":1}"#,
        r#"{"_placeholder":true,"num":-1}"#,
        r#"{"_placeholder":true,"num":0.5}"#,
        r#"{"_placeholder":true,"num":"0"}"#,
        r#"{"_placeholder":true,"num":null}"#,
        r#"{"_placeholder":true}"#,
        r#"{"_placeholder":true,"num":18446744073709551615}"#,
        // Each attachment has one place.
        r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]"#,
    ] {
        assert_eq!(from_json(json, &one), Err(Error::Placeholder), "{json}");
    }
}

#[test]
fn what_is_not_one_value_is_refused() {
    use tidegate_msgpack::Error as Malformed;
    for (bytes, error) in [
        (&b""[..], Malformed::Truncated),
        (b"\x92\x01", Malformed::Truncated),
        (b"\x01\x01", Malformed::Trailing),
        (b"\xc1", Malformed::Reserved),
        (b"\xd4\x00\x00\x01", Malformed::Trailing),
        (b"\xdd\xff\xff\xff\xff", Malformed::Truncated),
    ] {
        assert_eq!(from_client(bytes), Err(error.into()), "{bytes:02x?}");
        assert_eq!(to_json(bytes), Err(error.into()), "{bytes:02x?}");
        assert_eq!(to_client(bytes), Err(error.into()), "{bytes:02x?}");
        assert_eq!(Binary::of(bytes).map(|binary| binary.count), Err(error.into()), "{bytes:02x?}");
    }
}

#[test]
fn a_key_is_a_string_or_an_integer() {
    for key in [&b"\xc0"[..], b"\xc3", b"\xcb\0\0\0\0\0\0\0\0", b"\x90", b"\xc4\x01\x61", b"\xd4\x05\x01"] {
        let map = [b"\x81", key, b"\x01"].concat();
        assert_eq!(from_client(&map), Err(Error::Key), "{key:02x?}");
        assert_eq!(to_json(&map), Err(Error::Key), "{key:02x?}");
    }
}

#[test]
fn what_looks_like_an_attachment_is_found_wherever_it_stands() {
    let look = |json: &str| Binary::of(&from_json(json, &[]).unwrap()).unwrap();
    for json in [r#"{"_placeholder":true,"num":0}"#, r#"[1,{"a":[{"num":99,"_placeholder":true}]}]"#] {
        assert_eq!(look(json), Binary { count: 0, has_placeholder: true }, "{json}");
    }
    for json in [
        r#"["_placeholder",true]"#,
        r#"{"_placeholder":false}"#,
        r#"{"_placeholder":1}"#,
        r#"{"a":"_placeholder","b":true}"#,
    ] {
        assert!(!look(json).has_placeholder, "{json}");
    }
    let beside = Binary::of(b"\x82\xa1b\xc4\x01\x07\xa1x\x81\xac_placeholder\xc3");
    assert_eq!(beside, Ok(Binary { count: 1, has_placeholder: true }));
    assert_eq!(Binary::of(b"\x81\xc0\x01"), Err(Error::Key));
}
