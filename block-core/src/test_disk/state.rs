//! A call's way through the disk: it arrives, is perhaps held, takes effect, and its answer is taken.

use super::check::check;
use super::crash::{Change, CrashLog};
use super::fault::{Failure, Faults, touches};
use super::request::{Request, Work};
use super::snapshot_list::Snapshots;
use super::store::Store;
use super::{Record, TestDiskOptions};
use crate::{Cause, Op, ReadVector, Result, SnapshotInfo};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What a call ends with.
pub(super) struct Outcome {
    /// The memory of a read, else nothing.
    pub(super) dst: ReadVector,
    pub(super) result: Result<Answer>,
}

#[derive(Default)]
pub(super) struct Answer {
    pub(super) length: u64,
    pub(super) data: bool,
    /// All of them, or the one that was made.
    pub(super) snapshots: Vec<SnapshotInfo>,
    /// The disk of a view.
    pub(super) view: Option<Box<State>>,
}

pub(super) enum Arrived {
    Done(Outcome),
    Held(u64),
}

/// A call that was held.
struct Call {
    record: Record,
    failure: Option<Failure>,
    stage: Stage,
    /// Who waits for the answer. `None` before the first poll.
    waker: Option<Waker>,
    /// The future is gone; the answer goes nowhere.
    abandoned: bool,
}

enum Stage {
    /// Waits to be released. The log position is what had taken effect when it arrived, for flushes.
    Held(Work, u64),
    Done(Outcome),
}

pub(super) struct State {
    pub(super) options: TestDiskOptions,
    pub(super) disk: Store,
    pub(super) vmstate: Store,
    /// What `finish_vmstate` said last. `None` also where the state has become a snapshot's.
    pub(super) vmstate_length: Option<u64>,
    pub(super) snapshots: Snapshots,
    /// The disks of the snapshots' views, in the order in which the views were made.
    pub(super) views: Vec<Rc<RefCell<State>>>,
    pub(super) records: Vec<Record>,
    pub(super) length_calls: u64,
    pub(super) faults: Faults,
    pub(super) faults_fired: u64,
    pub(super) overlapping_writes: u64,
    /// New calls of this operation (`None`: of any but Length) that touch this range are held.
    pub(super) holds: Vec<(Option<Op>, Range<u64>)>,
    /// Operations that the driver answers with "not supported".
    pub(super) unsupported: Vec<Op>,
    pub(super) crash: Option<CrashLog>,
    pub(super) closed: bool,
    /// This is a view, and the image that it belongs to is closed.
    pub(super) image_closed: bool,
    pub(super) driver_dropped: bool,
    next_id: u64,
    /// Held calls, and released ones whose answer was not taken yet.
    calls: BTreeMap<u64, Call>,
}

impl State {
    pub(super) fn new(options: TestDiskOptions) -> Self {
        Self {
            disk: Store::new(options.len),
            options,
            vmstate: Store::default(),
            vmstate_length: None,
            snapshots: Snapshots::default(),
            views: Vec::new(),
            records: Vec::new(),
            length_calls: 0,
            faults: Faults::default(),
            faults_fired: 0,
            overlapping_writes: 0,
            holds: Vec::new(),
            unsupported: Vec::new(),
            crash: None,
            closed: false,
            image_closed: false,
            driver_dropped: false,
            next_id: 0,
            calls: BTreeMap::new(),
        }
    }

    pub(super) fn arrive(&mut self, request: Request, work: Work) -> Arrived {
        assert!(!self.closed, "called after close: {request:?}");
        check(&self.options, self.disk.len(), &request, &work);
        let record = Record {
            id: self.next_id,
            ..request
        };
        self.next_id += 1;
        if record.op == Op::Length {
            self.length_calls += 1;
        } else {
            self.records.push(record.clone());
        }
        if record.is_write()
            && self
                .in_flight_writes()
                .any(|other| overlap(&other, &record))
        {
            self.overlapping_writes += 1;
        }
        let failure = self.faults.choose(record.op, record.offset, record.len);
        let log_position = self.crash.as_ref().map_or(0, CrashLog::position);
        if self.is_to_be_held(&record) {
            let id = record.id;
            let stage = Stage::Held(work, log_position);
            let call = Call {
                record,
                failure,
                stage,
                waker: None,
                abandoned: false,
            };
            self.calls.insert(id, call);
            return Arrived::Held(id);
        }
        Arrived::Done(self.perform(&record, work, failure, log_position))
    }

    fn is_to_be_held(&self, record: &Record) -> bool {
        self.holds.iter().any(|(op, range)| match op {
            None => record.op != Op::Length,
            Some(op) => *op == record.op && touches(*op, range, record.offset, record.len),
        })
    }

    /// The held calls that were not released, in the order of arrival.
    pub(super) fn held(&self) -> impl Iterator<Item = &Record> {
        let held = self
            .calls
            .values()
            .filter(|c| matches!(c.stage, Stage::Held(..)));
        held.map(|c| &c.record)
    }

    fn in_flight_writes(&self) -> impl Iterator<Item = Record> {
        self.held().filter(|r| r.is_write()).cloned()
    }

    /// What the held writes would change, for a crash while they are in flight.
    pub(super) fn held_changes(&self) -> Vec<(Record, Change)> {
        let change = |c: &Call| match &c.stage {
            Stage::Held(work, _) if !c.record.on_vmstate() => {
                Some((c.record.clone(), Change::of(&c.record, work, c.record.len)?))
            }
            _ => None,
        };
        self.calls.values().filter_map(change).collect()
    }

    /// The call takes effect, failing if `failure` is given or if one was chosen at arrival. False if there is no such held call.
    /// The caller wakes who waits for it, when the borrow of this state is over.
    pub(super) fn release(&mut self, id: u64, failure: Option<Failure>) -> Option<Option<Waker>> {
        let call = self.calls.get(&id)?;
        if matches!(call.stage, Stage::Done(_)) {
            return None;
        }
        let mut call = self.calls.remove(&id)?;
        let Stage::Held(work, log_position) = call.stage else {
            return None;
        };
        let failure = failure.or(call.failure);
        let outcome = self.perform(&call.record, work, failure, log_position);
        let waker = call.waker.take();
        if !call.abandoned {
            call.stage = Stage::Done(outcome);
            self.calls.insert(id, call);
        } else {
            return Some(None);
        }
        Some(waker)
    }

    fn perform(
        &mut self,
        record: &Record,
        work: Work,
        failure: Option<Failure>,
        log_position: u64,
    ) -> Outcome {
        let mut outcome = Outcome {
            dst: ReadVector::new(),
            result: Ok(Answer::default()),
        };
        let refused = if self.unsupported.contains(&record.op) {
            Some(Cause::NotSupported)
        } else if self.image_closed && record.op != Op::Close {
            Some(Cause::Closed)
        } else {
            None
        };
        if let Some(cause) = refused {
            outcome.result = Err(record.error(cause));
            if let Work::Read(dst) = work {
                outcome.dst = dst;
            }
            return outcome;
        }
        let moved = failure.map_or(record.len, |f| f.after.min(record.len));
        if failure.is_none() || moved > 0 {
            self.log(record, &work, moved);
            let answer = self.take_effect(record, work, moved, log_position, &mut outcome.dst);
            outcome.result = answer.map_err(|cause| record.error(cause));
        } else if let Work::Read(dst) = work {
            outcome.dst = dst;
        }
        if let Some(failure) = failure {
            self.faults_fired += 1;
            outcome.result = Err(record.error(Cause::Os(failure.errno)));
        }
        outcome
    }

    fn log(&mut self, record: &Record, work: &Work, moved: u64) {
        if let Some(crash) = &mut self.crash
            && !record.on_vmstate()
            && let Some(change) = Change::of(record, work, moved)
        {
            crash.push(record.clone(), change);
        }
    }

    /// The first `moved` bytes of it.
    fn take_effect(
        &mut self,
        record: &Record,
        work: Work,
        moved: u64,
        log_position: u64,
        dst_back: &mut ReadVector,
    ) -> Result<Answer, Cause> {
        let on_vmstate = record.on_vmstate();
        let grows = on_vmstate || self.options.grows;
        if matches!(record.op, Op::SaveVmstate | Op::FinalizeVmstate) {
            self.vmstate_is_written();
        }
        let store = if on_vmstate {
            &mut self.vmstate
        } else {
            &mut self.disk
        };
        match work {
            Work::Read(mut dst) => {
                let (mut at, mut left) = (record.offset, moved);
                for part in dst.parts_mut() {
                    let run = left.min(part.len() as u64);
                    store.read(at, &mut part[..run as usize]);
                    (at, left) = (at + run, left - run);
                }
                *dst_back = dst;
            }
            Work::Write(_) | Work::Zero => {
                if let Some(change) = Change::of(record, &work, moved) {
                    change.apply(store, grows, 0..u64::MAX);
                }
            }
            Work::Truncate => {
                store.set_len(moved);
                if on_vmstate {
                    self.vmstate_length = Some(moved);
                }
            }
            Work::Flush => {
                if let Some(crash) = &mut self.crash {
                    crash.flush(log_position, grows);
                }
            }
            Work::Status => {
                let (data, length) = store.status(record.offset, moved);
                return Ok(Answer {
                    length,
                    data,
                    ..Answer::default()
                });
            }
            Work::Length => {
                return Ok(Answer {
                    length: store.len(),
                    ..Answer::default()
                });
            }
            Work::DiscardVmstate => self.discard_vmstate(),
            Work::Close => {
                self.closed = true;
                self.close_views();
            }
            on_snapshots => return self.on_snapshots(on_snapshots),
        }
        Ok(Answer::default())
    }
}

fn overlap(a: &Record, b: &Record) -> bool {
    a.offset < b.offset + b.len && b.offset < a.offset + a.len
}

/// Waits for the release of one call. Dropped: the call stays in flight, and its release still takes effect.
pub(super) struct Held {
    state: Rc<RefCell<State>>,
    id: u64,
}

impl Held {
    pub(super) fn new(state: Rc<RefCell<State>>, id: u64) -> Self {
        Self { state, id }
    }
}

impl Future for Held {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        // A waker runs code of its own when it is cloned or dropped: never under the borrow.
        let mut waker = Some(cx.waker().clone());
        let mut state = self.state.borrow_mut();
        let Some(mut call) = state.calls.remove(&self.id) else {
            panic!("call {} polled again after its end", self.id);
        };
        let polled = match call.stage {
            Stage::Done(outcome) => Poll::Ready(outcome),
            Stage::Held(..) => {
                std::mem::swap(&mut call.waker, &mut waker);
                state.calls.insert(self.id, call);
                Poll::Pending
            }
        };
        drop(state);
        drop(waker);
        polled
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        let Some(mut call) = state.calls.remove(&self.id) else {
            return;
        };
        let waker = call.waker.take();
        if matches!(call.stage, Stage::Held(..)) {
            call.abandoned = true;
            state.calls.insert(self.id, call);
        }
        drop(state);
        drop(waker);
    }
}
