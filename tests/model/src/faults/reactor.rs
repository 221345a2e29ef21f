//! Faults of the reactor's bell.
use super::{Fault, fault};

const CONDVAR: &str = "aio-task/src/reactor/condvar.rs";

const TASK: &str = "a_task_that_completes_while_the_owner_goes_to_sleep_wakes_it";
const MAIN: &str = "a_result_for_block_on_itself_ends_its_sleep";

pub(super) const FAULTS: &[Fault] = &[
    fault(
        "a ring before the wait is not heard",
        CONDVAR,
        "if !*rung {",
        "if true {",
        &[TASK, MAIN],
    ),
    fault(
        "a ring wakes no waiter",
        CONDVAR,
        "self.0.heard.notify_one();",
        "",
        &[TASK, MAIN],
    ),
    fault(
        "a ring wakes before it is noted",
        CONDVAR,
        "*self.0.rung.lock() = true;\n        self.0.heard.notify_one();",
        "self.0.heard.notify_one();\n        *self.0.rung.lock() = true;",
        &[TASK, MAIN],
    ),
    fault(
        "a ring is heard by every later wait",
        CONDVAR,
        "        *rung = false;\n",
        "",
        &["a_ring_of_the_reactor_ends_one_wait"],
    ),
];
