//! Where each value of a configuration comes from, for `config show --origins`.

use std::fmt::Write as _;

use serde_yaml::Value;

use super::source::Sources;
use super::tree::{Kind, Node};
use super::{Config, effective};

/// The effective configuration as YAML, each value with its source in a comment.
///
/// # Errors
/// Fails only if the configuration cannot be written as YAML.
pub fn annotate(config: &Config, root: &Node, sources: &Sources) -> Result<String, serde_yaml::Error> {
    let value = serde_yaml::to_value(effective::effective(config))?;
    let mut out = String::new();
    let mut writer = Writer { root, sources, out: &mut out };
    writer.block(&value, &mut Vec::new(), 0)?;
    Ok(out)
}

struct Writer<'a> {
    root: &'a Node,
    sources: &'a Sources,
    out: &'a mut String,
}

impl Writer<'_> {
    fn block(&mut self, value: &Value, path: &mut Vec<String>, depth: usize) -> Result<(), serde_yaml::Error> {
        let indent = "  ".repeat(depth);
        match value {
            Value::Mapping(map) => {
                for (key, value) in map {
                    let key = scalar(key)?;
                    path.push(key.clone());
                    self.entry(&format!("{indent}{key}:"), value, path, depth)?;
                    path.pop();
                }
            }
            Value::Sequence(items) => {
                for (index, value) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.entry(&format!("{indent}-"), value, path, depth)?;
                    path.pop();
                }
            }
            other => self.line(&indent, other, path)?,
        }
        Ok(())
    }

    fn entry(
        &mut self,
        head: &str,
        value: &Value,
        path: &mut Vec<String>,
        depth: usize,
    ) -> Result<(), serde_yaml::Error> {
        let nested = match value {
            Value::Mapping(map) => !map.is_empty(),
            Value::Sequence(items) => !items.is_empty(),
            _ => false,
        };
        if nested {
            let _ = writeln!(self.out, "{head}");
            self.block(value, path, depth + 1)
        } else {
            self.line(head, value, path)
        }
    }

    fn line(&mut self, head: &str, value: &Value, path: &[String]) -> Result<(), serde_yaml::Error> {
        let text = format!("{head} {}", scalar(value)?);
        let _ = writeln!(self.out, "{text:<56} # {}", self.origin(path));
        Ok(())
    }

    fn origin(&self, path: &[String]) -> String {
        if let Some(node) = find(self.root, path) {
            return self.place(node);
        }
        let default = path.iter().position(|part| part == "timeout").map(|at| &path[at..]);
        let inherited = default.and_then(|rest| {
            let path: Vec<_> = std::iter::once("defaults".to_owned()).chain(rest.iter().cloned()).collect();
            find(self.root, &path)
        });
        match inherited {
            Some(node) => format!("defaults, {}", self.place(node)),
            None => "built in".to_owned(),
        }
    }

    fn place(&self, node: &Node) -> String {
        let file = self.sources.file(node.span).map(|file| file.path.display().to_string()).unwrap_or_default();
        let line = self.sources.start(node.span).map_or(0, |position| position.line);
        match &node.kind {
            Kind::Scalar(scalar) => match &scalar.variable {
                Some(variable) => format!("environment {variable}, {file}:{line}"),
                None => format!("{file}:{line}"),
            },
            Kind::List(_) | Kind::Map(_) => format!("{file}:{line}"),
        }
    }
}

/// The node at a path, or the scalar short form that stands for the rest of it.
fn find<'a>(root: &'a Node, path: &[String]) -> Option<&'a Node> {
    let mut node = root;
    for part in path {
        node = match &node.kind {
            Kind::Map(_) => &node.entry(part)?.1,
            Kind::List(items) => items.get(part.parse::<usize>().ok()?)?,
            // The weight of `10.0.0.5:8080` and the timeouts of a URL were not written.
            Kind::Scalar(_) if matches!(part.as_str(), "weight" | "timeout" | "balance") => return None,
            // The only item of a list may be written without one: `host: a`.
            Kind::Scalar(_) => node,
        };
    }
    Some(node)
}

fn scalar(value: &Value) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(value).map(|text| text.trim_end().to_owned())
}
