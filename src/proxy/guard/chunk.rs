//! The line before a chunk's data: its size, and extensions that nobody uses but to hide something (RFC 9112 §7.1.1).
//!
//! Held to the grammar byte by byte: a line that ends inside a quoted string, or with something else than CRLF, is where
//! two readers would find the chunk's data in different places.

/// Bytes of extensions on one line.
const MAX_EXTENSION: u16 = 1024;
/// Digits of a size; more could only be zeros.
const MAX_DIGITS: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkLine {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        bytes: u16,
        at: Extension,
    },
    /// After the carriage return.
    End(u64),
    /// All of it has come: the chunk's size.
    Whole(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extension {
    /// Space that a semicolon must follow.
    Gap,
    Semicolon,
    Name,
    /// Space after a name: an equals sign or a semicolon follows.
    NameGap,
    Equals,
    Value,
    Quoted,
    /// After a backslash.
    Escaped,
    /// After the closing quote.
    Closed,
}

impl ChunkLine {
    pub(super) const BEGIN: ChunkLine = ChunkLine::Size { size: 0, digits: 0 };

    /// Takes a byte; None when it can't stand there.
    pub(super) fn next(self, byte: u8) -> Option<ChunkLine> {
        match self {
            ChunkLine::Size { size, digits } => match (char::from(byte).to_digit(16), byte) {
                // The size fits a signed number of 64 bits: to some, a larger one is negative.
                (Some(digit), _) if digits < MAX_DIGITS && size >> 59 == 0 => {
                    Some(ChunkLine::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
                }
                (None, b'\r') if digits > 0 => Some(ChunkLine::End(size)),
                (None, _) if digits > 0 => {
                    Extension::Gap.next(byte).map(|at| ChunkLine::Extension { size, bytes: 1, at })
                }
                _ => None,
            },
            ChunkLine::Extension { size, at, .. } if byte == b'\r' => at.may_end().then_some(ChunkLine::End(size)),
            ChunkLine::Extension { size, bytes, at } if bytes < MAX_EXTENSION => {
                at.next(byte).map(|at| ChunkLine::Extension { size, bytes: bytes + 1, at })
            }
            ChunkLine::End(size) if byte == b'\n' => Some(ChunkLine::Whole(size)),
            _ => None,
        }
    }
}

impl Extension {
    fn next(self, byte: u8) -> Option<Extension> {
        use Extension::*;
        let is_space = matches!(byte, b' ' | b'\t');
        Some(match self {
            Gap | Name | NameGap | Value | Closed if byte == b';' => Semicolon,
            Gap | Value | Closed if is_space => Gap,
            Semicolon if is_space => Semicolon,
            Name | NameGap if is_space => NameGap,
            Name | NameGap if byte == b'=' => Equals,
            Equals if is_space => Equals,
            Equals if byte == b'"' => Quoted,
            Semicolon | Name if is_token(byte) => Name,
            Equals | Value if is_token(byte) => Value,
            Quoted if byte == b'"' => Closed,
            Quoted if byte == b'\\' => Escaped,
            Quoted | Escaped if byte == b'\t' || byte >= b' ' && byte != 0x7f => Quoted,
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        matches!(self, Extension::Name | Extension::Value | Extension::Closed)
    }
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(line: &[u8]) -> Option<u64> {
        match line.iter().try_fold(ChunkLine::BEGIN, |at, byte| at.next(*byte)) {
            Some(ChunkLine::Whole(size)) => Some(size),
            _ => None,
        }
    }

    #[test]
    fn sizes_and_extensions_follow_the_grammar() {
        for (line, expected) in [
            ("0", 0),
            ("5", 5),
            ("aF", 0xaf),
            ("0000000000000005", 5),
            ("7fffffffffffffff", i64::MAX as u64),
            ("5;a", 5),
            ("5;a=b;c=\"d;\\\"e\u{e9}\"", 5),
            ("5 \t; a = b ;c", 5),
        ] {
            assert_eq!(size(format!("{line}\r\n").as_bytes()), Some(expected), "{line}");
        }
        let long = "x".repeat(usize::from(MAX_EXTENSION) - 1);
        assert_eq!(size(format!("5;{long}\r\n").as_bytes()), Some(5));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("5;{}", "x".repeat(usize::from(MAX_EXTENSION)));
        for line in [
            "",
            " 5",
            "\t5",
            "5 ",
            "5 5",
            "0x5",
            "+5",
            "-5",
            "g",
            "5,",
            "5.0",
            "5h",
            "8000000000000000",
            "00000000000000005",
            "5;",
            "5;;a",
            "5;=b",
            "5;a=",
            "5;a=\"",
            "5;a=\"b",
            "5;a=\"b\\",
            "5;a=\"b\"c",
            "5;a b",
            "5;a=b c",
            "5;a\0",
            "5;a\u{b}",
            "5;a=\"\0\"",
            "5;a=\"\u{7f}\"",
            "5\0",
            "5\r",
            "5;a\rb",
            &long,
        ] {
            assert_eq!(size(format!("{line}\r\n").as_bytes()), None, "{line:?}");
        }
        for bytes in [&b"5\n"[..], b"5;a\n", b"5;a=\"\r\n\"\r\n", b"5\xa0\r\n", b"5;a=\"\n\"\r\n"] {
            assert_eq!(size(bytes), None, "{}", bytes.escape_ascii());
        }
    }
}
