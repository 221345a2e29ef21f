//! Runs one model in this process, or lists all. Started by the gate, which builds it with `--cfg loom`.
//!
//! `run --list`: a line per model, `name`, tab, its properties.
//! `run NAME BOUND...`: looks whether loom sees what it must, and says `begins`; then explores the model with at most so many preemptions,
//! or `all`; a line per bound, `explored`, bound, interleavings, seconds, between tabs. A failure ends the process with another code than 0.
//! `run --litmus`: a line per bug of the litmus set. `run --litmus BUG right|wrong BOUND`: its model over the toy without it or with it.
//! `run --self-test NAME BOUND`: a model that must fail.
//! `run NAME BOUND --store FILE N`, `run NAME BOUND --trace FILE`: the two steps of a replay.

#[cfg(loom)]
fn main() {
    use model::check::{Limits, assert_that_loom_sees_the_state_words, explore};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut arguments = arguments.iter().map(String::as_str);
    let name = arguments.next().unwrap_or("--list");
    if name == "--list" {
        for model in model::models::all() {
            println!("{}\t{:?}", model.name, model.properties);
        }
        return;
    }
    if name == "--litmus" {
        return litmus(arguments.collect());
    }
    if name == "--self-test" {
        let name = arguments.next().unwrap_or_default();
        let body = model::self_test::body(name).expect("a self-test");
        let limits = Limits {
            preemptions: arguments.next().and_then(|bound| bound.parse().ok()),
            ..Limits::default()
        };
        explore(&limits, body);
        return;
    }
    let Some(model) = model::models::all().find(|model| model.name == name) else {
        eprintln!("no model is called {name}");
        std::process::exit(2);
    };
    assert_that_loom_sees_the_state_words();
    println!("begins");
    let mut bounds = Vec::new();
    let mut limits = Limits::default();
    while let Some(argument) = arguments.next() {
        match argument {
            "--store" => {
                let file = arguments.next().expect("--store FILE N");
                let every = arguments.next().and_then(|n| n.parse().ok());
                limits.checkpoint = Some((file.into(), every.expect("--store FILE N")));
            }
            "--trace" => {
                let file = arguments.next().expect("--trace FILE");
                limits.checkpoint = Some((file.into(), usize::MAX));
                limits.trace = true;
                tracing_subscriber::fmt().without_time().init();
            }
            "all" => bounds.push(None),
            bound => bounds.push(Some(bound.parse().expect("a bound is a number or `all`"))),
        }
    }
    for bound in bounds {
        limits.preemptions = bound;
        let explored = explore(&limits, model.body);
        let bound = bound.map_or("all".into(), |bound| bound.to_string());
        println!(
            "explored\t{bound}\t{}\t{:.3}",
            explored.interleavings, explored.seconds
        );
    }
    if let Some(case) = model.unreached() {
        println!("no interleaving came to this: {case}");
        std::process::exit(1);
    }
}

/// The litmus set over the toys: the wrong one ends the process as any failing model does.
#[cfg(loom)]
fn litmus(arguments: Vec<&str>) {
    use model::check::{Limits, explore};
    use model::litmus::toy::CASES;

    let [bug, which, bound] = arguments[..] else {
        for case in CASES {
            println!("{}\t{}", case.name, case.report);
        }
        return;
    };
    let case = CASES.iter().find(|case| case.name == bug);
    let case = case.expect("a bug of the set");
    let limits = Limits {
        preemptions: Some(bound.parse().expect("a bound is a number")),
        ..Limits::default()
    };
    let body = if which == "wrong" {
        case.wrong
    } else {
        case.right
    };
    let explored = explore(&limits, body);
    println!(
        "explored\t{bound}\t{}\t{:.3}",
        explored.interleavings, explored.seconds
    );
}

#[cfg(not(loom))]
fn main() {
    eprintln!("built without --cfg loom: there are no models in here");
    std::process::exit(2);
}
