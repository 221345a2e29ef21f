//! How the models are built and started: with our flags, and nothing of the caller's that could blind them.
use std::path::{Path, PathBuf};
use std::process::Command;

/// What makes the crates use loom. Without it there are no models.
pub const FLAGS: &str = "--cfg loom";

/// The folder of this workspace.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a variable of the caller may not reach a build or a model. `LOOM_*` ends models early, bounds them or resumes them near their
/// end; the others change flags, profile or target folder.
fn is_dropped(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["LOOM_", "CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"];
    const NAMES: [&str; 5] = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_INCREMENTAL",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The variables that are dropped now, for the one line that says so.
pub fn dropped() -> Vec<String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| is_dropped(name))
        .collect()
}

/// A command without the caller's variables.
pub fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in dropped() {
        command.env_remove(name);
    }
    command
}

/// Builds the runner of the workspace in `folder` into `target` and returns its path, or what the compiler said.
pub fn build(folder: &Path, target: &Path, features: &str) -> Result<PathBuf, String> {
    build_with(folder, target, "run", FLAGS, features)
}

/// As [`build`], with our own crates not optimised: loom still is, and nearly all of a model's time is loom's.
pub fn build_quickly(folder: &Path, target: &Path, features: &str) -> Result<PathBuf, String> {
    let ours = ["model", "aio-task", "block-core", "vmstate"];
    let config = ours.map(|name| format!("profile.release.package.{name}.opt-level=0"));
    build_configured(folder, target, "run", FLAGS, features, &config)
}

/// Builds the program `bin` with `flags`, and nothing else, as RUSTFLAGS.
pub fn build_with(
    folder: &Path,
    target: &Path,
    bin: &str,
    flags: &str,
    features: &str,
) -> Result<PathBuf, String> {
    build_configured(folder, target, bin, flags, features, &[])
}

fn build_configured(
    folder: &Path,
    target: &Path,
    bin: &str,
    flags: &str,
    features: &str,
    config: &[String],
) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = clean(cargo)
        .args(["build", "--release", "--locked", "--quiet", "--bin", bin])
        .args(["--no-default-features", "--features", features])
        .args(config.iter().flat_map(|setting| ["--config", setting]))
        .arg("--manifest-path")
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .env("RUSTFLAGS", flags)
        .current_dir(folder)
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).into_owned());
    }
    Ok(target.join("release").join(bin))
}
