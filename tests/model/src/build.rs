//! How the models are built and started: with our flags, and nothing of the caller's that could blind them.
//!
//! The gate must never run a binary of other sources than those beside it, so:
//!
//! - [`folder`] is found when the program runs: a checkout that was copied with its target folder holds programs that were compiled
//!   in another place.
//! - The path of a program comes from cargo's own messages, because configuration can change where cargo puts it.
//! - Cargo runs where none of the caller's configuration files applies, and with a home folder whose configuration is reduced to what
//!   downloads need.
//! - Cargo compares the times of files, which a copy or a version control system can set to anything. [`Sources`] compares contents,
//!   and has every package built anew that differs from what was built last.
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::{env, fs, io};

/// What makes the crates use loom. Without it there are no models.
pub const FLAGS: &str = "--cfg loom";

/// Configuration that does not change what is built: where packages come from, and how output looks.
const HARMLESS: [&str; 9] = [
    "alias",
    "cargo-new",
    "credential-alias",
    "http",
    "net",
    "registries",
    "registry",
    "source",
    "term",
];

/// The folder of this workspace: cargo names it to the programs that it starts; a program that was started otherwise looks for it
/// upwards of the current folder.
///
/// # Panics
///
/// If there is no such folder.
pub fn folder() -> PathBuf {
    let named = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = env::current_dir().unwrap_or_default();
    let above = here.ancestors().map(|above| above.join("tests/model"));
    named
        .into_iter()
        .chain(above)
        .find(|folder| folder.join("models.txt").is_file() && folder.join("Cargo.toml").is_file())
        .expect("start this program inside the repository, through cargo")
}

/// Whether a variable of the caller may not reach a build or a model. `LOOM_*` ends models early, bounds them or resumes them near their
/// end; the others change compiler, flags, profile or target folder.
fn is_dropped(name: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "LOOM_",
        "CARGO_BUILD_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "__CARGO_",
    ];
    const NAMES: [&str; 7] = [
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_INCREMENTAL",
    ];
    // The number of jobs changes no byte of what is built.
    name != "CARGO_BUILD_JOBS"
        && (NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// The variables and the configuration that are not passed on now, for the one line that says so.
pub fn dropped() -> Vec<String> {
    let variables = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| is_dropped(name));
    let folder = folder();
    let above = folder.ancestors().map(|above| above.join(".cargo"));
    let files = above
        .chain(cargo_home())
        .flat_map(|folder| [folder.join("config.toml"), folder.join("config")]);
    let mut seen = Vec::new();
    let tables = files.filter(|file| {
        let new = !seen.contains(file);
        seen.push(file.clone());
        new && fs::read_to_string(file).is_ok_and(|text| harmless(&text).1)
    });
    let tables = tables.map(|file| file.display().to_string());
    variables.chain(tables.collect::<Vec<_>>()).collect()
}

/// This program's own sources, as they were compiled.
const OWN: [(&str, &str); 17] = [
    ("lib.rs", include_str!("lib.rs")),
    ("bugs.rs", include_str!("bugs.rs")),
    ("build.rs", include_str!("build.rs")),
    ("properties.rs", include_str!("properties.rs")),
    ("self_test.rs", include_str!("self_test.rs")),
    ("suite.rs", include_str!("suite.rs")),
    ("table.rs", include_str!("table.rs")),
    ("bin/gate.rs", include_str!("bin/gate.rs")),
    ("faults/mod.rs", include_str!("faults/mod.rs")),
    ("faults/context.rs", include_str!("faults/context.rs")),
    ("faults/edge.rs", include_str!("faults/edge.rs")),
    ("faults/gate.rs", include_str!("faults/gate.rs")),
    ("faults/pool.rs", include_str!("faults/pool.rs")),
    ("faults/reactor.rs", include_str!("faults/reactor.rs")),
    ("faults/save.rs", include_str!("faults/save.rs")),
    ("faults/word.rs", include_str!("faults/word.rs")),
    ("faults/workers.rs", include_str!("faults/workers.rs")),
];

/// What is wrong if this program itself was built from other sources than those in `folder`.
pub fn outdated(folder: &Path) -> Vec<String> {
    let other = |(name, compiled): &(&str, &str)| {
        let file = folder.join("src").join(name);
        fs::read_to_string(file).ok().as_deref() != Some(*compiled)
    };
    OWN.iter()
        .filter(|own| other(own))
        .map(|(name, _)| {
            format!("this program was built from another src/{name}: remove tests/model/target")
        })
        .collect()
}

/// A command without the caller's variables.
pub fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_dropped) {
            command.env_remove(name);
        }
    }
    command
}

/// Cargo, without the caller's variables and configuration.
pub fn cargo() -> Result<Command, String> {
    let home = private_home().map_err(|e| format!("a home folder for cargo: {e}"))?;
    let mut command = clean(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Cargo reads the configuration of every folder above the current one. Above the root there is none.
    for file in ["/.cargo/config.toml", "/.cargo/config"] {
        if Path::new(file).exists() {
            return Err(format!(
                "{file} applies to every build of this machine: remove it to run the models"
            ));
        }
    }
    command.current_dir("/").env("CARGO_HOME", home);
    Ok(command)
}

/// The caller's home folder of cargo.
fn cargo_home() -> Option<PathBuf> {
    let default = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(default)
}

/// The name of a file that marks a home folder as made by [`private_home`].
const PRIVATE: &str = "harmless-configuration-only";

/// A home folder for cargo with the caller's downloads, credentials and programs, and with [`harmless`] configuration only.
///
/// A gate that was started by `cargo mutate` uses the home of `cargo mutate`: in another one, cargo would build every package anew.
fn private_home() -> io::Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONE_AT_A_TIME.lock();
    if let Some(theirs) = cargo_home().filter(|theirs| theirs.join(PRIVATE).is_file()) {
        let text = fs::read_to_string(theirs.join("config.toml")).unwrap_or_default();
        if !theirs.join("config").exists() && !harmless(&text).1 {
            return Ok(theirs);
        }
    }
    let ours = folder().join("target").join("cargo-home");
    fs::create_dir_all(&ours)?;
    let mut configuration = String::new();
    // Links into a home that was another one before.
    for entry in fs::read_dir(&ours)? {
        let link = entry?.path();
        if link.is_symlink() && !link.exists() {
            fs::remove_file(link)?;
        }
    }
    if let Some(theirs) = cargo_home().filter(|theirs| theirs.is_dir()) {
        for entry in fs::read_dir(fs::canonicalize(&theirs)?)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == PRIVATE {
                continue;
            }
            if name == "config.toml" || name == "config" {
                configuration = harmless(&fs::read_to_string(entry.path())?).0;
                continue;
            }
            let link = ours.join(name);
            if fs::read_link(&link).ok() != Some(entry.path()) {
                let _ = fs::remove_file(&link);
                std::os::unix::fs::symlink(entry.path(), link)?;
            }
        }
    }
    fs::write(ours.join(PRIVATE), "")?;
    let file = ours.join("config.toml");
    if fs::read_to_string(&file).ok().as_deref() != Some(&*configuration) {
        fs::write(file, configuration)?;
    }
    Ok(ours)
}

/// The tables of a cargo configuration that are [`HARMLESS`], and whether there are others.
fn harmless(configuration: &str) -> (String, bool) {
    let mut kept = String::new();
    let (mut keeps, mut at_top, mut others) = (true, true, false);
    for line in configuration.lines() {
        let words = line.trim_start();
        let is_header = words.starts_with('[') && !words.ends_with(',');
        if is_header {
            at_top = false;
        }
        // `[net]`, `[source.crates-io]`, `[[x]]`; and, before the first header, `net.retry = 2`.
        if is_header || (at_top && words.split_once('=').is_some()) {
            let key = words.trim_start_matches('[').trim_start();
            let name = key.split(['.', ']', '=', ' ']).next().unwrap_or_default();
            keeps = HARMLESS.contains(&name.trim_matches(['"', '\'']));
            others |= !keeps;
        }
        if keeps {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    (kept, others)
}

/// Builds the runner of the workspace in `folder` into `target` and returns its path, or what the compiler said.
pub fn build(folder: &Path, target: &Path, features: &str) -> Result<PathBuf, String> {
    build_with(folder, target, "run", FLAGS, features)
}

/// Builds the program `bin` with `flags`, and nothing else, as RUSTFLAGS.
pub fn build_with(
    folder: &Path,
    target: &Path,
    bin: &str,
    flags: &str,
    features: &str,
) -> Result<PathBuf, String> {
    let sources = Sources::of(folder).map_err(|e| format!("the sources: {e}"))?;
    sources.forget_others(folder, target)?;
    let built = compile(folder, target, bin, flags, features)?;
    sources
        .note(target)
        .map_err(|e| format!("{}: {e}", target.display()))?;
    Ok(built)
}

/// [`build`] without the comparison of contents, for sources that only the caller itself has changed since it built them: cargo sees
/// that by their times, and what the compiler knows of the rest is kept. The caller calls [`will_change`] first.
pub fn build_changed(folder: &Path, target: &Path, features: &str) -> Result<PathBuf, String> {
    compile(folder, target, "run", FLAGS, features)
}

/// The sources of what was built in `target` are about to change: the next [`build`] trusts nothing that is there.
pub fn will_change(target: &Path) {
    let _ = fs::remove_file(Sources::file(target));
}

fn compile(
    folder: &Path,
    target: &Path,
    bin: &str,
    flags: &str,
    features: &str,
) -> Result<PathBuf, String> {
    let mut command = cargo()?;
    command
        .args(["build", "--release", "--locked", "--quiet", "--bin", bin])
        .args(["--no-default-features", "--features", features])
        .arg("--message-format=json-render-diagnostics")
        .env("RUSTFLAGS", flags);
    let built = run(command, folder, target)?;
    let messages = String::from_utf8_lossy(&built.stdout);
    executable(&messages, bin).ok_or_else(|| format!("cargo names no executable {bin:?}"))
}

fn run(mut command: Command, folder: &Path, target: &Path) -> Result<Output, String> {
    let output = command
        .arg("--manifest-path")
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    match output.status.success() {
        true => Ok(output),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The path of the program `bin` in cargo's messages: one JSON object in each line.
fn executable(messages: &str, bin: &str) -> Option<PathBuf> {
    let name = format!("\"name\":\"{bin}\"");
    messages
        .lines()
        .filter(|line| line.contains("\"reason\":\"compiler-artifact\""))
        .filter(|line| line.contains("\"kind\":[\"bin\"]") && line.contains(&name))
        .find_map(|line| string(line.split_once("\"executable\":\"")?.1))
        .map(PathBuf::from)
}

/// The JSON string whose first quote was read.
fn string(text: &str) -> Option<String> {
    let mut string = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return Some(string),
            '\\' => match rest.next()? {
                'u' => {
                    let digits: String = rest.by_ref().take(4).collect();
                    string.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                'n' => string.push('\n'),
                't' => string.push('\t'),
                other => string.push(other),
            },
            other => string.push(other),
        }
    }
}

/// What the programs are built from, by content: a number for each package that is not from a registry.
struct Sources(BTreeMap<&'static str, u64>);

/// These packages, and where they are from the folder of the models.
const PACKAGES: [(&str, &str); 5] = [
    ("model", "."),
    ("portable-atomic", "atomic-shim"),
    ("aio-task", "../../aio-task"),
    ("block-core", "../../block-core"),
    ("vmstate", "../../vmstate"),
];

impl Sources {
    fn of(folder: &Path) -> io::Result<Self> {
        let number = |(name, place)| {
            let mut hasher = DefaultHasher::new();
            for part in ["Cargo.toml", "Cargo.lock", "README.md", "build.rs", "src"] {
                hash(&folder.join(place).join(part), &mut hasher)?;
            }
            Ok((name, hasher.finish()))
        };
        Ok(Self(
            PACKAGES
                .into_iter()
                .map(number)
                .collect::<io::Result<_>>()?,
        ))
    }

    fn file(target: &Path) -> PathBuf {
        target.join("sources.txt")
    }

    /// Has cargo forget each package in `target` that was built from other contents, or from an unknown source.
    fn forget_others(&self, folder: &Path, target: &Path) -> Result<(), String> {
        let noted = fs::read_to_string(Self::file(target)).unwrap_or_default();
        let others: Vec<&str> = self
            .0
            .iter()
            .filter(|(name, number)| !noted.lines().any(|line| line == format!("{name} {number}")))
            .map(|(name, _)| *name)
            .collect();
        if others.is_empty() || !target.exists() {
            return Ok(());
        }
        // Not known any more, should the build not come to its end.
        let _ = fs::remove_file(Self::file(target));
        let mut command = cargo()?;
        command.args(["clean", "--release", "--locked", "--quiet"]);
        for name in others {
            command.args(["--package", name]);
        }
        run(command, folder, target).map(drop)
    }

    /// Notes in `target` what was built.
    fn note(&self, target: &Path) -> io::Result<()> {
        let lines = self
            .0
            .iter()
            .map(|(name, number)| format!("{name} {number}\n"));
        fs::write(Self::file(target), lines.collect::<String>())
    }
}

/// Names and contents of a file, or of all files in a folder. What is not there counts as nothing.
fn hash(path: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    if path.is_file() {
        path.file_name().hash(hasher);
        fs::read(path)?.hash(hasher);
    } else if path.is_dir() {
        let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
        let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            hash(&path, hasher)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{executable, harmless};
    use std::path::PathBuf;

    #[test]
    fn the_path_of_a_program_comes_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"run"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"gate"},"executable":"/a/gate"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"run"},"executable":"/a \"b\"/\u00e9/run","fresh":true}"#,
        );
        assert_eq!(
            executable(messages, "run"),
            Some(PathBuf::from("/a \"b\"/é/run"))
        );
        assert_eq!(executable(messages, "walk"), None);
    }

    #[test]
    fn only_configuration_that_changes_no_build_is_kept() {
        let text = "net.retry = 1\nbuild.target = 'x'\n[source.crates-io]\nreplace-with = 'here'\n[build]\ntarget = 'x'\n[http]\nproxy = 'p'\n";
        let kept =
            "net.retry = 1\n[source.crates-io]\nreplace-with = 'here'\n[http]\nproxy = 'p'\n";
        assert_eq!(harmless(text), (kept.into(), true));
        assert_eq!(
            harmless("[alias]\nx = 'build'\n"),
            ("[alias]\nx = 'build'\n".into(), false)
        );
    }
}
