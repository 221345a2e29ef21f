//! Faults of nodes and saves.
use super::{Fault, fault};

const SETTLE_ALL: &str = "settle_reaches_every_task_and_a_waker_that_polls_at_once";

pub(super) const FAULTS: &[Fault] = &[
    fault(
        "a request is cancelled with its future",
        "block-core/src/node/request.rs",
        "            task.detach();",
        "            drop(task);",
        &[
            "a_node_dropped_with_a_write_in_flight_stays_until_its_end",
            "a_write_whose_future_is_dropped_is_waited_for_by_settle",
        ],
    ),
    fault(
        "the memory of a request belongs to its future",
        "tests/model/src/models/litmus.rs",
        "        submit(memory, kernel, completer);\n",
        "        kernel.submit(memory.address(), move || completer.complete(()));\n        let _ = completion.await;\n        drop(memory);\n        let (_, completion) = slot();\n",
        &["litmus_memory_outlives_the_future_that_is_dropped"],
    ),
    fault(
        "settle waits for nothing",
        "block-core/src/node/request.rs",
        "        self.idle.until(|| self.in_flight.get() == 0).await;",
        "        self.idle.until(|| true).await;",
        &["a_write_whose_future_is_dropped_is_waited_for_by_settle"],
    ),
    fault(
        "finalize does not wait for what is in flight",
        "vmstate/src/save/finalize.rs",
        "        self.land().await?;\n        let result = loop",
        "        let result = loop",
        &[
            "a_save_cancelled_while_its_buffers_complete_waits_for_them",
            "the_first_of_two_buffers_that_fail_is_the_error_of_the_save",
        ],
    ),
    fault(
        "a later failure replaces a save's first",
        "vmstate/src/save/session.rs",
        "state.failed.get_or_insert(error)",
        "state.failed.insert(error)",
        &["the_first_of_two_buffers_that_fail_is_the_error_of_the_save"],
    ),
    fault(
        "a dropped save stays the node's active one",
        "vmstate/src/save/session.rs",
        "            self.fail(self.error_here(Cause::Cancelled));\n        }\n        self.leave();",
        "            self.fail(self.error_here(Cause::Cancelled));\n        }",
        &["a_save_dropped_while_its_buffer_completes_leaves_room_for_the_next"],
    ),
    fault(
        "the end of the last request wakes no waiter",
        "block-core/src/node/request.rs",
        "        if left == 0 {\n            gate.idle.wake_all();\n        }",
        "        let _ = left;",
        &["settle_in_another_task_waits_for_a_request_that_was_dropped"],
    ),
    fault(
        "a cell is written though an older version of it is in flight",
        "vmstate/src/area_state.rs",
        "flight.range.start < range.end && range.start < flight.range.end",
        "flight.range.start > range.end && range.start > flight.range.end",
        &["two_versions_of_one_cell_land_in_their_order"],
    ),
    fault(
        "a save that waits does not hear of its cancel",
        "vmstate/src/save/session.rs",
        "        match self.driven(select(changed, cancelled)).await? {",
        "        drop(cancelled);\n        match self.driven(select(changed, std::future::pending::<()>())).await? {",
        &["a_cancel_ends_a_save_that_waits_though_nothing_completes"],
    ),
    fault(
        "the end of a flight wakes no waiter",
        "vmstate/src/area_state.rs",
        "        self.area.changed.wake_all();\n    }\n}",
        "    }\n}",
        &["a_save_dropped_while_its_buffer_completes_leaves_room_for_the_next"],
    ),
    fault(
        "a wait for the end of requests keeps its first waker",
        "block-core/src/node/waiters.rs",
        "        let old = waiters.asleep.borrow_mut().insert(ticket, waker);\n        drop(old); // outside the borrow",
        "        waiters.asleep.borrow_mut().entry(ticket).or_insert(waker);",
        &[SETTLE_ALL],
    ),
    fault(
        "a second poll ends a wait for the end of requests",
        "block-core/src/node/waiters.rs",
        "        if (this.done)() {",
        "        if this.ticket.is_some() || (this.done)() {",
        &[SETTLE_ALL],
    ),
    fault(
        "the end of the last request wakes the first of those who wait",
        "block-core/src/node/request.rs",
        "            gate.idle.wake_all();",
        "            gate.idle.wake_first();",
        &[SETTLE_ALL],
    ),
    fault(
        "the end of the last request wakes before it is counted",
        "block-core/src/node/request.rs",
        "        gate.in_flight.set(left);\n        if left == 0 {\n            gate.idle.wake_all();\n        }",
        "        if left == 0 {\n            gate.idle.wake_all();\n        }\n        gate.in_flight.set(left);",
        &[SETTLE_ALL],
    ),
    fault(
        "the end of the last request wakes while the list is borrowed",
        "block-core/src/node/waiters.rs",
        "        let woken = std::mem::take(&mut *self.asleep.borrow_mut());",
        "        let mut asleep = self.asleep.borrow_mut();\n        let woken = std::mem::take(&mut *asleep);",
        &[SETTLE_ALL],
    ),
    fault(
        "only what took off last counts as being in flight",
        "vmstate/src/area_state.rs",
        "            .iter()\n            .any(|flight| flight",
        "            .last()\n            .is_some_and(|flight| flight",
        &["two_versions_of_one_cell_land_in_their_order"],
    ),
    fault(
        "a flush does not hear of its cancel",
        "vmstate/src/save/finalize.rs",
        "            self.until_changed().await?;\n            self.check()?;",
        "            self.driven(self.area.changed.wait()).await?;\n            self.check()?;",
        &["a_cancel_ends_a_flush_that_waits_though_nothing_completes"],
    ),
];
