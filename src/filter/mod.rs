//! What happens on the way: edits of headers and paths. One file each.

pub mod headers;
pub mod rewrite;

pub use headers::{Editable, HeaderEdits};
pub use rewrite::Rewrite;
