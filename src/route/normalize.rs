//! One form for every path: what is matched is what is forwarded.
//!
//! Follows RFC 3986, section 6.2.2: dot segments are resolved, escapes of unreserved characters
//! decoded, other escapes upper-cased; and merges repeated slashes. `%2F` and `%5C` stay escapes,
//! so they never split a segment. Nothing is decoded twice.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// `..` leads above the root.
    #[error("the path leads above the root")]
    AboveRoot,
    /// A percent sign is not followed by two hexadecimal digits.
    #[error("the path has an invalid escape")]
    InvalidEscape,
    /// NUL or another control character, plain or escaped.
    #[error("the path has a control character")]
    Control,
    /// A fragment, which no request has (RFC 9112, section 3.2).
    #[error("the path has a fragment")]
    Fragment,
    /// A plain backslash.
    #[error("the path has a backslash")]
    Backslash,
    /// Under `strict_paths`: an escaped slash or backslash, overlong UTF-8, or `;` beside dots.
    #[error("the path can be read in two ways")]
    Ambiguous,
}

/// Brings a path into its one form; allocates only if it is not in it yet.
///
/// # Errors
/// See [`PathError`].
pub fn normalize(path: &str, strict: bool) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = unescape(path.as_bytes())?;
    if strict {
        refuse_ambiguous(&decoded)?;
    }
    resolve(&decoded).map(Cow::Owned)
}

/// Whether nothing of the path could need a change. One pass, no branches on segments.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        let dubious = match byte {
            b'/' | b'.' => previous == b'/',
            byte => !PLAIN[byte as usize],
        };
        if dubious {
            return false;
        }
        previous = byte;
    }
    true
}

const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = !matches!(
            byte as u8,
            b'%' | b'\\' | b';' | b'?' | b'#' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}'
        );
        byte += 1;
    }
    table
};

/// Characters that mean the same escaped and plain (RFC 3986, section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn unescape(path: &[u8]) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit =
                    || bytes.next().and_then(|byte| (byte as char).to_digit(16)).ok_or(PathError::InvalidEscape);
                let value = u8::try_from(digit()? * 16 + digit()?).map_err(|_| PathError::InvalidEscape)?;
                match value {
                    value if value.is_ascii_control() => return Err(PathError::Control),
                    value if is_unreserved(value) => out.push(value as char),
                    value => push_escape(&mut out, value),
                }
            }
            b'\\' => return Err(PathError::Backslash),
            b'#' => return Err(PathError::Fragment),
            byte if byte.is_ascii_control() => return Err(PathError::Control),
            // Not allowed plain (RFC 3986, section 3.3); the escape says the same.
            byte if !byte.is_ascii() || !PLAIN[byte as usize] && byte != b';' => push_escape(&mut out, byte),
            byte => out.push(byte as char),
        }
    }
    Ok(out)
}

fn push_escape(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(DIGITS[usize::from(byte >> 4)] as char);
    out.push(DIGITS[usize::from(byte & 15)] as char);
}

/// Drops `.` and empty segments, takes one back for each `..`.
fn resolve(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            ".." => {
                let cut = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(cut);
            }
            "" | "." => {}
            segment => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        if last {
            out.push('/');
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

fn refuse_ambiguous(path: &str) -> Result<(), PathError> {
    let dots_and_parameter = |segment: &str| {
        let bare = segment.split(';').next().unwrap_or_default();
        segment.contains(';') && (bare == "." || bare == "..")
    };
    let escaped_separator = path.contains("%2F") || path.contains("%5C");
    let dotted = path.split('/').any(dots_and_parameter) || path.contains("%3B");
    if escaped_separator || dotted || has_overlong(path) { Err(PathError::Ambiguous) } else { Ok(()) }
}

/// Whether escapes spell a sequence that is not UTF-8: overlong forms above all.
fn has_overlong(path: &str) -> bool {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let value = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.extend(value);
        rest = after.get(2..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    std::str::from_utf8(&bytes).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_take_their_one_form() {
        let cases = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a//", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/../../c", "/c"),
            ("/.hidden", "/.hidden"),
            ("/a/..b", "/a/..b"),
            ("/%61%2D%7e", "/a-~"),
            ("/%2e%2e/a", ""),
            ("/a/%2E%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a;b=1/c", "/a;b=1/c"),
            ("/a b", "/a%20b"),
            ("/a/..;/b", "/a/..;/b"),
        ];
        for (path, expected) in cases {
            let normal = normalize(path, false);
            if expected.is_empty() {
                assert_eq!(normal, Err(PathError::AboveRoot), "{path}");
                continue;
            }
            assert_eq!(normal.as_deref(), Ok(expected), "{path}");
            assert_eq!(normalize(expected, false).as_deref(), Ok(expected), "twice: {path}");
        }
    }

    #[test]
    fn bad_paths_are_refused() {
        let cases = [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("/..", PathError::AboveRoot),
            ("/a/../..", PathError::AboveRoot),
            ("/%", PathError::InvalidEscape),
            ("/%4", PathError::InvalidEscape),
            ("/%zz", PathError::InvalidEscape),
            ("/%+1", PathError::InvalidEscape),
            ("/%00", PathError::Control),
            ("/a%0d%0ab", PathError::Control),
            ("/%7f", PathError::Control),
            ("/a\\b", PathError::Backslash),
            ("/a\u{1}", PathError::Control),
            ("/a#b", PathError::Fragment),
        ];
        for (path, error) in cases {
            assert_eq!(normalize(path, false), Err(error), "{path}");
        }
    }

    #[test]
    fn strict_paths_refuse_what_reads_in_two_ways() {
        for path in ["/a%2fb", "/a%5Cb", "/a/..;/b", "/.;x/b", "/%c0%af", "/%c0%ae%c0%ae/", "/..%3b/a"] {
            assert_eq!(normalize(path, true), Err(PathError::Ambiguous), "{path}");
            assert!(normalize(path, false).is_ok(), "{path}");
        }
        for path in ["/a;v=1/b", "/caf%C3%A9", "/a%20b", "/%E2%82%AC"] {
            assert!(normalize(path, true).is_ok(), "{path}");
        }
    }
}
