//! Every example in `conf/` loads without a finding.

use std::path::Path;

use crate::harness::gateway::command;

#[test]
fn every_example_is_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let output = command().args(["check", "--strict"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        count += 1;
    }
    assert!(count >= 5, "{count} examples");
}

/// The README's configuration is the one in `conf/minimal.yaml`.
#[test]
fn the_readme_shows_an_example_that_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let minimal = std::fs::read_to_string(root.join("conf/minimal.yaml")).unwrap();
    assert!(readme.contains(minimal.trim()), "README.md does not show conf/minimal.yaml");
}
