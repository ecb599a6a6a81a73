//! Edits of headers: remove, then set, then add.

use http::{HeaderName, HeaderValue};

/// Headers that frame a message, belong to one connection, or are set by the gateway itself.
const PROTECTED: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a header may be edited.
#[must_use]
pub fn may_edit(name: &HeaderName) -> bool {
    !PROTECTED.contains(&name.as_str())
}

/// The headers of a request or an answer.
pub trait Editable {
    /// Replaces every line of a header by one.
    fn set(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Adds a line of a header.
    fn add(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Removes every line of a header.
    fn remove(&mut self, name: &HeaderName);
}

/// Edits, checked when the configuration was compiled.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// To remove.
    pub remove: Vec<HeaderName>,
    /// To set.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// To add.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Makes the edits.
    pub fn apply(&self, headers: &mut impl Editable) {
        self.remove.iter().for_each(|name| headers.remove(name));
        self.set.iter().for_each(|(name, value)| headers.set(name, value));
        self.add.iter().for_each(|(name, value)| headers.add(name, value));
    }
}
