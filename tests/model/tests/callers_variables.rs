//! What the caller of `cargo loom` has in the environment changes nothing of what is explored.
use std::process::{Command, Output};

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

#[test]
fn the_callers_variables_change_no_line_of_the_table() {
    let mut gate = Command::new(env!("CARGO_BIN_EXE_gate"));
    gate.arg(MODEL);
    let plain = output(&mut gate);
    let disturbed = output(gate.envs(VARIABLES));
    assert_eq!(explored(&disturbed), explored(&plain));
    let said = text(&disturbed);
    let not_passed_on = said.lines().next().unwrap_or_default();
    for (name, _) in VARIABLES {
        assert!(not_passed_on.contains(name), "{name} is passed on:\n{said}");
    }
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
