//! A configuration file with what it includes and imports.

use std::path::{Path, PathBuf};

use crate::config::load::{self, Loaded, resolve};
use crate::convert;

use super::Provider;

/// A configuration file.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
}

impl File {
    /// The configuration that begins at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The first file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Provider for File {
    fn load(&self) -> Loaded {
        let lookup = |name: &str| std::env::var(name).ok();
        let mut loaded = load::load(&self.path, &lookup);
        let imports = loaded.config.as_ref().map(|config| config.imports.clone()).unwrap_or_default();
        for import in imports {
            let path = resolve(&self.path, &import.file);
            let Some(document) = loaded.read(&path, Some(import.file.span), &lookup) else { continue };
            let routes = convert::routes(&import, &document, &mut loaded.found);
            if let Some(config) = &mut loaded.config {
                config.routes.extend(routes);
            }
        }
        loaded
    }
}
