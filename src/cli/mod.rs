//! The command line. One file for each command; data goes to standard output, talk to standard
//! error.

mod check;
mod client;
mod config;
mod demo;
mod explain;
mod reload;
mod routes;
mod run;
mod status;
mod upstreams;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::load::Loaded;
use crate::config::{Diagnostics, Sources};
use crate::provider::{File, Provider};
use crate::snapshot::{Compiled, Input, compile};
use crate::telemetry::Metrics;

/// The configuration file unless one is named.
const DEFAULT_CONFIG: &str = "/etc/pointsman/pointsman.yaml";

/// How a command ended. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// The configuration is invalid.
    InvalidConfig = 3,
    /// What was asked for does not exist.
    NotFound = 4,
    /// It found something that was asked to count as a failure.
    Findings = 6,
    /// No gateway answers.
    Unreachable = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A load-balancing HTTP proxy and API gateway.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a configuration in the foreground.
    Run(run::Args),
    /// Serve a sample gateway with sample upstreams on loopback; no file needed.
    Demo(demo::Args),
    /// Check a configuration and show everything that is wrong with it.
    Check(check::Args),
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Show a configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// List the routes in true match order.
    Routes(routes::Args),
    /// Say which route would serve a request and why, or what a diagnostic's code means.
    Explain(explain::Args),
    /// Make a running gateway read its configuration anew, and show what changed.
    Reload(reload::Args),
    /// Show how a running gateway is; fails when none answers.
    Status(status::Args),
    /// Show upstreams, and let their endpoints serve, drain or rest.
    Upstreams(upstreams::Args),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

/// Which running gateway, or which file instead of one.
#[derive(Clone, Debug, clap::Args)]
struct Source {
    /// Ask the running gateway at this admin address, `http://HOST:PORT` or `unix:PATH`.
    /// Default: the admin address of the configuration file.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    server: Option<String>,
    /// Ask this configuration file instead of a running gateway.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Parses the command line and runs it.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(error) if is_broken_pipe(&error) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            let unreachable = error.downcast_ref::<client::Unreachable>().is_some();
            if unreachable { Exit::Unreachable } else { Exit::Failed }.into()
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Schema => print(&serde_json::to_string_pretty(&crate::config::schema())?),
        Command::Config(command) => config::run(&command),
        Command::Routes(args) => routes::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Upstreams(args) => upstreams::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "pointsman", &mut script);
            print(&String::from_utf8(script)?)
        }
        Command::Version => print(concat!("pointsman ", env!("CARGO_PKG_VERSION"))),
    }
}

/// Prints data. Unlike `println!`, fails when nobody reads.
fn print(text: &str) -> anyhow::Result<Exit> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    out.flush()?;
    Ok(Exit::Ok)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Whether standard error shows colours.
fn color() -> bool {
    use std::io::IsTerminal as _;
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal()
}

/// Shows findings, if there are any.
fn show(found: &Diagnostics, sources: &Sources) {
    if !found.is_empty() {
        eprint!("{}", found.render(sources, color()));
    }
}

/// Loads and compiles a file as `run` would.
fn compiled(path: PathBuf) -> anyhow::Result<(Loaded, Compiled)> {
    let metrics = Metrics::new()?;
    let file = File::new(path);
    let loaded = file.load();
    let compiled = compile(&Input { loaded: &loaded, base: file.path(), previous: None, metrics: &metrics });
    Ok((loaded, compiled))
}
