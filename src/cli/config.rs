//! `pointsman config`

use std::path::PathBuf;

use crate::config::origins;

use super::{DEFAULT_CONFIG, Exit, compiled, print, show};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print a configuration with all defaults filled in.
    Show {
        /// The configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Print where each value comes from.
        #[arg(long, conflicts_with = "json")]
        origins: bool,
        /// Print JSON instead of YAML.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: &Command) -> anyhow::Result<Exit> {
    let Command::Show { config, origins, json } = command;
    let (loaded, compiled) = compiled(config.clone())?;
    let (Some(effective), Some(root)) = (&compiled.effective, &loaded.root) else {
        show(&compiled.found, &loaded.sources);
        return Ok(Exit::InvalidConfig);
    };
    if compiled.snapshot.is_none() {
        show(&compiled.found, &loaded.sources);
        return Ok(Exit::InvalidConfig);
    }
    if *origins {
        return print(&origins::annotate(effective, root, &loaded.sources)?);
    }
    print(&if *json { serde_json::to_string_pretty(effective)? } else { serde_yaml::to_string(effective)? })
}
