//! Endpoints listed in a file of their own.
//!
//! One endpoint to a line: `host:port`, then optionally a weight. What follows a `#` is a comment.

use std::path::Path;

use crate::config::MAX_WEIGHT;

use super::Location;

/// Larger files are refused (bytes).
const LIMIT: u64 = 1 << 20;

/// Reads a file of endpoints. Blocks; not for the threads that serve requests.
///
/// # Errors
/// Says what is wrong and in which line.
pub fn read(path: &Path) -> Result<Vec<Location>, String> {
    let shown = path.display();
    let wrong = |error: std::io::Error| format!("cannot read {shown}: {error}");
    let length = std::fs::metadata(path).map_err(wrong)?.len();
    if length > LIMIT {
        return Err(format!("{shown} is larger than 1 MiB"));
    }
    parse(&std::fs::read_to_string(path).map_err(wrong)?).map_err(|problem| format!("{shown}: {problem}"))
}

fn parse(text: &str) -> Result<Vec<Location>, String> {
    let mut list: Vec<Location> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default();
        let mut words = content.split_whitespace();
        let Some(address) = words.next() else { continue };
        let location = location(address, words.next()).map_err(|problem| format!("line {}: {problem}", index + 1))?;
        if words.next().is_some() {
            return Err(format!("line {}: more than an endpoint and its weight", index + 1));
        }
        if !list.iter().any(|known| known.is_at(&location)) {
            list.push(location);
        }
    }
    if list.is_empty() { Err("no endpoint".to_owned()) } else { Ok(list) }
}

fn location(address: &str, weight: Option<&str>) -> Result<Location, String> {
    let weight = match weight {
        None => 1,
        Some(text) => match text.parse() {
            Ok(weight @ 1..=MAX_WEIGHT) => weight,
            _ => return Err(format!("`{text}` is not a weight from 1 to {MAX_WEIGHT}")),
        },
    };
    Location::parse(address, weight, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_or_refused() {
        let list = parse("# all\n10.0.0.1:80 3\n\n[::1]:81 # six\nusers.internal:82\n10.0.0.1:80\n").unwrap();
        let seen: Vec<_> = list.iter().map(|one| (one.host.as_str(), one.port, one.weight)).collect();
        assert_eq!(seen, [("10.0.0.1", 80, 3), ("[::1]", 81, 1), ("users.internal", 82, 1)]);
        let bad = [
            ("", "no endpoint"),
            ("a:1\nb", "line 2: the endpoint `b` has no port"),
            ("a:1 0", "line 1: `0` is not a weight from 1 to 65536"),
            ("a:1 2 3", "line 1: more than an endpoint and its weight"),
        ];
        for (text, expected) in bad {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
    }
}
