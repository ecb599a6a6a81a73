//! Where configurations come from.

mod file;

pub use file::File;

use crate::config::load::Loaded;

/// A source of configurations.
pub trait Provider: Send + Sync {
    /// Reads the whole configuration as it stands now.
    fn load(&self) -> Loaded;
}
