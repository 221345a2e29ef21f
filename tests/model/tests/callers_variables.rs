//! What the caller of `cargo loom` has in the environment and in cargo's configuration changes nothing of what is explored.
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::{env, fs};

const MODEL: &str = "a_flag_set_before_notify_is_seen_after_the_park";

/// Each would blind, bound or change a model if it reached one, or the build of it.
const VARIABLES: [(&str, &str); 9] = [
    ("LOOM_MAX_PREEMPTIONS", "0"),
    ("LOOM_MAX_PERMUTATIONS", "1"),
    ("LOOM_MAX_BRANCHES", "1"),
    ("LOOM_MAX_DURATION", "0"),
    ("LOOM_CHECKPOINT_INTERVAL", "1"),
    ("RUSTFLAGS", "-C opt-level=1"),
    ("CARGO_ENCODED_RUSTFLAGS", "-Copt-level=1"),
    ("CARGO_BUILD_RUSTFLAGS", "-C opt-level=1"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false"),
];

/// The two tests build in one folder.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn the_callers_variables_change_no_line_of_the_table() {
    let _one_at_a_time = ONE_AT_A_TIME.lock();
    let plain = output(&mut gate());
    let disturbed = output(gate().envs(VARIABLES));
    assert_eq!(explored(&disturbed), explored(&plain));
    let said = text(&disturbed);
    let not_passed_on = said.lines().next().unwrap_or_default();
    for (name, _) in VARIABLES {
        assert!(not_passed_on.contains(name), "{name} is passed on:\n{said}");
    }
}

/// Each of these settings would build another program, or none.
#[test]
fn the_callers_configuration_changes_no_line_of_the_table() {
    const CONFIGURATION: &str = "
        [net]
        retry = 2
        [build]
        target = 'no-such-target'
        rustflags = ['--cfg', 'shuttle']
        rustc-wrapper = '/no/such/wrapper'
        [profile.release.package.aio-task]
        debug-assertions = false
    ";
    let _one_at_a_time = ONE_AT_A_TIME.lock();
    let home = env::temp_dir().join(format!("cargo-home-{}", std::process::id()));
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("config.toml"), CONFIGURATION).unwrap();
    let theirs = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap()).join(".cargo"),
        PathBuf::from,
    );
    symlink(theirs.join("registry"), home.join("registry")).unwrap();
    let plain = output(&mut gate());
    let disturbed = output(gate().env("CARGO_HOME", &home));
    let after = output(&mut gate());
    fs::remove_dir_all(&home).unwrap();
    assert_eq!(explored(&disturbed), explored(&plain));
    assert_eq!(explored(&after), explored(&plain));
    let not_passed_on = text(&disturbed)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    assert!(
        not_passed_on.contains(&*home.to_string_lossy()),
        "the configuration is passed on: {not_passed_on}"
    );
}

/// The gate of this build, wherever its folder is now.
fn gate() -> Command {
    let test = env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let mut gate = Command::new(folder.join("gate"));
    gate.arg(MODEL);
    gate
}

fn output(gate: &mut Command) -> Output {
    let output = gate.output().expect("the gate runs");
    assert!(output.status.success(), "{}", text(&output));
    output
}

/// The lines of the model: its name, the bound, the interleavings. The seconds are left out.
fn explored(output: &Output) -> Vec<Vec<String>> {
    let text = text(output);
    let lines = text.lines().filter(|line| line.starts_with(MODEL));
    let lines: Vec<Vec<String>> = lines
        .map(|line| line.split_whitespace().take(3).map(String::from).collect())
        .collect();
    assert_eq!(lines.len(), 2, "bounded, and all:\n{text}");
    lines
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
