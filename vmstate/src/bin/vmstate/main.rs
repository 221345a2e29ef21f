//! The program `vmstate`: saves a machine's state from a stream into a file or a qcow2 image, loads it back, and shows what that costs.
//!
//! `save` and `load` move a stream; `create`, `list`, `apply`, `delete`, `check` and `info` are for the images that states are kept in;
//! `replay` performs recorded patterns, each run in a child process; `demo` compares the ways.
#![forbid(unsafe_code)]

mod args;
mod baseline;
mod change;
mod check;
mod content;
mod context;
mod counting;
mod create;
mod demo;
mod failure;
mod graph;
mod human;
mod info;
mod json_text;
mod list;
mod load;
mod magic;
mod measure;
mod pieces;
mod progress;
mod qemu_stream;
mod real;
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
mod walker;

use args::{Cli, Command};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use failure::Failure;
use std::process::exit;

fn main() {
    let cli = Cli::try_parse().unwrap_or_else(|error| wrong_usage(&error));
    if let Some(why) = cli.contradiction() {
        wrong_usage(&Cli::command().error(ErrorKind::ArgumentConflict, why));
    }
    let done = |result: Result<(), Failure>| result.map(|()| 0);
    let (result, json) = match cli.command {
        Command::Create(args) => (done(create::run(&args)), args.output.json),
        Command::Save(args) => (done(save::run(&args)), args.output.json),
        Command::Load(args) => (done(load::run(&args)), args.output.json),
        Command::List(args) => (done(list::run(&args)), args.output.json),
        Command::Apply(args) => (done(change::apply(&args)), args.output.json),
        Command::Delete(args) => (done(change::delete(&args)), args.output.json),
        Command::Check(args) => (check::run(&args), args.output.json),
        Command::Info(args) => (done(info::run(&args)), args.output.json),
        Command::Replay(args) => (done(replay::run(&args)), args.output.json),
        Command::Demo(args) => (done(demo::run(&args)), args.output.json),
        Command::Step(args) => (done(step::run(&args)), true),
        Command::Become(args) => (Err(real::become_another(&args)), false),
    };
    if let Err(failure) = &result {
        match json {
            true => say::on_stderr(failure.json()),
            false => say::on_stderr(format_args!("vmstate: {failure}")),
        }
    }
    // Not by returning: a worker may sleep in a read of stdin that never ends.
    exit(result.unwrap_or(1));
}

/// Prints what clap says (help and version come this way too) and ends the program.
fn wrong_usage(error: &clap::Error) -> ! {
    let printed = error.print().is_ok();
    let checks = std::env::args_os().nth(1).is_some_and(|arg| arg == "check");
    exit(match error.exit_code() {
        // Of a check 2 tells corruptions; qemu-img says 1 too.
        2 if checks => 1,
        // Help or the version, which did not arrive.
        0 if !printed => 1,
        status => status,
    })
}
