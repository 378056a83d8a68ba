//! Events in wire form, as applications have them.

use tidegate_msgpack::write;

/// `["message", [rows...]]`; one row makes it about 100 bytes long, a hundred of them about 10 KB.
pub(crate) fn rows(count: u32) -> Vec<u8> {
    let mut out = Vec::new();
    write::array(&mut out, 2);
    write::str(&mut out, "message");
    write::array(&mut out, count);
    for number in 0..count {
        row(&mut out, number);
    }
    out
}

/// `["message", row, bytes, bytes]`, with a KiB of bytes each.
pub(crate) fn with_attachments() -> Vec<u8> {
    let mut out = Vec::new();
    write::array(&mut out, 4);
    write::str(&mut out, "message");
    row(&mut out, 0);
    for fill in [1, 2] {
        write::bin(&mut out, &[fill; 1_024]);
    }
    out
}

/// `["message", text]`.
pub(crate) fn text(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write::array(&mut out, 2);
    write::str(&mut out, "message");
    write::str(&mut out, &"x".repeat(bytes));
    out
}

fn row(out: &mut Vec<u8>, number: u32) {
    write::map(out, 4);
    write::str(out, "id");
    write::uint(out, 1_000 + u64::from(number));
    write::str(out, "at");
    write::uint(out, 1_760_000_000_000 + u64::from(number));
    write::str(out, "from");
    write::str(out, "user-4711");
    write::str(out, "text");
    write::str(out, "shall we meet at \"noon\", by the grüne door?");
}
