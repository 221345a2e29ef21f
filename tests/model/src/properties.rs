//! What the models must cover. The gate is red while a number has no model.

/// A property and its number. Numbers stay; new ones are added at the end.
pub const PROPERTIES: &[(u8, &str)] = &[
    // The notifier.
    (
        1,
        "a flag set before notify is seen by the loop that parks on it",
    ),
    (
        2,
        "data written before notify is safe to read after the park",
    ),
    (
        3,
        "a notification swallowed by a pending one still publishes",
    ),
    (
        4,
        "a notification before the park ends it at once, and is consumed once",
    ),
    (
        5,
        "at most one wake per sleep, none while the owner is awake",
    ),
    (
        6,
        "a wake that comes after its sleep ended costs one turn, no hang",
    ),
    // The inbox.
    (
        7,
        "what two threads push runs exactly once, in order per thread",
    ),
    (
        8,
        "push then notify against drain then park strands nothing",
    ),
    (9, "local state is touched by the owner only"),
    (
        10,
        "a push against the close is run, dropped by the owner, or refused",
    ),
    // A task's state.
    (
        11,
        "a wake before, during and after the run: a poll follows the last wake",
    ),
    (
        12,
        "a wake happens before the poll it causes, coalesced or not",
    ),
    (13, "two wakers make one runnable"),
    (
        14,
        "a cancel against a wake drops the future once, on its owner",
    ),
    (15, "a cancel against a poll: poll and drop never overlap"),
    (
        16,
        "a join handle against a completion elsewhere: output read, awaiter woken",
    ),
    (
        17,
        "the last waker dropped remotely: the schedule's captures freed once, after use",
    ),
    (18, "a runnable dropped unrun resolves its handle"),
    // The completion slot.
    (19, "complete against the first poll"),
    (20, "complete against a poll with another waker"),
    (
        21,
        "complete against the receiver's drop: the value dropped once",
    ),
    (22, "a sender dropped without a value ends the wait"),
    (
        23,
        "the completer does not touch the slot after the receiver may free it",
    ),
    // The executor.
    (
        24,
        "a task completing elsewhere against the owner about to park",
    ),
    (
        25,
        "a context dropped while a wake is on its way waits for it",
    ),
    (
        26,
        "a waker that outlives the context does nothing and leaks nothing",
    ),
    (
        27,
        "block_on's future and a task woken together are both polled",
    ),
    (
        28,
        "a task's panic with a concurrent wake reaches its handle",
    ),
    // The pool.
    (
        29,
        "two completions while wait_all sleeps: the first error is the status",
    ),
    (
        30,
        "with one slot the second start waits for the first task's remote end",
    ),
    (
        31,
        "wait_one returns after two ends that came before it ran",
    ),
    (
        32,
        "a task panics while another completes: slot freed once, status set",
    ),
    (
        33,
        "a task cancelled while its I/O completes: slot freed once",
    ),
    (
        34,
        "a waiter dropped while waiting or after hand-over passes slot and wake on",
    ),
    // The worker threads.
    (35, "a shutdown runs what is queued"),
    (36, "a submit against the shutdown runs or is refused"),
    (
        37,
        "two idle workers, one job and a shutdown: none sleeps for ever",
    ),
    (
        38,
        "a submit at the limit against a worker going idle is not stranded",
    ),
    (39, "a job's panic leaves its worker and its result"),
    (
        40,
        "context, pool and workers together: a second request fails, status and order hold",
    ),
    // What the code has beyond these.
    (41, "a deadline against a wake"),
    (42, "a hosted context against a remote wake"),
    (43, "two contexts exchange work"),
    (
        44,
        "the watcher of a hosted context reports what it was ordered",
    ),
    (45, "a cancel flag reaches every waiter"),
    (
        46,
        "an idle worker leaves against a submit and against a shutdown",
    ),
    (47, "a save cancelled while its buffers complete"),
    (48, "a node dropped with I/O in flight"),
    (49, "CoMutex and CoQueue handed over under remote wakes"),
    // What a future may be used for, and a waker may do.
    (
        50,
        "a future polled by two tasks wakes the later one: slot, flag, Drive, timer, descriptor, the waits of pools, locks and queues",
    ),
    (
        51,
        "a waker polls inside its wake: no lock or borrow is held",
    ),
    (52, "an order reaches the watcher while it reports"),
    (53, "a job waits for one that was submitted after it"),
    (
        54,
        "settle in another task than the one that dropped the request",
    ),
    (
        55,
        "two versions of one cell of a save are written in their order",
    ),
    (
        56,
        "two Drives: both hosts are woken, and one takes over from the other",
    ),
    (57, "more items than a turn runs, owned and hosted"),
    (
        58,
        "a timer, a descriptor or a clock changed outside a turn",
    ),
    (
        59,
        "a cancel ends a save that waits though nothing completes",
    ),
    (60, "a wait outside of a context ends with the context"),
];
