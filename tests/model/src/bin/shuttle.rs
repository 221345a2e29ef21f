//! `cargo shuttle`: builds the larger configurations with `--cfg shuttle` and runs them on random schedules (PCT).
//!
//! `cargo shuttle [SEED]`: all of them; the seed is printed, and the same seed runs the same schedules.
//! `cargo shuttle NAME [SEED]`: those whose names contain it.
//! `cargo shuttle replay NAME FILE`: the one schedule that a failing run has stored in the file it names.

#[cfg(not(shuttle))]
fn main() -> std::process::ExitCode {
    use model::build::{build_with, folder};

    let target = folder().join("target").join("shuttle");
    let runner = match build_with(&folder(), &target, "shuttle", "--cfg shuttle", "") {
        Ok(runner) => runner,
        Err(e) => {
            eprintln!("{e}");
            println!("0 passed, 1 failed");
            return std::process::ExitCode::FAILURE;
        }
    };
    let run = model::build::clean(runner)
        .args(std::env::args().skip(1))
        .status();
    match run {
        Ok(status) if status.success() => std::process::ExitCode::SUCCESS,
        _ => std::process::ExitCode::FAILURE,
    }
}

#[cfg(shuttle)]
fn main() -> std::process::ExitCode {
    shuttled::main()
}

#[cfg(shuttle)]
mod shuttled {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::process::ExitCode;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use model::large::{LARGE, Large};
    use shuttle::scheduler::{PctScheduler, ReplayScheduler};
    use shuttle::{Config, FailurePersistence, Runner};

    /// Schedules of each configuration.
    const SCHEDULES: usize = 20_000;
    /// Bugs that need up to so many ordered steps are likely to be found.
    const DEPTH: usize = 3;

    pub(crate) fn main() -> ExitCode {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words[..] {
            ["replay", name, file] => replay(name, file),
            [] => run("", fresh_seed()),
            [one] => match one.parse() {
                Ok(seed) => run("", seed),
                Err(_) => run(one, fresh_seed()),
            },
            [name, seed] => run(name, seed.parse().expect("a seed is a number")),
            _ => {
                eprintln!("cargo shuttle [NAME] [SEED], cargo shuttle replay NAME FILE");
                ExitCode::FAILURE
            }
        }
    }

    fn fresh_seed() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_000)
    }

    fn chosen(name: &str) -> impl Iterator<Item = &'static Large> {
        LARGE.iter().filter(move |large| large.name.contains(name))
    }

    fn run(name: &str, seed: u64) -> ExitCode {
        println!("seed {seed}: the same seed runs the same schedules again");
        let (mut passed, mut failed) = (0, 0);
        for large in chosen(name) {
            let start = Instant::now();
            let scheduler = PctScheduler::new_from_seed(seed, DEPTH, SCHEDULES);
            let runner = Runner::new(scheduler, config());
            match catch_unwind(AssertUnwindSafe(|| runner.run(large.body))) {
                Ok(schedules) => {
                    let seconds = start.elapsed().as_secs_f64();
                    println!("{} {schedules} schedules {seconds:.1} s", large.name);
                    passed += 1;
                }
                Err(_) => {
                    println!(
                        "red: {}: `cargo shuttle replay {} FILE` with the file above",
                        large.name, large.name
                    );
                    failed += 1;
                }
            }
        }
        println!("{passed} passed, {failed} failed");
        if failed == 0 && passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn replay(name: &str, file: &str) -> ExitCode {
        let Some(large) = chosen(name).next() else {
            eprintln!("nothing is called {name}");
            return ExitCode::FAILURE;
        };
        let scheduler =
            ReplayScheduler::new_from_file(file).unwrap_or_else(|e| panic!("{file}: {e}"));
        Runner::new(scheduler, config()).run(large.body);
        println!("{} passes on this schedule", large.name);
        ExitCode::SUCCESS
    }

    fn config() -> Config {
        let mut config = Config::default();
        config.silence_warnings = true;
        let target = model::build::folder().join("target");
        config.failure_persistence = FailurePersistence::File(Some(target));
        config
    }
}
