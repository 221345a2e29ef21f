//! How far a command is: a bar where stderr is a terminal, lines of JSON on it with `--json`, else nothing.
use crate::say;
use aio_task::AioHandle;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::cell::Cell;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(100);

/// The bytes that are done, and who is told of them.
pub(crate) struct Progress {
    bytes: Rc<Cell<u64>>,
    show: Show,
}

enum Show {
    Bar(ProgressBar),
    Json,
    Nothing,
}

impl Progress {
    /// `total`: how many bytes there will be, where that is known.
    pub(crate) fn new(label: &'static str, total: Option<u64>, json: bool) -> Self {
        let show = match json {
            true => Show::Json,
            false if std::io::stderr().is_terminal() => Show::Bar(bar(label, total)),
            false => Show::Nothing,
        };
        Self {
            bytes: Rc::new(Cell::new(0)),
            show,
        }
    }

    /// What the command counts its bytes with.
    pub(crate) fn counter(&self) -> Rc<Cell<u64>> {
        self.bytes.clone()
    }

    /// Tells of each change, for ever. Run beside the command, and dropped with it; the bar goes then.
    pub(crate) async fn run(&self, handle: &AioHandle) {
        let mut told = 0;
        if matches!(self.show, Show::Nothing) {
            return std::future::pending().await;
        }
        loop {
            handle.sleep(PERIOD).await;
            let bytes = self.bytes.get();
            match &self.show {
                Show::Bar(bar) => bar.set_position(bytes),
                Show::Json if bytes != told => {
                    say::on_stderr(json!({"progress": {"bytes": bytes}}))
                }
                Show::Json | Show::Nothing => {}
            }
            told = bytes;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
        }
    }
}

/// The steps of a replay or demo.
pub(crate) struct Steps {
    total: u64,
    begun: Cell<u64>,
    show: Show,
}

impl Steps {
    pub(crate) fn new(label: &'static str, total: u64, json: bool) -> Self {
        let show = match json {
            true => Show::Json,
            false if std::io::stderr().is_terminal() => Show::Bar(styled(
                ProgressBar::new(total),
                "{prefix} {wide_bar} {pos}/{len} {msg:32}",
                label,
            )),
            false => Show::Nothing,
        };
        Self {
            total,
            begun: Cell::new(0),
            show,
        }
    }

    /// The next step begins; `what` it does.
    pub(crate) fn begin(&self, what: &str) {
        let number = self.begun.get();
        self.begun.set(number + 1);
        match &self.show {
            Show::Bar(bar) => {
                bar.set_message(what.to_owned());
                bar.set_position(number);
            }
            Show::Json => {
                let total = self.total;
                let step = json!({"step": number + 1, "steps": total, "what": what});
                say::on_stderr(json!({"progress": step}));
            }
            Show::Nothing => {}
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
        }
    }
}

fn bar(label: &'static str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
        ),
        None => (
            ProgressBar::no_length(),
            "{prefix} {spinner} {bytes} {bytes_per_sec}",
        ),
    };
    styled(bar, template, label)
}

fn styled(bar: ProgressBar, template: &str, label: &'static str) -> ProgressBar {
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_prefix(label)
}
