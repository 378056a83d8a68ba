//! Glob patterns over names of rooms, users and namespaces.

use std::fmt;

/// A pattern: `*` stands for any run of characters (the empty one too), `?` for exactly one character, and `\`
/// takes the character after it as it is. Everything else stands for itself; no character is special to `*`, so
/// `room:*` covers `room:a/b` too.
///
/// A match takes at most (characters of the pattern) x (characters of the name) steps: only the last `*` is ever
/// reconsidered, so no pattern makes matching exponential.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob {
    pattern: Box<str>,
    shape: Shape,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Shape {
    /// No wildcard: the one name it matches, with the escapes resolved.
    Literal(Box<str>),
    /// Only stars. The commonest grant of all, so it is not worth a loop.
    Everything,
    Pieces(Box<[Piece]>),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Piece {
    Char(char),
    One,
    Run,
}

impl Glob {
    /// Reads a pattern. Every text is one: a `\` at the end, which has nothing to escape, stands for itself, and the
    /// empty pattern matches the empty name only.
    #[must_use]
    pub fn parse(pattern: &str) -> Self {
        let mut pieces = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            match character {
                // Two stars in a row mean no more than one.
                '*' if pieces.last() == Some(&Piece::Run) => {}
                '*' => pieces.push(Piece::Run),
                '?' => pieces.push(Piece::One),
                '\\' => pieces.push(Piece::Char(characters.next().unwrap_or('\\'))),
                other => pieces.push(Piece::Char(other)),
            }
        }
        Self { pattern: pattern.into(), shape: Shape::of(pieces) }
    }

    /// Whether the whole of `name` fits the pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match &self.shape {
            Shape::Literal(literal) => **literal == *name,
            Shape::Everything => true,
            Shape::Pieces(pieces) => fits(pieces, name),
        }
    }

    /// Whether the pattern holds no wildcard, and so names exactly one thing.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        matches!(self.shape, Shape::Literal(_))
    }

    /// Whether the pattern is `*`: it covers every name there is, rather than the names one happens to try.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        matches!(self.shape, Shape::Everything)
    }

    /// The pattern `*`.
    #[must_use]
    pub fn everything() -> Self {
        Self { pattern: "*".into(), shape: Shape::Everything }
    }
}

impl Shape {
    fn of(pieces: Vec<Piece>) -> Self {
        if pieces == [Piece::Run] {
            return Self::Everything;
        }
        let literal: Option<String> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Char(character) => Some(*character),
                Piece::One | Piece::Run => None,
            })
            .collect();
        literal.map_or_else(|| Self::Pieces(pieces.into()), |literal| Self::Literal(literal.into()))
    }
}

fn fits(pieces: &[Piece], name: &str) -> bool {
    let mut at = 0;
    let mut rest = name.chars();
    // Where to go on when a piece does not fit: behind the last run, which then takes one character more.
    let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        match pieces.get(at) {
            Some(Piece::Run) => {
                at += 1;
                retry = Some((at, rest.clone()));
                continue;
            }
            Some(piece) => {
                let mut ahead = rest.clone();
                match (piece, ahead.next()) {
                    (Piece::Char(wanted), Some(found)) if *wanted == found => {
                        (at, rest) = (at + 1, ahead);
                        continue;
                    }
                    (Piece::One, Some(_)) => {
                        (at, rest) = (at + 1, ahead);
                        continue;
                    }
                    // What is left of the name is shorter than what is left of the pattern wants.
                    (_, None) => return false,
                    _ => {}
                }
            }
            None if rest.as_str().is_empty() => return true,
            None => {}
        }
        let Some((behind, longer)) = &mut retry else { return false };
        if longer.next().is_none() {
            return false;
        }
        (at, rest) = (*behind, longer.clone());
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::parse(pattern).matches(name)
    }

    #[test]
    fn wildcards_and_escapes() {
        for (pattern, name) in [
            ("room:*", "room:"),
            ("room:*", "room:a/b:c"),
            ("*", ""),
            ("**", "anything"),
            ("a*c*e", "abcde"),
            ("a*c*e", "acecce"),
            ("?", "ä"),
            ("a?c", "a*c"),
            (r"a\*c", "a*c"),
            (r"\\", r"\"),
            (r"\a", "a"),
            ("*ab", "aab"),
            ("*ab?", "ababc"),
            (r"a\", r"a\"),
            ("", ""),
        ] {
            assert!(matches(pattern, name), "{pattern} should match {name}");
        }
        for (pattern, name) in [
            ("room:*", "room"),
            ("room:*", "aroom:x"),
            ("room", "rooms"),
            ("rooms", "room"),
            ("?", ""),
            ("?", "ab"),
            (r"a\*c", "abc"),
            ("a*c", "acd"),
            ("A", "a"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, name), "{pattern} should not match {name}");
        }
    }

    #[test]
    fn literal_means_without_wildcards() {
        for (pattern, literal) in
            [("room", true), (r"a\*b", true), ("a*b", false), ("?", false), ("*", false)]
        {
            assert_eq!(Glob::parse(pattern).is_literal(), literal, "{pattern}");
        }
        assert!(Glob::parse("**").is_everything());
        assert!(!Glob::parse("?*").is_everything());
    }

    #[test]
    fn shows_itself_as_written() {
        assert_eq!(Glob::parse(r"a\*b**?").to_string(), r"a\*b**?");
        assert_eq!(Glob::everything(), Glob::parse("*"));
    }

    #[test]
    fn a_hostile_pattern_stays_cheap() {
        // Twenty runs over a name that almost fits: exponential backtracking would not end within a lifetime.
        let pattern = format!("{}b", "a*".repeat(20));
        assert!(!matches(&pattern, &"a".repeat(5000)));
    }

    /// The definition, by plain recursion.
    fn by_definition(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|taken| by_definition(rest, &name[taken..])),
            ['?', rest @ ..] => !name.is_empty() && by_definition(rest, &name[1..]),
            [wanted, rest @ ..] => name.first() == Some(wanted) && by_definition(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?ä]{1,8}", name in "[abä]{0,10}") {
            let (pieces, characters): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(matches(&pattern, &name), by_definition(&pieces, &characters));
        }

        #[test]
        fn an_escaped_name_matches_itself_only(name in "\\PC{1,12}", other in "\\PC{0,12}") {
            let pattern: String = name.chars().flat_map(|character| ['\\', character]).collect();
            let glob = Glob::parse(&pattern);
            prop_assert!(glob.is_literal());
            prop_assert!(glob.matches(&name));
            prop_assert_eq!(glob.matches(&other), other == name);
        }
    }
}
