//! Rules of the workspace that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::imports::Imports;
use tests::source::{self, SourceFile};

/// The crates that are published, by folder.
const CRATES: [&str; 4] = ["aio-task", "block-core", "drivers", "vmstate"];

/// The one module that may name threads, locks and atomics: it decides between std and loom.
const SYNC: &str = "aio-task/src/sync/mod.rs";
const SYNC_PARTS: &str = "aio-task/src/sync";

/// The files that may be unsafe.
const UNSAFE: [&str; 1] = ["block-core/src/buffer/mod.rs"];

/// Which packages a package needs, without features and with; development aside.
const NEEDS: [(&str, &[&str], &[&str]); 4] = [
    (
        "aio-task",
        &[
            "async-task",
            "futures",
            "loom",
            "pin-project",
            "rustix",
            "shuttle",
            "slab",
        ],
        &[],
    ),
    ("block-core", &["aio-task", "futures", "slab"], &[]),
    (
        "block-drivers",
        &["aio-task", "block-core", "nix", "rustix"],
        &["flate2", "ruzstd"],
    ),
    (
        "vmstate",
        &["aio-task", "block-core", "futures"],
        &[
            "block-drivers",
            "clap",
            "flate2",
            "indicatif",
            "jiff",
            "rustix",
            "serde_json",
            "signal-hook",
        ],
    ),
];

#[test]
fn threads_locks_and_atomics_are_named_in_one_module_only() {
    let mut found = Vec::new();
    for file in shipped_sources() {
        let mut names = file.names_from_std(&["sync", "thread"]);
        names.extend(file.lines_with("thread_local")); // the macro needs no path
        if file.path == Path::new(SYNC) {
            assert!(!names.is_empty(), "{SYNC} is what this test believes it is");
        } else if !file.path.starts_with(SYNC_PARTS) {
            found.extend(names.into_iter().map(|line| file.at(line)));
        }
    }
    assert_eq!(found, [""; 0], "take these from {SYNC}, by the edge");
}

#[test]
fn unsafe_code_lives_in_the_named_files_only() {
    let mut found = Vec::new();
    for file in shipped_sources() {
        let lines = file.unsafe_lines();
        if UNSAFE.iter().any(|name| file.path == Path::new(name)) {
            assert!(!lines.is_empty(), "{:?} needs no exception", file.path);
        } else {
            found.extend(lines.into_iter().map(|line| file.at(line)));
        }
    }
    assert_eq!(found, [""; 0], "no file but {UNSAFE:?} may be unsafe");
}

/// std's hash maps ask the kernel for random keys and panic if it has none. Ordered maps need no keys, and no image can make them slow.
#[test]
fn no_map_needs_random_numbers() {
    let mut found = Vec::new();
    for file in shipped_sources() {
        for map in ["HashMap", "HashSet"] {
            found.extend(file.lines_with(map).into_iter().map(|line| file.at(line)));
        }
    }
    assert_eq!(found, [""; 0], "use BTreeMap or BTreeSet");
}

#[test]
fn crates_need_each_other_in_one_direction_and_little_else() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    for (name, always, with_features) in NEEDS {
        let package = packages
            .iter()
            .find(|package| package["name"] == name)
            .expect("the package is a member");
        let names = |optional: bool| -> BTreeSet<&str> {
            let dependencies = package["dependencies"].as_array().expect("a list");
            dependencies
                .iter()
                .filter(|needed| needed["kind"] != "dev" && needed["optional"] == optional)
                .filter_map(|needed| needed["name"].as_str())
                .collect()
        };
        assert_eq!(names(false), BTreeSet::from_iter(always.to_vec()), "{name}");
        assert_eq!(
            names(true),
            BTreeSet::from_iter(with_features.to_vec()),
            "{name}, optional"
        );
        let default = &package["features"]["default"];
        assert!(
            default.is_null() || *default == serde_json::json!([]),
            "{name} has no default features: {default}"
        );
    }
}

/// The folders of the qcow2 driver from the lowest layer to the highest. A file uses its own folder and those before it.
const QCOW2_LAYERS: [&str; 8] = [
    "format", "metadata", "guest", "snapshot", "check", "create", "driver", "chain",
];

#[test]
fn layers_of_qcow2_are_used_in_one_direction() {
    let folder = "drivers/src/qcow2/";
    let layer_of = |file: &str| {
        let (layer, _) = file.strip_prefix(folder)?.split_once('/')?;
        let found = QCOW2_LAYERS.iter().position(|known| *known == layer);
        Some(found.unwrap_or_else(|| panic!("{file}: {layer} is not a layer")))
    };
    let imports = Imports::of_crate(&root(), &root().join("drivers/src"));
    let mut seen = 0;
    let mut upwards = Vec::new();
    for (from, to) in imports.pairs() {
        let Some(own) = layer_of(from) else {
            continue; // the root hands names on
        };
        seen += 1;
        // A path that leads to the root is one of the names that it hands on, from any layer.
        if to.starts_with(folder) && layer_of(to).is_none_or(|used| used > own) {
            upwards.push(format!("{from} uses {to}"));
        }
    }
    assert!(seen > 100, "only {seen} imports found");
    assert_eq!(upwards, [""; 0]);
}

#[test]
fn no_files_of_a_crate_use_each_other_in_a_circle() {
    let mut found = Vec::new();
    for folder in CRATES {
        let imports = Imports::of_crate(&root(), &root().join(folder).join("src"));
        assert!(
            imports.files() > 10,
            "{folder}: only {} files",
            imports.files()
        );
        found.extend(imports.circles().iter().map(|circle| circle.join(", ")));
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_dependency_is_used() {
    let mut unused = Vec::new();
    for ((package, always, with_features), folder) in NEEDS.iter().zip(CRATES) {
        let sources = sources_of(folder);
        for needed in always.iter().chain(*with_features) {
            let name = needed.replace('-', "_");
            if !sources.iter().any(|file| file.has_word(&name)) {
                unused.push(format!("{package} does not use {needed}"));
            }
        }
    }
    assert_eq!(unused, [""; 0]);
}

/// A renamed test would otherwise leave a promise that nothing keeps.
#[test]
fn every_test_that_the_documents_name_exists() {
    let mut sources = String::new();
    let is_rust = |path: &Path| path.extension().is_some_and(|e| e == "rs");
    for path in source::files_below(&root(), is_rust) {
        sources += &fs::read_to_string(path).expect("a source is text");
    }
    // | D7 | what QEMU does | what we do | `a_test`, `another` |
    let document = read("docs/QEMU.md");
    let rows = document.lines().filter(|line| line.starts_with("| D"));
    let names: Vec<&str> = rows
        .flat_map(|row| {
            let tests = row.trim_end_matches([' ', '|']).rsplit('|').next();
            tests.unwrap_or_default().split('`').skip(1).step_by(2)
        })
        .collect();
    assert!(names.len() > 50, "only {} tests are named", names.len());
    let missing: Vec<&str> = names
        .into_iter()
        .filter(|name| {
            !sources.contains(&format!("fn {name}(")) && !sources.contains(&format!("\"{name}\""))
        })
        .collect();
    assert_eq!(
        missing, [""; 0],
        "docs/QEMU.md names tests that are not there"
    );
}

#[test]
fn the_readme_gives_two_commands_and_ci_runs_exactly_these() {
    let readme = read("README.md");
    let block = readme
        .split("```console\n")
        .nth(1)
        .expect("a console block");
    let commands: Vec<&str> = block
        .split("```")
        .next()
        .expect("the block ends")
        .lines()
        .collect();
    assert_eq!(readme.matches("```console").count(), 1);
    assert_eq!(commands, ["cargo vmstate demo", "cargo test --workspace"]);

    let script = read(".ci/run");
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        let start = match words.as_slice() {
            ["cargo", "test", ..] => "cargo test",
            _ => command,
        };
        assert!(
            script.contains(&format!("readme_command '{start}'")),
            ".ci/run takes `{command}` from the README"
        );
    }
    let aliases = read(".cargo/config.toml");
    assert!(
        aliases.contains("\nvmstate = \"run --release "),
        "{aliases}"
    );
}

#[test]
fn no_file_names_a_folder_of_anothers_machine() {
    let folders = ["home", "root", "work"].map(|name| format!("/{name}/"));
    let mut found = Vec::new();
    let mut seen = 0;
    for path in source::files_below(&root(), |_| true) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue; // not text
        };
        seen += 1;
        for (number, line) in text.lines().enumerate() {
            if folders.iter().any(|folder| names_folder(line, folder)) {
                found.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(seen > 20, "only {seen} files were looked at");
    assert_eq!(found, [""; 0]);
}

/// Whether `folder` stands in the line as the start of a path, and not within a longer one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        !line[..at]
            .chars()
            .next_back()
            .is_some_and(|before| before.is_alphanumeric() || matches!(before, '_' | '.' | '}'))
    })
}

#[test]
fn every_published_crate_has_a_readme_of_its_own_and_the_licences() {
    for folder in CRATES {
        let readme = read(&format!("{folder}/README.md"));
        assert!(readme.lines().count() > 5, "{folder}/README.md says little");
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            assert_eq!(read(&format!("{folder}/{licence}")), read(licence));
        }
    }
}

/// What is shipped: sources of the published crates, their test modules left out.
fn shipped_sources() -> Vec<SourceFile> {
    let files: Vec<SourceFile> = CRATES.into_iter().flat_map(sources_of).collect();
    assert!(files.len() > 30, "only {} sources found", files.len());
    files
}

fn sources_of(folder: &str) -> Vec<SourceFile> {
    let src = root().join(folder).join("src");
    let paths = source::files_below(&src, |path| path.extension().is_some_and(|e| e == "rs"));
    let files = paths.iter().map(|path| SourceFile::read(&root(), path));
    files.filter(|file| !file.is_test_module()).collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace").to_owned()
}
