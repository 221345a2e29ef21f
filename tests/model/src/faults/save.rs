//! Faults of nodes and saves.
use super::{Fault, fault};

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
        "vmstate/src/save/core.rs",
        "state.failed.get_or_insert(error)",
        "state.failed.insert(error)",
        &["the_first_of_two_buffers_that_fail_is_the_error_of_the_save"],
    ),
    fault(
        "a dropped save stays the node's active one",
        "vmstate/src/save/core.rs",
        "            self.fail(self.error_here(Cause::Cancelled));\n        }\n        self.leave();",
        "            self.fail(self.error_here(Cause::Cancelled));\n        }",
        &["a_save_dropped_while_its_buffer_completes_leaves_room_for_the_next"],
    ),
];
