//! Bytes that are known only after what follows them was written.
//!
//! A transcoder learns how many elements a container has when it ends, and gets attachments after the text that
//! refers to them. It writes one byte where such a thing belongs and notes the place; [`Insertions::apply`] then
//! makes room for all of them in one pass from the back, so that the cost stays linear however deep containers nest.

use bytes::Bytes;

/// Places in a buffer where bytes are still missing.
#[derive(Debug, Default)]
pub(crate) struct Insertions(Vec<Insertion>);

/// What is missing directly after the byte at `at - 1`, its marker. No two have the same `at`.
#[derive(Debug)]
struct Insertion {
    at: usize,
    what: Missing,
}

#[derive(Debug, Clone, Copy)]
enum Missing {
    /// The length of a container with 16 elements or more.
    Length(u32),
    /// The length and the bytes of an attachment.
    Attachment(usize),
}

/// The marker bytes of a container, by the width of its length.
struct Markers {
    fix: u8,
    wide: u8,
    wider: u8,
}

impl Insertions {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets everything noted after there were `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Ends the array whose head is the one byte at `head`.
    pub(crate) fn close_array(&mut self, out: &mut [u8], head: usize, length: u32) {
        self.close(out, head, length, Markers { fix: 0x90, wide: 0xdc, wider: 0xdd });
    }

    /// Ends the map whose head is the one byte at `head`.
    pub(crate) fn close_map(&mut self, out: &mut [u8], head: usize, length: u32) {
        self.close(out, head, length, Markers { fix: 0x80, wide: 0xde, wider: 0xdf });
    }

    fn close(&mut self, out: &mut [u8], head: usize, length: u32, markers: Markers) {
        let [_, _, _, low] = length.to_be_bytes();
        out[head] = match length {
            0..0x10 => markers.fix | low,
            0x10..0x1_0000 => markers.wide,
            _ => markers.wider,
        };
        if length >= 0x10 {
            self.0.push(Insertion { at: head + 1, what: Missing::Length(length) });
        }
    }

    /// Leaves a place for the attachment with this number.
    pub(crate) fn place_attachment(&mut self, out: &mut Vec<u8>, number: usize) {
        out.push(0xc4);
        self.0.push(Insertion { at: out.len(), what: Missing::Attachment(number) });
    }

    /// Inserts everything. `attachments` holds at least the numbers that were placed.
    pub(crate) fn apply(mut self, out: &mut Vec<u8>, attachments: &[Bytes]) {
        if self.0.is_empty() {
            return;
        }
        self.0.sort_unstable_by_key(|insertion| insertion.at);
        let missing: usize = self.0.iter().map(|insertion| insertion.what.len(attachments)).sum();
        let mut source_end = out.len();
        let mut end = source_end + missing;
        out.resize(end, 0);
        for Insertion { at, what } in self.0.into_iter().rev() {
            let moved = source_end - at;
            out.copy_within(at..source_end, end - moved);
            end -= moved;
            source_end = at;
            if let Missing::Attachment(number) = what {
                let data = &attachments[number];
                out[end - data.len()..end].copy_from_slice(data);
                end -= data.len();
                out[at - 1] = match length_width(data.len()) {
                    1 => 0xc4,
                    2 => 0xc5,
                    _ => 0xc6,
                };
            }
            let width = what.width(attachments);
            out[end - width..end].copy_from_slice(&what.length(attachments).to_be_bytes()[8 - width..]);
            end -= width;
        }
    }
}

impl Missing {
    fn length(self, attachments: &[Bytes]) -> u64 {
        match self {
            Missing::Length(length) => u64::from(length),
            Missing::Attachment(number) => attachments[number].len() as u64,
        }
    }

    /// How many bytes the length takes. Containers have no form of one byte, and never need one here.
    fn width(self, attachments: &[Bytes]) -> usize {
        match self {
            Missing::Length(length) => length_width(length as usize).max(2),
            Missing::Attachment(number) => length_width(attachments[number].len()),
        }
    }

    fn len(self, attachments: &[Bytes]) -> usize {
        let data = match self {
            Missing::Length(_) => 0,
            Missing::Attachment(number) => attachments[number].len(),
        };
        self.width(attachments) + data
    }
}

fn length_width(length: usize) -> usize {
    match length {
        0..0x100 => 1,
        0x100..0x1_0000 => 2,
        _ => 4,
    }
}
