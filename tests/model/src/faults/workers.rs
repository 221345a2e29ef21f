//! Faults of the worker threads.
use super::{Fault, fault};

pub(super) const FAULTS: &[Fault] = &[
    fault(
        "a close wakes no worker",
        "aio-task/src/workers.rs",
        "        self.work.notify_all();",
        "",
        &[
            "two_workers_one_job_and_a_shutdown_leave_nobody_asleep",
            "litmus_an_idle_worker_hears_of_the_shutdown",
        ],
    ),
    fault(
        "a close wakes one worker",
        "aio-task/src/workers.rs",
        "        self.work.notify_all();",
        "        self.work.notify_one();",
        &[
            "two_workers_one_job_and_a_shutdown_leave_nobody_asleep",
            "context_pool_and_two_workers_end_all_they_began",
        ],
    ),
    fault(
        "a worker of a closed pool drops what is queued",
        "aio-task/src/workers.rs",
        "state.queue.pop_front() {",
        "state.queue.pop_front().filter(|_| !state.closed) {",
        &[
            "a_shutdown_runs_what_is_queued",
            "a_dropped_pool_runs_what_is_queued",
        ],
    ),
    fault(
        "a closed pool takes jobs",
        "aio-task/src/workers.rs",
        "            if state.closed {\n                drop(state);\n                return work(Some(JobError::Refused));\n            }",
        "",
        &["a_job_against_a_shutdown_runs_or_is_refused"],
    ),
    fault(
        "a refused job is dropped",
        "aio-task/src/workers.rs",
        "                return work(Some(JobError::Refused));",
        "                return drop(work);",
        &["a_job_against_a_shutdown_runs_or_is_refused"],
    ),
    fault(
        "a job wakes no idle worker",
        "aio-task/src/workers.rs",
        "            shared.work.notify_one();",
        "",
        &["a_job_that_comes_while_the_worker_goes_idle_is_not_stranded"],
    ),
    fault(
        "one worker too many is started",
        "aio-task/src/workers.rs",
        "state.workers.len() < shared.max",
        "state.workers.len() <= shared.max",
        &["jobs_of_two_threads_start_no_more_workers_than_allowed"],
    ),
    fault(
        "the panic of a job ends its worker",
        "aio-task/src/workers.rs",
        "catch_unwind(AssertUnwindSafe(job)).map_err(JobError::Panicked)",
        "Ok(job())",
        &["a_job_that_panics_leaves_its_worker_and_its_result"],
    ),
    fault(
        "the panic of a result's destructor ends its worker",
        "aio-task/src/workers.rs",
        "                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(None))) {\n                    mem::forget(payload);\n                }",
        "                work(None);",
        &["a_result_whose_drop_panics_leaves_its_worker"],
    ),
    fault(
        "a worker leaves though a job is queued",
        "aio-task/src/workers.rs",
        "waited == Waited::TimedOut && state.queue.is_empty()",
        "waited == Waited::TimedOut",
        &["a_worker_that_leaves_idle_as_a_job_comes_strands_nothing"],
    ),
    fault(
        "a worker that leaves stays on the list",
        "aio-task/src/workers.rs",
        "        state.workers.remove(key);\n        self.left.notify_all();",
        "        self.left.notify_all();",
        &[
            "a_worker_that_leaves_idle_is_not_waited_for_by_the_shutdown",
            "a_worker_without_patience_leaves_and_another_takes_the_next_job",
        ],
    ),
    fault(
        "a worker that leaves tells nobody",
        "aio-task/src/workers.rs",
        "        state.workers.remove(key);\n        self.left.notify_all();",
        "        state.workers.remove(key);",
        &["a_shutdown_runs_what_is_queued"],
    ),
    fault(
        "a worker that leaves tells one of those who wait",
        "aio-task/src/workers.rs",
        "        state.workers.remove(key);\n        self.left.notify_all();",
        "        state.workers.remove(key);\n        self.left.notify_one();",
        &["two_shutdowns_at_once_both_return"],
    ),
    fault(
        "the last handle of the workers closes nothing",
        "aio-task/src/workers.rs",
        "        self.shared.close();",
        "",
        &["a_dropped_pool_runs_what_is_queued"],
    ),
    fault(
        "a shutdown inside a job waits for that job",
        "aio-task/src/workers.rs",
        ".any(|(_, worker)| *worker != me)",
        ".any(|(_, worker)| *worker != me || worker.is_some())",
        &["a_shutdown_inside_a_job_waits_for_the_others_only"],
    ),
];
