//! Faults of the edge: each ordering weakened, each step left out or done too early.
use super::{Fault, Killer, fault};

const NOTIFIER: &str = "aio-task/src/edge/notifier.rs";
const INBOX: &str = "aio-task/src/edge/inbox.rs";
const SLOT: &str = "aio-task/src/edge/slot.rs";
const CANCEL: &str = "aio-task/src/edge/cancel.rs";
const COUNTER: &str = "aio-task/src/edge/counter.rs";
const WATCHER: &str = "aio-task/src/edge/watcher.rs";
const REMOTE: &str = "aio-task/src/context/remote.rs";

const FLAG: &str = "a_flag_set_before_notify_is_seen_after_the_park";
const DATA: &str = "data_written_before_notify_may_be_read_after_the_park";
const SWALLOWED: &str = "a_notification_swallowed_by_another_still_publishes";
const ONCE: &str = "a_notification_before_the_park_ends_it_at_once_and_only_once";
const COST: &str = "a_sleep_costs_one_wake_and_an_awake_owner_none";
const STALE: &str = "a_wake_that_comes_after_its_sleep_costs_one_turn";
const HOST: &str = "a_remote_wake_reaches_the_host_of_a_hosted_context";
const PUSHED: &str = "what_two_threads_push_is_taken_once_and_in_each_ones_order";
const STRANDED: &str = "a_push_while_the_owner_goes_to_sleep_is_not_stranded";
const JOBS: &str = "jobs_of_two_threads_run_once_and_on_the_owner";
const HANDLE: &str = "a_cancel_from_another_thread_never_overlaps_a_poll";
const LEFT: &str = "a_sender_lets_go_of_a_slot_that_the_receiver_has_left";
const CLOSED: &str = "a_push_while_the_inbox_closes_is_taken_or_refused";
const SUBMITTED: &str =
    "a_job_submitted_while_the_context_is_dropped_goes_on_the_owner_or_is_refused";
const FIRST_LOOK: &str = "a_value_delivered_while_the_receiver_looks_first_arrives";
const LATER_WAKER: &str = "a_value_delivered_between_two_polls_wakes_the_later_waker";
const LEAVING: &str = "a_value_delivered_while_the_receiver_leaves_is_dropped_once";
const NO_VALUE: &str = "a_sender_that_leaves_without_a_value_ends_the_wait";
const CANCEL_EDGE: &str = "what_was_written_before_a_cancel_may_be_read_after_it";
const CANCEL_WAIT: &str = "a_cancel_ends_a_wait_that_begins_at_the_same_time";
const CANCEL_TWO: &str = "a_cancel_while_one_of_three_waiters_leaves_wakes_the_others";
const COUNTED: &str = "what_two_threads_count_at_once_is_all_counted";
const MAIN: &str = "a_result_for_block_on_itself_ends_its_sleep";
const MAIN_TWICE: &str = "two_results_for_block_on_itself_are_both_seen";
const TASK: &str = "a_task_that_completes_while_the_owner_goes_to_sleep_wakes_it";
const ORDERED: &str = "a_watcher_reports_what_it_was_ordered_last";
const WATCHING: &str = "a_watcher_dropped_while_it_watches_leaves";
const RESTING: &str = "a_watcher_dropped_after_its_report_leaves";
const SLOT_INLINE: &str = "a_value_delivered_to_a_waker_that_polls_at_once_arrives";
const CANCEL_LATER: &str = "a_cancel_between_two_polls_wakes_the_later_waker";
const CANCEL_INLINE: &str = "a_cancel_that_wakes_a_waker_that_polls_at_once_ends_the_wait";
const EVERY_HOST: &str = "a_notification_wakes_every_host";
const HOST_INLINE: &str = "a_host_that_polls_inside_its_wake_is_not_locked_out";
const HOST_LATER: &str = "a_drive_polled_by_two_hosts_wakes_the_later";
const REPORTS: &str = "an_order_given_while_the_watcher_reports_is_met";
const REPORT_ORDERS: &str = "a_report_that_gives_an_order_is_not_locked_out";

pub(super) const FAULTS: &[Fault] = &[
    // The notifier's word.
    fault(
        "notify does not release",
        NOTIFIER,
        "self.word.swap(NOTIFIED, Ordering::AcqRel)",
        "self.word.swap(NOTIFIED, Ordering::Acquire)",
        &[FLAG, DATA, SWALLOWED],
    ),
    Fault {
        name: "notify does not acquire",
        file: NOTIFIER,
        search: "self.word.swap(NOTIFIED, Ordering::AcqRel)",
        replacement: "self.word.swap(NOTIFIED, Ordering::Release)",
        killer: Killer::Equivalent {
            why: "a read-modify-write continues the release sequence of the notification it swallows whatever it acquires, and the hosts are behind a lock",
            watched: &[SWALLOWED, COST, HOST],
        },
    },
    fault(
        "take does not acquire",
        NOTIFIER,
        "self.word.swap(EMPTY, Ordering::AcqRel)",
        "self.word.swap(EMPTY, Ordering::Release)",
        &[FLAG, DATA],
    ),
    Fault {
        name: "take does not release",
        file: NOTIFIER,
        search: "self.word.swap(EMPTY, Ordering::AcqRel)",
        replacement: "self.word.swap(EMPTY, Ordering::Acquire)",
        killer: Killer::Equivalent {
            why: "who finds the word empty reads nothing that the owner wrote",
            watched: &[FLAG, SWALLOWED, HOST],
        },
    },
    Fault {
        name: "prepare_sleep is relaxed",
        file: NOTIFIER,
        search: ".compare_exchange(EMPTY, SLEEPING, Ordering::AcqRel, Ordering::Acquire)",
        replacement: ".compare_exchange(EMPTY, SLEEPING, Ordering::Relaxed, Ordering::Relaxed)",
        killer: Killer::Equivalent {
            why: "who finds the owner asleep reaches it through a lock, and an owner that finds a notification takes it with acquire before it reads",
            watched: &[FLAG, DATA, ONCE, STALE, HOST],
        },
    },
    fault(
        "notify wakes an owner that is awake",
        NOTIFIER,
        "Ordering::AcqRel) != SLEEPING {",
        "Ordering::AcqRel) == NOTIFIED {",
        &[COST],
    ),
    fault(
        "notify does not wake a sleeping owner",
        NOTIFIER,
        "Ordering::AcqRel) != SLEEPING {",
        "Ordering::AcqRel) != EMPTY {",
        &[FLAG, DATA, ONCE],
    ),
    fault(
        "a second notification does not touch the word",
        NOTIFIER,
        "if self.word.swap(NOTIFIED",
        "if self.word.load(Ordering::Acquire) == NOTIFIED || self.word.swap(NOTIFIED",
        &[SWALLOWED],
    ),
    fault(
        "take leaves the notification pending",
        NOTIFIER,
        "self.word.swap(EMPTY, Ordering::AcqRel) == NOTIFIED",
        "self.word.load(Ordering::Acquire) == NOTIFIED",
        &[ONCE],
    ),
    fault(
        "take leaves an announced sleep standing",
        NOTIFIER,
        "self.word.swap(EMPTY, Ordering::AcqRel) == NOTIFIED",
        "self.word.compare_exchange(NOTIFIED, EMPTY, Ordering::AcqRel, Ordering::Acquire).is_ok()",
        &[STALE],
    ),
    fault(
        "prepare_sleep sleeps over a notification",
        NOTIFIER,
        "self.word\n            .compare_exchange(EMPTY, SLEEPING, Ordering::AcqRel, Ordering::Acquire)\n            .is_ok()",
        "self.word.swap(SLEEPING, Ordering::AcqRel) != SLEEPING",
        &[FLAG, ONCE],
    ),
    fault(
        "a notification wakes the reactor instead of the host",
        NOTIFIER,
        "if hosts.is_empty() {",
        "if true {",
        &["a_notification_to_a_hosted_context_wakes_its_host_alone"],
    ),
    fault(
        "a notification forgets the host",
        NOTIFIER,
        "for (_, host) in hosts {\n            host.wake();",
        "for (_, host) in hosts {\n            drop(host);",
        &[HOST, "a_hosted_contexts_deadline_wakes_its_host"],
    ),
    fault(
        "a notification leaves the reactor asleep",
        NOTIFIER,
        "if hosts.is_empty() {",
        "if false {",
        &[
            "a_result_against_a_deadline_is_one_or_the_other",
            "a_deadline_that_passed_swallows_no_later_wake",
        ],
    ),
    fault(
        "a host that left is woken instead of the reactor",
        NOTIFIER,
        ".map(|at| hosts.swap_remove(at));",
        ".map(|_| 0);",
        &["a_hosted_context_dropped_by_its_host_drops_what_is_on_its_way"],
    ),
    // The inbox.
    fault(
        "the inbox is a stack",
        INBOX,
        "state.items.push_back(item);",
        "state.items.push_front(item);",
        &[PUSHED],
    ),
    fault(
        "a take of the inbox leaves all but the first",
        INBOX,
        "mem::take(&mut self.state.lock().items)",
        "self.state.lock().items.pop_front().into_iter().collect()",
        &[PUSHED, JOBS],
    ),
    fault(
        "a closed inbox goes on accepting",
        INBOX,
        "state.closed = true;",
        "",
        &[CLOSED, "a_waker_that_outlives_its_context_does_nothing"],
    ),
    fault(
        "the close of the inbox forgets what is there",
        INBOX,
        "state.closed = true;\n        mem::take(&mut state.items)",
        "state.closed = true;\n        VecDeque::new()",
        &[CLOSED],
    ),
    fault(
        "a push looks whether the inbox is closed before it takes the lock",
        INBOX,
        "let mut state = self.state.lock();\n        if state.closed {",
        "let closed = self.state.lock().closed;\n        let mut state = self.state.lock();\n        if closed {",
        &[CLOSED],
    ),
    // The way in.
    fault(
        "a sender notifies before it pushes",
        REMOTE,
        "self.inbox.push(item)?;\n        self.notifier.notify();",
        "self.notifier.notify();\n        self.inbox.push(item)?;",
        &[
            STRANDED,
            TASK,
            JOBS,
            "two_contexts_wait_for_each_others_work",
        ],
    ),
    fault(
        "a sender pushes and does not notify",
        REMOTE,
        "self.inbox.push(item)?;\n        self.notifier.notify();",
        "self.inbox.push(item)?;",
        &[STRANDED, TASK, JOBS, HANDLE],
    ),
    fault(
        "a refused job counts as accepted",
        REMOTE,
        ".map_err(|_refused| Closed)",
        ".or(Ok(()))",
        &[SUBMITTED],
    ),
    fault(
        "the mark of block_on's future is set relaxed",
        REMOTE,
        "self.remote.main_woken.swap(true, Ordering::AcqRel);",
        "self.remote.main_woken.swap(true, Ordering::Relaxed);",
        &[MAIN_TWICE],
    ),
    fault(
        "the mark of block_on's future is taken relaxed",
        REMOTE,
        "self.main_woken.swap(false, Ordering::AcqRel)",
        "self.main_woken.swap(false, Ordering::Relaxed)",
        &[MAIN_TWICE],
    ),
    fault(
        "the mark of block_on's future is set after the notification",
        REMOTE,
        "self.remote.main_woken.swap(true, Ordering::AcqRel);\n                self.remote.notifier.notify();",
        "self.remote.notifier.notify();\n                self.remote.main_woken.swap(true, Ordering::AcqRel);",
        &[MAIN],
    ),
    fault(
        "a wake of the context notifies nothing",
        REMOTE,
        "pub fn wake(&self) {\n        self.remote.notifier.notify();",
        "pub fn wake(&self) {",
        &["a_wake_of_the_context_alone_makes_its_reactor_look_again"],
    ),
    // The slot.
    fault(
        "a value is left and no waiter woken",
        SLOT,
        "waker.wake();",
        "drop(waker);",
        &[FIRST_LOOK, LATER_WAKER, NO_VALUE],
    ),
    fault(
        "the receiver is woken before the value is there",
        SLOT,
        "    let before = {\n        let mut state = slot.lock();\n        match *state {\n            State::Deaf => outcome,\n            _ => mem::replace(&mut *state, outcome),\n        }\n    };\n    // Outside the lock: a waker may run anything, and so may the drop of a value no caller wants.\n    if let State::Waiting(waker) = before {\n        waker.wake();\n    }",
        "    let before = mem::replace(&mut *slot.lock(), State::Empty);\n    if let State::Waiting(waker) = before {\n        waker.wake();\n    }\n    *slot.lock() = outcome;",
        &[FIRST_LOOK, NO_VALUE, LEFT],
    ),
    fault(
        "the receiver keeps its first waker",
        SLOT,
        "State::Waiting(old) => replaced = Some(old),",
        "State::Waiting(old) => {\n                    *state = State::Waiting(old);\n                    return Poll::Pending;\n                }",
        &[LATER_WAKER],
    ),
    fault(
        "the receiver leaves no waker",
        SLOT,
        "*state = State::Waiting(waker);",
        "*state = State::Empty;\n            drop(waker);",
        &[FIRST_LOOK, LATER_WAKER],
    ),
    fault(
        "a receiver leaves without a word",
        SLOT,
        "let last = mem::replace(&mut *self.state.lock(), State::Deaf);\n        drop(last);",
        "",
        &[LEAVING],
    ),
    fault(
        "a sender leaves without a word",
        SLOT,
        "settle(&state, State::Abandoned);",
        "drop(state);",
        &[NO_VALUE],
    ),
    fault(
        "a value that was taken leaves the slot waiting for another",
        SLOT,
        "mem::replace(&mut *state, State::Abandoned)",
        "mem::replace(&mut *state, State::Empty)",
        &[LEFT],
    ),
    // The cancel flag and the counter.
    fault(
        "a cancel is stored relaxed",
        CANCEL,
        "self.shared.set.store(true, Ordering::Release);",
        "self.shared.set.store(true, Ordering::Relaxed);",
        &[CANCEL_EDGE],
    ),
    fault(
        "a cancel is looked at relaxed",
        CANCEL,
        "pub fn is_cancelled(&self) -> bool {\n        self.shared.set.load(Ordering::Acquire)",
        "pub fn is_cancelled(&self) -> bool {\n        self.shared.set.load(Ordering::Relaxed)",
        &[CANCEL_EDGE],
    ),
    fault(
        "a wait for a cancel looks relaxed",
        CANCEL,
        "if this.shared.set.load(Ordering::Acquire) {",
        "if this.shared.set.load(Ordering::Relaxed) {",
        &[CANCEL_EDGE],
    ),
    fault(
        "a cancel takes the waiters before it is set",
        CANCEL,
        "        self.shared.set.store(true, Ordering::Release);\n        // A waiter that looked before the store is in the list by the time the lock is ours; a later one sees the flag.\n        let woken = mem::take(&mut *self.shared.waiters.lock());",
        "        let woken = mem::take(&mut *self.shared.waiters.lock());\n        self.shared.set.store(true, Ordering::Release);",
        &[CANCEL_WAIT],
    ),
    fault(
        "a wait for a cancel looks before it takes the lock",
        CANCEL,
        "let mut waiters = this.shared.waiters.lock();\n            // Looked at under the lock: `cancel` sets the flag before it takes the list.\n            if this.shared.set.load(Ordering::Acquire) {",
        "let set = this.shared.set.load(Ordering::Acquire);\n            let mut waiters = this.shared.waiters.lock();\n            if set {",
        &[CANCEL_WAIT],
    ),
    fault(
        "a cancel wakes no waiter",
        CANCEL,
        "waker.wake();",
        "drop(waker);",
        &[CANCEL_WAIT, CANCEL_TWO],
    ),
    fault(
        "a leaving waiter takes another's place along",
        CANCEL,
        "try_remove(key);",
        "try_remove(key - key);",
        &[CANCEL_TWO],
    ),
    fault(
        "the counter adds by a load and a store",
        COUNTER,
        "self.0.fetch_add(n, Ordering::Relaxed);",
        "self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);",
        &[COUNTED],
    ),
    // The watcher.
    fault(
        "a new order does not ring",
        WATCHER,
        "*order = Order::Watch(until);\n                drop(order);\n                self.bell.unpark();",
        "*order = Order::Watch(until);\n                drop(order);",
        &[ORDERED],
    ),
    fault(
        "an order does not wake a resting watcher",
        WATCHER,
        "*order = Order::Watch(until);\n                self.desk.changed.notify_one();",
        "*order = Order::Watch(until);",
        &[ORDERED, RESTING],
    ),
    fault(
        "the end does not ring",
        WATCHER,
        "self.desk.changed.notify_one();\n        self.bell.unpark();",
        "self.desk.changed.notify_one();",
        &[WATCHING],
    ),
    fault(
        "the end does not wake a resting watcher",
        WATCHER,
        "self.desk.changed.notify_one();\n        self.bell.unpark();",
        "self.bell.unpark();",
        &[RESTING],
    ),
    fault(
        "a watcher takes every order for the one it has met",
        WATCHER,
        "if *order == Order::Watch(until) {",
        "if true {",
        &[WATCHING],
    ),
    // A waker that polls at once, a future that moves.
    fault(
        "a sender wakes while it holds the slot's lock",
        SLOT,
        "    if let State::Waiting(waker) = before {\n        waker.wake();",
        "    let _held = slot.lock();\n    if let State::Waiting(waker) = before {\n        waker.wake();",
        &[SLOT_INLINE],
    ),
    fault(
        "a wait for a cancel keeps its first waker",
        CANCEL,
        "Some(place) => Some(mem::replace(place, waker)),",
        "Some(_) => Some(waker),",
        &[CANCEL_LATER],
    ),
    fault(
        "a cancel wakes while it holds its list",
        CANCEL,
        "let woken = mem::take(&mut *self.shared.waiters.lock());",
        "let mut held = self.shared.waiters.lock();\n        let woken = mem::take(&mut *held);",
        &[CANCEL_INLINE],
    ),
    fault(
        "a wait for a cancel that is dropped stays in the list",
        CANCEL,
        "let waker = self.shared.waiters.lock().try_remove(key);\n        drop(waker);",
        "let _ = key;",
        &[CANCEL_LATER],
    ),
    fault(
        "a notification wakes one host",
        NOTIFIER,
        "for (_, host) in hosts {\n            host.wake();",
        "for (_, host) in hosts.into_iter().take(1) {\n            host.wake();",
        &[EVERY_HOST],
    ),
    fault(
        "hosts are woken under their lock",
        NOTIFIER,
        "let hosts = mem::take(&mut *self.hosts.lock());",
        "let mut held = self.hosts.lock();\n        let hosts = mem::take(&mut *held);",
        &[HOST_INLINE],
    ),
    fault(
        "the notifier keeps a host's first waker",
        NOTIFIER,
        "Some((_, old)) => Some(mem::replace(old, waker)),",
        "Some(_) => Some(waker),",
        &[HOST_LATER],
    ),
    fault(
        "all hosts share one place",
        NOTIFIER,
        "hosts.iter_mut().find(|(k, _)| *k == key)",
        "hosts.iter_mut().find(|(k, _)| *k <= key)",
        &[EVERY_HOST],
    ),
    fault(
        "a host that leaves takes another one off the list",
        NOTIFIER,
        ".position(|(k, _)| *k == key)",
        ".position(|(k, _)| *k != key)",
        &[EVERY_HOST],
    ),
    fault(
        "the watcher forgets what it was ordered while it reported",
        WATCHER,
        "                        *order = Order::Rest;\n                        drop(order);\n                        report();\n                        order = self.order.lock();",
        "                        drop(order);\n                        report();\n                        order = self.order.lock();\n                        *order = Order::Rest;",
        &[REPORTS],
    ),
    fault(
        "the watcher reports under its lock",
        WATCHER,
        "                        drop(order);\n                        report();\n                        order = self.order.lock();",
        "                        report();",
        &[REPORT_ORDERS],
    ),
    fault(
        "a nearer order does not replace one that stands",
        WATCHER,
        "if comes_first(standing, until) => {}",
        "if comes_first(until, standing) => {}",
        &[ORDERED],
    ),
    fault(
        "a cancel wakes one waiter",
        CANCEL,
        "for (_, waker) in woken {",
        "for (_, waker) in woken.into_iter().take(1) {",
        &[CANCEL_TWO],
    ),
    fault(
        "a host is registered once more with each poll",
        NOTIFIER,
        "let replaced = match hosts.iter_mut().find(|(k, _)| *k == key) {",
        "let replaced = match hosts.iter_mut().find(|_| false) {",
        &[EVERY_HOST],
    ),
    fault(
        "the watcher rests after its report, unless another order stands",
        WATCHER,
        "                        *order = Order::Rest;\n                        drop(order);\n                        report();\n                        order = self.order.lock();",
        "                        drop(order);\n                        report();\n                        order = self.order.lock();\n                        if *order == Order::Watch(until) {\n                            *order = Order::Rest;\n                        }",
        &[REPORTS],
    ),
    fault(
        "hosts leave the notifier's list after they were woken",
        NOTIFIER,
        "        let hosts = mem::take(&mut *self.hosts.lock());\n        if hosts.is_empty() {\n            self.unpark.unpark();\n        }\n        for (_, host) in hosts {\n            host.wake();\n        }",
        "        let hosts = self.hosts.lock().clone();\n        if hosts.is_empty() {\n            self.unpark.unpark();\n        }\n        for (_, host) in hosts {\n            host.wake();\n        }\n        drop(self.take_hosts());",
        &[HOST_INLINE, HOST],
    ),
];
