//! `pointsman check`

use std::path::PathBuf;

use super::{DEFAULT_CONFIG, Exit, compiled, print, show};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Warnings count as failures, with exit code 6.
    #[arg(long)]
    strict: bool,
    /// How findings are shown.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// With excerpts, on standard error.
    Text,
    /// As a JSON list, on standard output.
    Json,
}

impl Args {
    /// A plain check of a file.
    pub fn of(config: PathBuf) -> Self {
        Self { config, strict: false, format: Format::Text }
    }
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let (loaded, compiled) = compiled(args.config.clone())?;
    match args.format {
        Format::Json => drop(print(&serde_json::to_string_pretty(&compiled.found.to_json(&loaded.sources))?)?),
        Format::Text => show(&compiled.found, &loaded.sources),
    }
    let Some(snapshot) = compiled.snapshot else { return Ok(Exit::InvalidConfig) };
    if args.format == Format::Text {
        eprintln!(
            "{}: ok, {} routes, {} upstreams",
            args.config.display(),
            snapshot.table.len(),
            snapshot.upstreams.len()
        );
    }
    Ok(if args.strict && !compiled.found.is_empty() { Exit::Findings } else { Exit::Ok })
}
