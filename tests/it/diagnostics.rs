//! Small real mistakes, each in a file of its own under `tests/bad/`.
//!
//! A line that a finding must point at ends in `# <- CODE`. What is printed is frozen in
//! `tests/bad/snapshots/`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::gateway::command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad")
}

fn files() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.filter(|name| name.ends_with(".yaml")).collect();
    names.sort();
    names
}

/// The codes and lines that the file itself announces.
fn announced(text: &str) -> Vec<(String, u64)> {
    let lines = (1..).zip(text.lines());
    let marks =
        lines.flat_map(|(number, line)| line.split("# <- ").skip(1).map(move |code| (code.trim().to_owned(), number)));
    marks.collect()
}

#[test]
fn each_mistake_is_found_on_its_line() {
    let names = files();
    assert!(names.len() >= 100, "{} files", names.len());
    for name in &names {
        let text = std::fs::read_to_string(folder().join(name)).unwrap();
        let output = command()
            .current_dir(folder())
            .args(["check", "--format", "json", name])
            .env_remove("PM_UNSET")
            .output()
            .unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut found: Vec<(String, u64)> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["code"].as_str().unwrap().to_owned(), one["place"]["line"].as_u64().unwrap_or(0)))
            .collect();
        let mut expected = announced(&text);
        assert!(!expected.is_empty(), "{name} announces nothing");
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{name}");
        let refused = expected.iter().any(|(code, _)| code.starts_with('E'));
        assert_eq!(output.status.code(), Some(if refused { 3 } else { 0 }), "{name}");
    }
}

#[test]
fn what_is_printed_stays() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for name in files() {
            let output =
                command().current_dir(folder()).args(["check", &name]).env_remove("PM_UNSET").output().unwrap();
            insta::assert_snapshot!(name.trim_end_matches(".yaml"), String::from_utf8(output.stderr).unwrap());
        }
    });
}

#[test]
fn every_code_has_a_file_and_an_explanation() {
    let all: String = files().iter().map(|name| std::fs::read_to_string(folder().join(name)).unwrap()).collect();
    for code in pointsman::config::Code::ALL {
        // What a reload cannot change takes two configurations; see the tests of reloads.
        if code.as_str() != "E0301" {
            assert!(all.contains(&format!("# <- {}", code.as_str())), "no file shows {}", code.as_str());
        }
        assert!(code.explanation().len() > 40, "{}", code.as_str());
    }
}
