//! The program `vmstate`: saves a machine's state from a stream into a file, loads it back, and shows what that costs.
//!
//! `save` and `load` move a stream; `replay` performs recorded patterns, each run in a child process; `demo` compares the ways.
#![forbid(unsafe_code)]

mod args;
mod baseline;
mod content;
mod context;
mod counting;
mod demo;
mod failure;
mod graph;
mod load;
mod magic;
mod measure;
mod pieces;
mod progress;
mod replay;
mod report;
mod runner;
mod save;
mod say;
mod series;
mod signals;
mod statistics;
mod stdio;
mod step;
mod streams;
mod target;
mod trace;
mod verify;

use args::{Cli, Command};
use clap::Parser;

fn main() {
    let (result, json) = match Cli::parse().command {
        Command::Save(args) => (save::run(&args), args.output.json),
        Command::Load(args) => (load::run(&args), args.output.json),
        Command::Replay(args) => (replay::run(&args), args.output.json),
        Command::Demo(args) => (demo::run(&args), args.output.json),
        Command::Step(args) => (step::run(&args), true),
    };
    if let Err(failure) = &result {
        match json {
            true => say::on_stderr(failure.json()),
            false => say::on_stderr(format_args!("vmstate: {failure}")),
        }
    }
    // Not by returning: a worker may sleep in a read of stdin that never ends.
    std::process::exit(i32::from(result.is_err()));
}
