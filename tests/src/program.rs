//! The program `vmstate`, as built from the sources that are being tested.
//!
//! `CARGO_BIN_EXE_vmstate` exists for the tests of its own package only, and a file found in the target folder may be older than the
//! sources. So cargo itself is asked: it builds the program unless it is fresh, and says where it lies. In a `cargo test --workspace`
//! it is fresh already.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The path of the program, built at the first call in each test process.
///
/// # Panics
/// When cargo cannot build it: its messages go to stderr.
pub fn vmstate() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(build)
}

fn build() -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace, so that features unify as in the run that built this test, and nothing is compiled twice.
    cargo
        .args(["build", "--quiet", "--workspace", "--bins"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo starts");
    assert!(output.status.success(), "cargo could not build vmstate");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "vmstate")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable that it built")
}
