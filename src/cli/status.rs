//! `pointsman status`

use anyhow::bail;

use super::client::Client;
use super::{Exit, Source, print};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let (status, answer) = Client::new(&args.source)?.get("/v1/status")?;
    if !status.is_success() {
        bail!("{status}: {answer}");
    }
    if args.json {
        return print(&serde_json::to_string_pretty(&answer)?);
    }
    let fields = answer.as_object().into_iter().flatten();
    let lines = fields.map(|(key, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{key:<24} {value}")
    });
    print(&lines.collect::<Vec<_>>().join("\n"))
}
