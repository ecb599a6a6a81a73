//! `pointsman routes`

use anyhow::bail;
use serde_json::Value;

use crate::admin::api::route_list;

use super::client::Client;
use super::{Exit, Source, compiled, print, show};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// `list`, which is also the default.
    #[arg(value_parser = ["list"])]
    verb: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let list = match &args.source.config {
        Some(path) => {
            let (loaded, compiled) = compiled(path.clone())?;
            let Some(snapshot) = compiled.snapshot else {
                show(&compiled.found, &loaded.sources);
                return Ok(Exit::InvalidConfig);
            };
            route_list(&snapshot)
        }
        None => match Client::new(&args.source)?.get("/v1/routes")? {
            (status, list) if status.is_success() => list,
            (status, answer) => bail!("{status}: {answer}"),
        },
    };
    if args.json {
        return print(&serde_json::to_string_pretty(&list)?);
    }
    print(&table(&list))
}

/// Aligned columns under a heading.
fn table(list: &Value) -> String {
    let text = |row: &Value, key: &str| row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned);
    let methods = |row: &Value| {
        let list: Vec<_> = row["methods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if list.is_empty() { "any".to_owned() } else { list.join(",") }
    };
    let mut rows = vec![["PRIORITY", "HOST", "METHOD", "PATH", "TESTS", "TO", "NAME"].map(str::to_owned)];
    for row in list.as_array().into_iter().flatten() {
        let [priority, host, path, tests, to, name] =
            ["priority", "host", "path", "tests", "to", "name"].map(|key| text(row, key));
        rows.push([priority, host, methods(row), path, tests, to, name]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
