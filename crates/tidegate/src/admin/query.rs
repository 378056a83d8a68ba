//! The query of a URL, as forms write it: `a=b&c=d`, `%20` or `+` for a space.

/// The pairs in their order; none when something is not encoded as it should be.
pub(super) fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => 16 * digit(rest.next()?)? + digit(rest.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_forms_write_is_read() {
        let read = |query| {
            pairs(query).map(|pairs| {
                pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(read("").unwrap(), "");
        assert_eq!(read("namespace=/chat&device=a+b%2Bc").unwrap(), "namespace=/chat device=a b+c");
        assert_eq!(read("&a&b==&c=%C3%a4&").unwrap(), "a= b== c=ä");
        for query in ["a=%", "a=%4", "a=%zz", "a=%+1", "a=%ff", "%ff=a"] {
            assert_eq!(read(query), None, "{query}");
        }
    }
}
