//! The shape of the house: who may use whom, where SQL and HTTP may stand, and migrations in step.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::root;

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
        let clients = ["reqwest::", "hyper::", "hyper_util::"];
        if clients.iter().any(|client| text.contains(client)) && !inside("outbound") {
            wrong.push(format!("{} has an HTTP client", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A form's token is checked where a form is read, so whoever takes a POST in the console reads it so.
#[test]
fn every_post_of_the_console_takes_a_form_with_a_token() {
    let mut taken = 0;
    for path in sources(&root().join("src/web")) {
        let text: String = shipped(&path).split_whitespace().collect();
        assert!(!text.contains("Method::POST)"), "{} takes a POST by another way", path.display());
        for route in text.split("web::post()").skip(1) {
            let route =
                route.strip_prefix(".to(").unwrap_or_else(|| panic!("{}: {route:.40}", path.display()));
            let handler = route.split(')').next().unwrap();
            let (file, name) = match handler.rsplit_once("::") {
                Some((module, name)) => (path.with_file_name(format!("{module}.rs")), name),
                None => (path.clone(), handler),
            };
            let text = fs::read_to_string(&file).unwrap();
            let (_, rest) =
                text.split_once(&format!("async fn {name}(")).unwrap_or_else(|| panic!("{handler}"));
            let signature = rest.split(" -> ").next().unwrap();
            assert!(signature.contains(": Posted<"), "{handler} of {} asks for no token", path.display());
            taken += 1;
        }
    }
    assert!(taken > 80, "{taken}");
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
