//! `pointsman run`

use std::path::PathBuf;

use crate::server::{self, StartError};
use crate::telemetry::logging;

use super::{DEFAULT_CONFIG, Exit, check, show};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Only check the configuration.
    #[arg(short = 't', long = "test")]
    test: bool,
}

pub fn run(args: Args) -> anyhow::Result<Exit> {
    if args.test {
        return check::run(&check::Args::of(args.config));
    }
    serve(args.config)
}

/// Serves a file until a signal ends it.
pub fn serve(config: PathBuf) -> anyhow::Result<Exit> {
    logging::init();
    match server::run(config, show) {
        Ok(()) => Ok(Exit::Ok),
        Err(StartError::Refused(refused)) => {
            show(&refused.found, &refused.sources);
            Ok(Exit::InvalidConfig)
        }
        Err(error) => Err(error.into()),
    }
}
