//! A real machine is saved through our program and comes back in another QEMU, byte for byte; and a save that was cut short brings
//! back nothing.
//!
//! No guest system is needed: the firmware runs for a moment, 48 MiB of the 80 MiB of memory hold seeded random bytes that a
//! `loader` device put there, and the second QEMU, which has no such device, can only have them from the saved state.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::files::{SmallDisk, disk_folder, entries};
use tests::machine::{self, Machine, RANDOM_LEN};
use tests::program;
use tests::qemu::Qemu;
use tests::tools::{self, Need};
use tests::wrapper::{Feed, Outcome, Wrapper};

const QEMU: Need = Need::Tool("qemu-system-x86_64");
const MIB: u64 = 1 << 20;
/// `vmstate`'s default buffer is 1 MiB, and the stream is about 51 MB.
const FULL_BUFFERS: u64 = 40;
/// What an unbuffered save takes from its stdin at once, at most.
const PIECE: u64 = 32 << 10;

const WAYS: [&[&str]; 6] = [
    &["--workers", "1"],
    &["--workers", "8"],
    &["--direct", "--workers", "1"],
    &["--direct", "--workers", "8"],
    // One request at a time by definition: no number of workers goes with it.
    &["--unbuffered"],
    &["--direct", "--unbuffered"],
];

fn main() -> ExitCode {
    let came_back = WAYS.map(|options| {
        let way = options.join(" ");
        let name = format!("a machine saved and loaded with {way} is the same machine");
        tools::trial(name, &[QEMU], move || same_machine(options))
    });
    let cut_short = [
        tools::trial(
            "a saver killed half way leaves no final name and the second machine refuses",
            &[QEMU],
            killed_half_way,
        ),
        tools::trial(
            "a save into a full disk leaves nothing and the second machine refuses",
            &[QEMU, Need::Mount],
            full_disk,
        ),
        tools::trial(
            "a save beyond the file-size limit leaves nothing and the second machine refuses",
            &[QEMU],
            file_size_limit,
        ),
    ];
    let ends = [tools::trial(
        "the stream of a real machine is recognized as complete and refused when it is cut",
        &[QEMU],
        stream_with_and_without_its_end,
    )];
    let trials: Vec<Trial> = came_back.into_iter().chain(cut_short).chain(ends).collect();
    tools::main(trials)
}

fn same_machine(options: &[&str]) {
    let disk = disk_folder();
    let state = disk.path().join("machine.state");

    let mut source = machine::stopped();
    let before = Machine::look_at(&mut source, disk.path());
    before.check_that_it_holds_the_random_bytes();

    let options_of_save = [&["--json"], options].concat();
    let saver = Wrapper::saver(
        program::vmstate(),
        &args("save", &state, &options_of_save),
        Feed::Direct,
    );
    assert_eq!(migrate(&mut source, &saver), "completed");
    source.quit();
    let save = saver.outcome();
    assert_eq!(save.status, 0, "the saver failed: {save:?}");
    check_the_counts(&save, &state, options);

    let loader = Wrapper::loader(program::vmstate(), &args("load", &state, options));
    let mut target = machine::that_loads(&loader.uri()).unwrap_or_else(|gone| panic!("{gone}"));
    let ending = target.migration_ends();
    assert_eq!(ending.unwrap_or_else(|gone| panic!("{gone}")), "completed");
    let after = Machine::look_at(&mut target, disk.path());
    target.quit();
    let load = loader.outcome();
    assert_eq!(load.status, 0, "the loader failed: {load:?}");

    before.check_equal(&after);
}

fn killed_half_way() {
    let disk = disk_folder();
    let state = disk.path().join("machine.state");
    let mut source = machine::stopped();
    let half = Feed::HalfThenWait(25 * MIB);
    let mut saver = Wrapper::saver(program::vmstate(), &args("save", &state, &[]), half);
    start_migration(&mut source, &saver);

    let pid = saver.half_way();
    let on_disk: u64 = entries(disk.path()).iter().map(|(_, len)| len).sum();
    assert!(on_disk > MIB, "the saver had begun to write: {on_disk} B");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the saver runs");
    saver.go_on();
    source
        .migration_ends()
        .unwrap_or_else(|gone| panic!("{gone}"));
    source.quit();

    let save = saver.outcome();
    assert_eq!(save.status, 128 + 9, "killed, and not ended: {save:?}");
    let left = entries(disk.path());
    assert!(
        left.iter().all(|(name, _)| name.contains(".vmstate-save.")),
        "what a crash leaves must be recognisable: {left:?}"
    );
    nothing_to_load(&state);
}

fn full_disk() {
    let disk = disk_folder();
    let small = SmallDisk::mount(disk.path(), 20 * MIB).expect("mounting is allowed here");
    let state = small.path().join("machine.state");
    let saver = Wrapper::saver(program::vmstate(), &args("save", &state, &[]), Feed::Direct);
    save_fails_and_leaves_nothing(saver, &state);
}

fn file_size_limit() {
    let disk = disk_folder();
    let state = disk.path().join("machine.state");
    let args = args("save", &state, &[]);
    let saver = Wrapper::saver_with_file_limit(program::vmstate(), &args, 20 * MIB);
    save_fails_and_leaves_nothing(saver, &state);
}

fn stream_with_and_without_its_end() {
    let disk = disk_folder();
    let (stream, state) = (disk.path().join("stream"), disk.path().join("state"));
    let mut source = machine::stopped();
    let uri = format!("exec:cat > {}", stream.display());
    assert_eq!(migrate_to(&mut source, &uri), "completed");
    source.quit();
    let whole = fs::metadata(&stream).expect("the stream").len();
    let save = |len: u64| {
        let file = fs::File::options().write(true).open(&stream);
        file.expect("opens").set_len(len).expect("cut");
        Command::new(program::vmstate())
            .args(args("save", &state, &["--force"]))
            .stdin(fs::File::open(&stream).expect("opens"))
            .output()
            .expect("the program starts")
    };
    let saved = save(whole);
    let text = String::from_utf8_lossy(&saved.stderr);
    assert!(saved.status.success(), "{text}");
    assert_eq!(text.lines().count(), 1, "no warning: {text}");
    // In the description, at its header, in the devices and in the memory.
    for len in [whole - 1, whole - 1000, whole / 2, 10 * MIB, 100_001, 50] {
        let refused = save(len);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{len} of {whole}: {text}");
        assert!(text.contains("cut off"), "{text}");
        assert_eq!(fs::metadata(&state).expect("still there").len(), whole);
    }
}

fn save_fails_and_leaves_nothing(saver: Wrapper, state: &Path) {
    let mut source = machine::stopped();
    migrate(&mut source, &saver); // completed or failed: QEMU does not look at the status
    source.quit();
    let save = saver.outcome();
    assert_eq!(save.status, 1, "the saver says what is wrong: {save:?}");
    let lines: Vec<&str> = save.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "one line of explanation: {save:?}");
    let folder = state.parent().expect("the state lies in a folder");
    assert_eq!(entries(folder), [], "a save that ends by itself tidies up");
    nothing_to_load(state);
}

/// There is no state under its final name, and a QEMU that is told to load it never runs: it ends with an error, or, as 7.2 does when
/// its stream ends before the first byte, it goes on waiting for one.
fn nothing_to_load(state: &Path) {
    assert!(
        !state.exists(),
        "half a state must not look like a whole one"
    );
    let loader = Wrapper::loader(program::vmstate(), &args("load", state, &[]));
    let target = machine::that_loads(&loader.uri());
    let load = loader.outcome();
    assert_eq!(load.status, 1, "the loader says what is wrong: {load:?}");
    match target.and_then(|mut target| target.qmp("query-status", json!({}))) {
        Ok(now) => assert_eq!(now["status"], "inmigrate", "{now}"),
        Err(gone) => assert!(!gone.status.success(), "{gone}"),
    }
}

/// Checks the saver's own account: every byte, by the way that was asked for, in as few requests as full buffers allow.
fn check_the_counts(save: &Outcome, state: &Path, options: &[&str]) {
    let last = save.stderr.lines().last().expect("--json prints a line");
    let line: Value = serde_json::from_str(last).expect("a line is one JSON value");
    let counts = &line["saved"];
    let len = fs::metadata(state).expect("the state is there").len();
    assert_eq!(counts["bytes"], len, "{line}");
    assert!(len > RANDOM_LEN, "random pages cannot be squeezed: {len} B");
    let is_cached = counts["access"] == "cached";
    assert_eq!(is_cached, !options.contains(&"--direct"), "{line}");
    let writes = counts["requests"]["writes"].as_u64().expect("a number");
    if options.contains(&"--unbuffered") {
        assert!(writes > len / PIECE, "a request for each piece: {line}");
    } else {
        // Each request carries at most one buffer, so with so few of them all but the last are full.
        assert_eq!(writes, len.div_ceil(MIB), "{line}");
        assert!(writes > FULL_BUFFERS + 1, "{line}");
    }
}

fn args(command: &str, state: &Path, options: &[&str]) -> Vec<String> {
    let state = state.to_str().expect("the test's paths are text");
    let mut args = vec![command, state];
    args.extend(options);
    args.into_iter().map(str::to_owned).collect()
}

fn migrate(source: &mut Qemu, saver: &Wrapper) -> String {
    migrate_to(source, &saver.uri())
}

fn migrate_to(source: &mut Qemu, uri: &str) -> String {
    start_migration_to(source, uri);
    source
        .migration_ends()
        .unwrap_or_else(|gone| panic!("{gone}"))
}

fn start_migration(source: &mut Qemu, saver: &Wrapper) {
    start_migration_to(source, &saver.uri());
}

fn start_migration_to(source: &mut Qemu, uri: &str) {
    // The default is 128 MiB/s, a network's share; ours is a pipe.
    let unlimited = json!({ "max-bandwidth": 1u64 << 40 });
    for (command, arguments) in [
        ("migrate-set-parameters", unlimited),
        ("migrate", json!({ "uri": uri })),
    ] {
        source
            .qmp(command, arguments)
            .unwrap_or_else(|gone| panic!("{gone}"));
    }
}
