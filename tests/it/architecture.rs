//! The shape of the house: who may use whom, where SQL and HTTP may stand, and migrations in step.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{root, sha256};

/// For each layer, the layers that it may use. cli and startup may use everything.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("crypto", &["domain"]),
    ("access", &["domain"]),
    ("storage", &["domain", "crypto", "access"]),
    ("providers", &["domain", "crypto"]),
    ("outbound", &["providers", "crypto", "domain"]),
    ("services", &["domain", "crypto", "access", "storage", "providers", "outbound"]),
    ("gateway", &["services", "domain", "crypto", "access", "storage", "providers", "outbound"]),
    ("api", &["services", "domain", "crypto", "access", "storage", "providers", "outbound"]),
    ("web", &["services", "domain", "crypto", "access", "storage", "providers", "outbound"]),
    ("sandbox", &["domain"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

/// The part of a file that ships: its unit tests may reach further.
fn shipped(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned()
}

#[test]
fn layers_use_only_what_they_may() {
    let source = root().join("src");
    let mut wrong = Vec::new();
    for (layer, may) in MAY_USE {
        let folder = source.join(layer);
        if !folder.exists() {
            continue;
        }
        for path in sources(&folder) {
            for (number, line) in shipped(&path).lines().enumerate() {
                for used in line.split("crate::").skip(1) {
                    let name: String =
                        used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    let is_layer = MAY_USE.iter().any(|(known, _)| *known == name)
                        || ["cli", "startup", "config", "telemetry"].contains(&name.as_str());
                    if is_layer && name != *layer && !may.contains(&name.as_str()) {
                        wrong.push(format!("{}:{} uses {name}", path.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_layer_is_under_the_rule() {
    let known: Vec<&str> = MAY_USE.iter().map(|(layer, _)| *layer).chain(["cli"]).collect();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(known.contains(&name.as_str()), "src/{name} is not in the import rule");
        }
    }
}

#[test]
fn sql_and_http_stand_in_one_place_each() {
    let source = root().join("src");
    let mut wrong = Vec::new();
    for path in sources(&source) {
        let inside = |layer: &str| path.starts_with(source.join(layer));
        let text = shipped(&path);
        if text.contains("sqlx::") && !inside("storage") {
            wrong.push(format!("{} speaks SQL", path.display()));
        }
        if text.contains("reqwest::") && !inside("outbound") {
            wrong.push(format!("{} has an HTTP client", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A database refuses to start on a migration that is no longer the one that it ran, be it by a comment.
/// A new one is entered in the list: `cd migrations && sha256sum */NAME >> ../tests/it/migrations.sha256`.
#[test]
fn migrations_stay_as_they_landed() {
    let list = fs::read_to_string(root().join("tests/it/migrations.sha256")).unwrap();
    let mut listed: Vec<&str> = list.lines().collect();
    listed.sort_unstable();
    let mut found = Vec::new();
    for kind in ["postgres", "sqlite"] {
        for entry in fs::read_dir(root().join("migrations").join(kind)).unwrap() {
            let entry = entry.unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push(format!("{}  {kind}/{}", sha256(&text), entry.file_name().to_string_lossy()));
        }
    }
    found.sort_unstable();
    assert_eq!(found, listed, "a migration was changed, or a new one is not entered");
}

#[test]
fn migrations_are_in_step() {
    let names = |kind: &str| {
        let mut names: Vec<String> = fs::read_dir(root().join("migrations").join(kind))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("sqlite"), names("postgres"));
    for name in names("sqlite") {
        let statements = |kind: &str| {
            let text = fs::read_to_string(root().join("migrations").join(kind).join(&name)).unwrap();
            // Types and table options are where the two may differ.
            text.lines()
                .filter(|line| !line.starts_with(')'))
                .map(|line| {
                    line.split_whitespace()
                        .map(|word| match word.trim_end_matches([',', ';']) {
                            "UUID" | "BYTEA" | "BLOB" => "bytes",
                            "BIGINT" | "BOOLEAN" | "INTEGER" => "number",
                            _ => word,
                        })
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(statements("sqlite"), statements("postgres"), "{name}");
    }
}

#[test]
fn files_stay_readable() {
    let mut long: Vec<String> = Vec::new();
    for path in sources(&root().join("src")) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > 600 {
            long.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "is there a second thing in them? {long:#?}");
}

/// Every test that a page of the docs names is there: `file: name` in backquotes, and `: name` for another one of
/// the same file.
#[test]
fn docs_name_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let (mut file, mut named) = (String::new(), 0);
    for part in text.split('`').skip(1).step_by(2) {
        let Some((path, name)) = part.split_once(": ") else { continue };
        if !path.is_empty() {
            path.clone_into(&mut file);
        }
        if !path.is_empty() && !path.starts_with("tests/") && !path.starts_with("src/") {
            continue;
        }
        let source = fs::read_to_string(root().join(&file)).unwrap_or_else(|_| panic!("there is no {file}"));
        assert!(source.contains(&format!("fn {name}(")), "{file} has no test {name}");
        named += 1;
    }
    assert!(named > 100, "{named}");
}
