//! `cargo xtask tidy`: rules of the codebase that no compiler checks. Runs as a test, too.
//!
//! - Crates see lower layers only, as the table in `ARCHITECTURE.md` has them, and only the API server uses a store.
//! - Every module opens by telling a newcomer what lives there.
//! - No file names a path of somebody's machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Crates that may use `store`: who defines it, fills it, uses it, and who picks one.
const STORE_USERS: &[&str] = &["apiserver", "store-embedded", "knarr", "testkit"];

/// Folders that people keep their checkouts and homes in.
const MACHINE_PATHS: &[&str] = &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

/// Endings of files that are read for paths.
const TEXTS: &[&str] = &["rs", "md", "toml", "txt", "yaml", "yml", "sh"];

/// Checks all rules on a workspace.
///
/// # Errors
/// Where a rule is broken; the message names every place.
pub fn check(workspace: &Path) -> Result<()> {
    let architecture = fs::read_to_string(workspace.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let metadata = MetadataCommand::new().manifest_path(workspace.join("Cargo.toml")).no_deps().exec().context("cannot ask cargo for the crates")?;
    let mut problems = layering(&layers(&architecture), &edges(&metadata));
    for file in sources(workspace) {
        let name = file.strip_prefix(workspace).unwrap_or(&file).display().to_string();
        let Ok(text) = fs::read_to_string(&file) else { continue };
        if let Some(problem) = module_head(&name, &text) {
            problems.push(problem);
        }
        problems.extend(machine_paths(&name, &text));
    }
    ensure!(problems.is_empty(), "{} rules are broken:\n{}", problems.len(), problems.join("\n"));
    Ok(())
}

/// Layer of each crate, from rows such as `` | 3 engine | `node`, `scheduler` | … | ``.
fn layers(architecture: &str) -> BTreeMap<String, u32> {
    let mut layers = BTreeMap::new();
    for line in architecture.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(layer), Some(crates)) = (cells.next(), cells.next()) else { continue };
        let Some(number) = layer.split(' ').next().and_then(|number| number.parse().ok()) else { continue };
        for name in crates.split(',').map(|name| name.trim().trim_matches('`')) {
            layers.insert(name.to_owned(), number);
        }
    }
    layers
}

/// Each crate of the workspace with those it sees outside of its tests.
fn edges(metadata: &Metadata) -> BTreeMap<String, Vec<String>> {
    let seen = |package: &cargo_metadata::Package| {
        let ours = package.dependencies.iter().filter(|dependency| dependency.path.is_some() && dependency.kind != DependencyKind::Development);
        ours.map(|dependency| dependency.name.clone()).collect()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), seen(package))).collect()
}

fn layering(layers: &BTreeMap<String, u32>, edges: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut problems = Vec::new();
    for name in layers.keys().filter(|name| !edges.contains_key(*name)) {
        problems.push(format!("ARCHITECTURE.md: the table has a crate {name}, the workspace has not"));
    }
    for (name, seen) in edges {
        let Some(layer) = layers.get(name) else {
            problems.push(format!("ARCHITECTURE.md: the crate {name} is missing in the table of layers"));
            continue;
        };
        for other in seen {
            if layers.get(other).is_some_and(|lower| lower >= layer) {
                problems.push(format!("crates/{name}: sees {other}, which is in no lower layer"));
            }
            if other == "store" && !STORE_USERS.contains(&name.as_str()) {
                problems.push(format!("crates/{name}: uses the store; everybody but the API server is a client"));
            }
        }
    }
    problems
}

/// Files that people write: not what is built or fetched.
fn sources(workspace: &Path) -> Vec<PathBuf> {
    let hidden = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        entry.depth() > 0 && (name == "target" || name == ".git")
    };
    let files = walkdir::WalkDir::new(workspace).sort_by_file_name().into_iter().filter_entry(|entry| !hidden(entry)).filter_map(Result::ok);
    files
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|ending| TEXTS.iter().any(|text| ending == *text)))
        .collect()
}

/// What is wrong with the opening of a module. A file of tests is told about by the module it belongs to.
fn module_head(name: &str, text: &str) -> Option<String> {
    if !name.ends_with(".rs") || name.ends_with("/tests.rs") || text.starts_with("//!") {
        return None;
    }
    Some(format!("{name}: begins without a `//!` line that says what lives there"))
}

fn machine_paths(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // A path begins behind something that no path goes on with; `/spec/work/x` is none.
        let starts = |path: &&&str| line.match_indices(**path).any(|(place, _)| !line[..place].ends_with(|before: char| before.is_alphanumeric() || ".-_}~*)>".contains(before)));
        if let Some(path) = MACHINE_PATHS.iter().find(starts) {
            problems.push(format!("{name}:{}: names a path below {path}", number + 1));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        check(crate::places::workspace()).unwrap();
    }

    fn problems(table: &str, edges: &[(&str, &[&str])]) -> Vec<String> {
        let edges = edges.iter().map(|(name, seen)| ((*name).to_owned(), seen.iter().map(|seen| (*seen).to_owned()).collect())).collect();
        layering(&layers(table), &edges)
    }

    #[test]
    fn a_crate_sees_lower_layers_only() {
        let table = "| Layer | Crates |\n|---|---|\n| 0 pure | `meta` | words |\n| 2 engine | `node`, `scheduler` | more |\n";
        assert_eq!(problems(table, &[("meta", &[]), ("node", &["meta"]), ("scheduler", &["meta"])]), [""; 0]);
        assert_eq!(
            problems(table, &[("meta", &["node"]), ("node", &["scheduler"]), ("scheduler", &[])]),
            ["crates/meta: sees node, which is in no lower layer", "crates/node: sees scheduler, which is in no lower layer"]
        );
    }

    #[test]
    fn every_crate_stands_in_the_table_and_the_table_has_no_others() {
        assert_eq!(
            problems("| 0 pure | `meta`, `gone` |", &[("meta", &[]), ("new", &[])]),
            ["ARCHITECTURE.md: the table has a crate gone, the workspace has not", "ARCHITECTURE.md: the crate new is missing in the table of layers"]
        );
    }

    #[test]
    fn nobody_but_the_api_server_uses_a_store() {
        let table = "| 0 seam | `store` |\n| 1 engine | `node`, `apiserver` |";
        assert_eq!(
            problems(table, &[("store", &[]), ("node", &["store"]), ("apiserver", &["store"])]),
            ["crates/node: uses the store; everybody but the API server is a client"]
        );
    }

    #[test]
    fn a_module_without_a_head_is_named() {
        assert_eq!(module_head("a/src/lib.rs", "//! What lives here.\n"), None);
        assert_eq!(module_head("a/src/plan/tests.rs", "use super::*;\n"), None);
        assert!(module_head("a/src/lib.rs", "use std::fs;\n").is_some());
    }

    #[test]
    fn a_path_of_a_machine_is_found_and_a_part_of_another_path_is_none() {
        let path = concat!("/ho", "me/somebody");
        assert_eq!(machine_paths("x.md", &format!("see {path}")).len(), 1);
        assert_eq!(machine_paths("x.md", &format!("see var{path}")).len(), 0);
    }
}
