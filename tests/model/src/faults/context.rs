//! Faults of the loop, the tasks and the hosted context.
use super::{Fault, Killer, fault};

const CORE: &str = "aio-task/src/context/shared.rs";
const CONTEXT: &str = "aio-task/src/context/mod.rs";
const QUEUE: &str = "aio-task/src/context/run_queue.rs";
const TASK: &str = "aio-task/src/context/task.rs";
const HOSTED: &str = "aio-task/src/context/hosted.rs";
const SYNC: &str = "aio-task/src/sync/mod.rs";
const TIMER: &str = "aio-task/src/context/timer.rs";
const WAITERS: &str = "aio-task/src/context/waiters.rs";
const READINESS: &str = "aio-task/src/context/readiness.rs";
const HANDLE_FILE: &str = "aio-task/src/context/handle.rs";

const WOKEN: &str = "a_task_that_completes_while_the_owner_goes_to_sleep_wakes_it";
const OUTLIVES: &str = "a_waker_that_outlives_its_context_does_nothing";
const HANDLE: &str = "a_cancel_from_another_thread_never_overlaps_a_poll";
const BETWEEN: &str = "a_task_of_one_context_awaited_in_another_ends_with_its_output";
const TWO: &str = "two_contexts_wait_for_each_others_work";
const IN_FLIGHT: &str = "a_context_dropped_with_a_write_in_flight_drops_the_node_here";
const MEMORY: &str = "litmus_memory_outlives_the_future_that_is_dropped";
const MAIN: &str = "a_result_for_block_on_itself_ends_its_sleep";
const STRANDED: &str = "a_push_while_the_owner_goes_to_sleep_is_not_stranded";
const AFTER: &str = "a_wake_before_during_or_after_a_run_is_followed_by_a_poll";
const OWNER: &str = "a_task_touches_what_is_local_on_its_owner_only";
const ON_ITS_WAY: &str = "a_context_dropped_while_a_wake_is_on_its_way_waits_for_it";
const CANCELLED: &str = "a_wake_while_the_owner_cancels_drops_the_future_once_on_the_owner";
const UNRUN: &str = "a_runnable_dropped_unrun_ends_the_wait_for_its_task";
const SUBMITTED: &str =
    "a_job_submitted_while_the_context_is_dropped_goes_on_the_owner_or_is_refused";
const PANIC: &str = "a_panic_with_a_wake_on_its_way_reaches_the_handle";
const AGAIN: &str = "a_context_built_where_another_was_has_a_queue_of_its_own";
const DEADLINE: &str = "a_result_against_a_deadline_is_one_or_the_other";
const HOST: &str = "a_remote_wake_reaches_the_host_of_a_hosted_context";
const HOST_BLOCKS: &str = "a_remote_wake_while_the_host_blocks_on_the_context_is_not_lost";
const HOST_LEAVES: &str = "a_hosted_context_dropped_by_its_host_drops_what_is_on_its_way";
const HOST_JOB: &str = "a_job_submitted_to_a_hosted_context_wakes_its_host";
const TIMER_LATER: &str = "a_timer_polled_by_two_wakers_wakes_the_later";
const DEVICE_LATER: &str = "a_descriptor_polled_by_two_wakers_wakes_the_later";
const DRIVER_LATER: &str = "the_last_drivers_end_reaches_the_later_of_two_wakers";
const HOST_LATER: &str = "a_drive_polled_by_two_hosts_wakes_the_later";
const TIMER_INLINE: &str = "a_timer_whose_waker_polls_at_once_is_over";
const WAITS_INLINE: &str = "waits_from_outside_whose_wakers_poll_at_once_are_over";
const DRIVE_INLINE: &str = "a_drive_polled_inside_the_wake_of_its_host_runs_what_it_was_woken_for";
const TWO_HOSTS: &str = "what_is_queued_outside_wakes_the_hosts_of_two_drives";
const HANDS_OVER: &str = "a_drive_that_leaves_hands_a_notification_to_the_other";
const LAST_DRIVE: &str = "the_watcher_stays_until_the_last_of_two_drives_leaves";
const ITEMS: &str = "more_items_than_a_turn_runs_are_run_in_the_next";
const HOSTED_ITEMS: &str = "more_items_than_a_hosted_turn_runs_are_run_in_the_next";
const OUTSIDE_TIMER: &str = "a_timer_set_outside_a_turn_is_watched";
const OUTSIDE_DEVICE: &str = "a_descriptor_waited_for_outside_a_turn_is_watched";
const OUTSIDE_CLOCK: &str = "a_clock_moved_outside_a_turn_wakes_the_host";
const ENDS_OUTSIDE: &str = "a_context_that_ends_wakes_those_who_wait_outside_of_it";
const JOBS_IN_ORDER: &str = "jobs_of_one_thread_run_in_their_order";
const CLOCK_IN_A_TURN: &str = "a_clock_moved_by_a_task_of_a_hosted_context_ends_sleeps";
const AFTER_BLOCK_ON: &str = "hosts_that_poll_inside_their_wake_take_over_from_block_on";
const SEEN_AT_ONCE: &str = "what_is_set_outside_a_turn_is_seen_by_a_host_that_polls_at_once";
const ENDS_INLINE: &str = "the_end_of_a_context_reaches_wakers_that_poll_at_once";
const CLOCK: &str = "aio-task/src/clock.rs";

pub(super) const FAULTS: &[Fault] = &[
    // One turn.
    fault(
        "the loop sleeps without announcing it",
        CORE,
        "if self.remote.notifier.prepare_sleep() {\n            let limit",
        "if true {\n            let limit",
        &[WOKEN, MAIN, STRANDED],
    ),
    fault(
        "a turn does not look at the inbox",
        CORE,
        "pub(super) fn gather(&self) {\n        self.take_notification();",
        "pub(super) fn gather(&self) {",
        &[AFTER],
    ),
    fault(
        "a turn looks at the inbox only when it is idle",
        CORE,
        "if !self.remote.notifier.take() {\n            return;",
        "if !self.queue.is_empty() || !self.remote.notifier.take() {\n            return;",
        &["a_task_that_never_rests_keeps_no_other_thread_out"],
    ),
    fault(
        "what the inbox had is lost",
        CORE,
        "for item in self.remote.take_inbox() {\n            self.queue.push(item);",
        "for item in self.remote.take_inbox() {\n            std::mem::forget(item);",
        &[STRANDED, WOKEN, AFTER],
    ),
    fault(
        "the mark of block_on's future is not looked at",
        CORE,
        "if self.remote.take_main() {",
        "if false {",
        &[MAIN],
    ),
    fault(
        "the mark of block_on's future is looked at only with an empty inbox",
        CORE,
        "        for item in self.remote.take_inbox() {\n            self.queue.push(item);\n        }\n        if self.remote.take_main() {",
        "        let items = self.remote.take_inbox();\n        let none = items.is_empty();\n        for item in items {\n            self.queue.push(item);\n        }\n        if none && self.remote.take_main() {",
        &[
            "a_task_and_block_on_woken_together_are_both_polled",
            "litmus_a_completion_taken_among_tasks_reaches_block_on",
        ],
    ),
    fault(
        "a sleep knows no deadline",
        CORE,
        "Clock::Monotonic => self\n                    .timers\n                    .next()\n                    .map(|at| at.saturating_duration_since(self.clock.now())),",
        "Clock::Monotonic => None,",
        &["a_sleep_ends_at_its_deadline_though_nothing_else_wakes_the_context"],
    ),
    Fault {
        name: "after a sleep the inbox waits for the next turn",
        file: CORE,
        search: "        self.take_notification();\n        self.timers.fire(&self.clock);\n    }\n\n    pub(super) fn take_notification(&self) {",
        replacement: "    }\n\n    pub(super) fn take_notification(&self) {",
        killer: Killer::Equivalent {
            why: "the next turn comes at once and looks at both; the look after the sleep saves one turn",
            watched: &[WOKEN, MAIN, STRANDED, DEADLINE],
        },
    },
    // The end.
    fault(
        "the end does not wait for a wake on its way",
        CORE,
        "if self.tasks.len() <= self.polling.get() {",
        "if true {",
        &[ON_ITS_WAY, IN_FLIGHT],
    ),
    fault(
        "the end closes the inbox first",
        CORE,
        "self.closed.set(true);\n        let turning",
        "self.closed.set(true);\n        drop(self.remote.close_inbox());\n        let turning",
        &[ON_ITS_WAY],
    ),
    fault(
        "the end does not call the tasks in",
        CORE,
        "for waker in self.tasks.wakers() {\n            waker.wake();",
        "for waker in self.tasks.wakers() {\n            drop(waker);",
        &[
            "a_context_dropped_by_another_threads_last_word_is_not_kept_waiting",
            "a_context_dropped_with_a_task_that_nothing_wakes_ends",
        ],
    ),
    fault(
        "the end forgets what is queued",
        CORE,
        "while let Some(item) = self.queue.pop() {\n                drop_quietly(item);",
        "while let Some(item) = self.queue.pop() {\n                std::mem::forget(item);",
        &[UNRUN, ON_ITS_WAY, MEMORY],
    ),
    fault(
        "the end leaves the inbox open",
        CORE,
        "for item in self.remote.close_inbox() {",
        "for item in self.remote.take_inbox() {",
        &[SUBMITTED, OUTLIVES],
    ),
    fault(
        "the end sleeps without announcing it",
        CORE,
        "if self.remote.notifier.prepare_sleep() {\n                self.ask_reactor",
        "if true {\n                self.ask_reactor",
        &[ON_ITS_WAY],
    ),
    fault(
        "the end leaves the queue in the thread's table",
        QUEUE,
        "queues.borrow_mut().retain(|(key, _)| *key != id)",
        "queues.borrow_mut().retain(|(key, _)| *key == id)",
        &[AGAIN],
    ),
    // Tasks.
    fault(
        "all threads share one table of queues",
        SYNC,
        "pub(crate) use primitives::thread_local as per_thread;",
        "pub(crate) use std::thread_local as per_thread;",
        &[OWNER, BETWEEN, TWO],
    ),
    fault(
        "a task woken elsewhere is dropped there",
        QUEUE,
        "None => drop(remote.send(item)),",
        "None => drop(item),",
        &[OWNER, ON_ITS_WAY, HANDLE, IN_FLIGHT],
    ),
    fault(
        "a task that ended stays among the living",
        TASK,
        "let waker = self.tasks.wakers.borrow_mut().try_remove(self.key);\n        drop(waker);",
        "let _ = self.key;",
        &[CANCELLED, UNRUN, OUTLIVES],
    ),
    fault(
        "a panic is told as a cancel",
        TASK,
        "Some(Err(payload)) => Err(JoinError::Panicked(payload)),",
        "Some(Err(_)) => Err(JoinError::Cancelled),",
        &[PANIC],
    ),
    // Hosted.
    fault(
        "a host is registered after the sleep is announced",
        HOSTED,
        "        core.remote.notifier.set_host(self.key, cx.waker().clone());\n        // From here on a wake-up from any side reaches the host.\n        if !core.queue.is_empty()\n            || core.clock_passed_a_timer()\n            || !core.remote.notifier.prepare_sleep()\n            || watch(core).is_err()\n        {",
        "        let asleep = core.remote.notifier.prepare_sleep();\n        core.remote.notifier.set_host(self.key, cx.waker().clone());\n        if !core.queue.is_empty() || core.clock_passed_a_timer() || !asleep || watch(core).is_err() {",
        &[HOST, HOST_JOB],
    ),
    fault(
        "a host sleeps over a notification",
        HOSTED,
        "|| !core.remote.notifier.prepare_sleep()\n",
        "|| { core.remote.notifier.prepare_sleep(); false }\n",
        &[HOST, HOST_JOB],
    ),
    fault(
        "a host that leaves stays registered",
        HOSTED,
        "core.remote.notifier.remove_host(self.key);",
        "",
        &[HOST_LEAVES],
    ),
    fault(
        "block_on leaves the hosts where a notification finds them",
        CONTEXT,
        "hosts.append(&mut core.remote.notifier.take_hosts());",
        "",
        &[HOST_BLOCKS],
    ),
    fault(
        "block_on does not hand over to the hosts",
        CONTEXT,
        "host.wake();",
        "drop(host);",
        &[HOST_BLOCKS],
    ),
    fault(
        "what is queued outside a turn wakes no host",
        QUEUE,
        "if !self.turning.get() {",
        "if false {",
        &[HOST],
    ),
    fault(
        "the watcher gets no order",
        HOSTED,
        "watcher.order(until);",
        "let _ = (watcher, until);",
        &["a_timer_set_outside_a_turn_is_watched"],
    ),
    fault(
        "the watcher reports to nothing",
        HOSTED,
        "move || remote.notifier.notify())?;",
        "move || drop(remote.clone()))?;",
        &["a_timer_set_outside_a_turn_is_watched"],
    ),
    // A future that moves from one task to another.
    fault(
        "a timer keeps its first waker",
        TIMER,
        "let replaced = self.wakers.borrow_mut().insert(key, waker);\n        drop(replaced);",
        "self.wakers.borrow_mut().entry(key).or_insert(waker);",
        &[TIMER_LATER],
    ),
    fault(
        "a second poll of a timer does not bring its waker",
        TIMER,
        "        core.timers.set(key, cx.waker().clone());",
        "        if new {\n            core.timers.set(key, cx.waker().clone());\n        }",
        &[TIMER_LATER],
    ),
    fault(
        "a waiter keeps its first waker",
        WAITERS,
        "let replaced = self.wakers.borrow_mut().insert(key, waker);\n        drop(replaced);",
        "self.wakers.borrow_mut().entry(key).or_insert(waker);",
        &[DEVICE_LATER, DRIVER_LATER],
    ),
    fault(
        "a second poll of a wait for a descriptor does not bring its waker",
        READINESS,
        "                core.readiness.set(key, cx.waker().clone());\n                Poll::Pending\n            }\n            State::Done",
        "                Poll::Pending\n            }\n            State::Done",
        &[DEVICE_LATER],
    ),
    fault(
        "the run queue keeps a host's first waker",
        QUEUE,
        "Some((_, old)) => Some(mem::replace(old, waker)),",
        "Some(_) => Some(waker),",
        &[HOST_LATER],
    ),
    // A waker that polls at once.
    fault(
        "timers are woken while their list is borrowed",
        TIMER,
        "        let due = {\n            let mut wakers = self.wakers.borrow_mut();\n            let later = wakers.split_off(&(now, u64::MAX)); // no timer has this number\n            mem::replace(&mut *wakers, later)\n        };",
        "        let mut wakers = self.wakers.borrow_mut();\n        let later = wakers.split_off(&(now, u64::MAX));\n        let due = mem::replace(&mut *wakers, later);",
        &[TIMER_INLINE],
    ),
    fault(
        "one waiter is woken while the list is borrowed",
        WAITERS,
        "        let removed = self.wakers.borrow_mut().remove(&key);\n        if let Some(waker) = removed {",
        "        if let Some(waker) = self.wakers.borrow_mut().remove(&key) {",
        &[WAITS_INLINE],
    ),
    fault(
        "all waiters are woken while the list is borrowed",
        WAITERS,
        "let all = mem::take(&mut *self.wakers.borrow_mut());",
        "let mut borrowed = self.wakers.borrow_mut();\n        let all = mem::take(&mut *borrowed);",
        &[WAITS_INLINE],
    ),
    fault(
        "hosts are woken while their list is borrowed",
        QUEUE,
        "for (_, host) in self.take_hosts() {",
        "for (_, host) in self.hosts.borrow_mut().drain(..) {",
        &[DRIVE_INLINE],
    ),
    fault(
        "hosts are woken while the queue is borrowed",
        QUEUE,
        "        self.items.borrow_mut().push_back(item);\n        self.nudge();",
        "        let mut items = self.items.borrow_mut();\n        items.push_back(item);\n        self.nudge();",
        &[DRIVE_INLINE],
    ),
    // Two Drives.
    fault(
        "what is queued outside a turn wakes one host",
        QUEUE,
        "for (_, host) in self.take_hosts() {",
        "for (_, host) in self.take_hosts().into_iter().take(1) {",
        &[TWO_HOSTS],
    ),
    fault(
        "a Drive that leaves hands over to no other",
        HOSTED,
        "drop(HostsStandBy::new(core));",
        "",
        &[HANDS_OVER],
    ),
    fault(
        "a Drive that leaves takes what the other one needs",
        HOSTED,
        "        if core.drives.get() == 0 {\n            let watcher = core.watcher.take();\n            drop(watcher);\n        }\n        if core.drives.get() > 0 {\n            // We may have taken what was meant for another `Drive`: it takes over.\n            drop(HostsStandBy::new(core));\n        }",
        "        let watcher = core.watcher.take();\n        drop(watcher);",
        &[HANDS_OVER, LAST_DRIVE],
    ),
    // More than a turn runs.
    fault(
        "the loop sleeps though something is queued",
        CONTEXT,
        "if core.queue.is_empty() && !core.queue.main_is_woken() {",
        "if !core.queue.main_is_woken() {",
        &[ITEMS],
    ),
    fault(
        "the loop sleeps though its own future is woken",
        CONTEXT,
        "if core.queue.is_empty() && !core.queue.main_is_woken() {",
        "if core.queue.is_empty() {",
        &[MAIN],
    ),
    fault(
        "a Drive with something queued rests until it is woken",
        HOSTED,
        "if !core.queue.is_empty()\n            || core.clock",
        "if core.clock",
        &[HOSTED_ITEMS],
    ),
    // What changes outside a turn.
    fault(
        "a timer that is set outside a turn wakes no host",
        TIMER,
        "core.queue.nudge();",
        "",
        &[OUTSIDE_TIMER],
    ),
    fault(
        "each poll of a timer wakes the host",
        TIMER,
        "        if new {",
        "        if new || !new {",
        &[OUTSIDE_TIMER],
    ),
    fault(
        "a wait for a descriptor that begins outside a turn wakes no host",
        READINESS,
        "core.queue.nudge(); // a host must have it watched",
        "",
        &[OUTSIDE_DEVICE],
    ),
    fault(
        "a clock that is moved wakes no host",
        QUEUE,
        "fn clock_moved(&self) {\n        self.nudge();",
        "fn clock_moved(&self) {",
        &[OUTSIDE_CLOCK],
    ),
    fault(
        "a Drive that is told to stop is not woken",
        HANDLE_FILE,
        "            core.queue.nudge();\n",
        "",
        &[HOST],
    ),
    // Ends.
    fault(
        "the end forgets the timers",
        CORE,
        "        self.timers.wake_all();\n",
        "",
        &[ENDS_OUTSIDE],
    ),
    fault(
        "the end forgets who waits for descriptors",
        CORE,
        "        self.readiness.wake_all();\n",
        "",
        &[ENDS_OUTSIDE],
    ),
    fault(
        "the last driver that leaves wakes no waiter",
        CORE,
        "        if left == 0 {\n            self.core.driven_waiters",
        "        if left > 0 {\n            self.core.driven_waiters",
        &[DRIVER_LATER],
    ),
    fault(
        "each driver that leaves wakes those who wait for the last",
        CORE,
        "        if left == 0 {\n            self.core.driven_waiters",
        "        if left < 2 {\n            self.core.driven_waiters",
        &[DRIVER_LATER],
    ),
    fault(
        "a timer that is dropped keeps its waker",
        TIMER,
        "        if let (Some(key), Some(core)) = (self.key, self.handle.core.upgrade()) {\n            core.timers.remove(key);",
        "        if let (Some(key), Some(core)) = (self.key, self.handle.core.upgrade()) {\n            let _ = (key, core);",
        &[TIMER_LATER],
    ),
    fault(
        "a wait for a descriptor that is dropped keeps its waker",
        READINESS,
        "            core.readiness.remove(*key);\n",
        "",
        &[ENDS_OUTSIDE],
    ),
    fault(
        "a wait for the last driver that is dropped keeps its waker",
        "aio-task/src/context/driven.rs",
        "            core.driven_waiters.remove(key);",
        "            let _ = (key, core);",
        &[DRIVER_LATER],
    ),
    fault(
        "the watcher gets one order only",
        HOSTED,
        "        core.watcher.replace(Some(watcher));\n    }\n    if let Some(watcher) = &*core.watcher.borrow() {",
        "        core.watcher.replace(Some(watcher));\n    } else {\n        return Ok(());\n    }\n    if let Some(watcher) = &*core.watcher.borrow() {",
        &[OUTSIDE_TIMER],
    ),
    fault(
        "a turn runs all there is",
        CORE,
        "pub(super) const RUNS_PER_TURN: usize = 61;",
        "pub(super) const RUNS_PER_TURN: usize = usize::MAX;",
        &["a_task_that_never_rests_keeps_no_other_thread_out"],
    ),
    fault(
        "the run queue gives the last first",
        QUEUE,
        "self.items.borrow_mut().pop_front()",
        "self.items.borrow_mut().pop_back()",
        &[JOBS_IN_ORDER],
    ),
    fault(
        "what the inbox had is queued in another order",
        CORE,
        "for item in self.remote.take_inbox() {",
        "for item in self.remote.take_inbox().into_iter().rev() {",
        &[JOBS_IN_ORDER],
    ),
    fault(
        "a host that leaves stays in the run queue's list",
        HOSTED,
        "        core.queue.remove_host(self.key);\n",
        "",
        &[HOST_LEAVES],
    ),
    fault(
        "a due timer takes the later ones along",
        TIMER,
        "            mem::replace(&mut *wakers, later)",
        "            drop(later);\n            mem::take(&mut *wakers)",
        &[TIMER_LATER],
    ),
    fault(
        "a due timer fires the later ones",
        TIMER,
        "wakers.split_off(&(now, u64::MAX)); // no timer has this number",
        "std::collections::BTreeMap::new();",
        &[TIMER_LATER],
    ),
    fault(
        "a time limit that has passed wins over a result",
        TIMER,
        "        if let Poll::Ready(output) = this.future.poll(cx) {\n            return Poll::Ready(Ok(output));\n        }\n        this.sleep.poll(cx).map(|()| Err(TimedOut))",
        "        if this.sleep.poll(cx).is_ready() {\n            return Poll::Ready(Err(TimedOut));\n        }\n        this.future.poll(cx).map(Ok)",
        &[TIMER_LATER],
    ),
    fault(
        "a Drive that has resolved still counts as a driver",
        HOSTED,
        "        drop(driver); // last",
        "        std::mem::forget(driver); // last",
        &[DRIVE_INLINE],
    ),
    // What is done before a waker that polls at once is woken.
    fault(
        "a time limit does not bring its waker to its timer a second time",
        TIMER,
        "        this.sleep.poll(cx).map(|()| Err(TimedOut))",
        "        if this.sleep.key.is_some() && this.sleep.handle.now() < this.sleep.at.unwrap_or_else(Instant::now) {\n            return Poll::Pending;\n        }\n        this.sleep.poll(cx).map(|()| Err(TimedOut))",
        &[TIMER_LATER],
    ),
    fault(
        "a second poll of a wait for the last driver does not bring its waker",
        "aio-task/src/context/driven.rs",
        "            core.driven_waiters.set(key, cx.waker().clone());",
        "            if !core.driven_waiters.contains(key) {\n                core.driven_waiters.set(key, cx.waker().clone());\n            }",
        &[DRIVER_LATER],
    ),
    fault(
        "waits for descriptors are woken while the reactor is borrowed",
        CORE,
        "        if question(&mut **self.reactor.borrow_mut(), &mut ready).is_err() {",
        "        let mut reactor = self.reactor.borrow_mut();\n        if question(&mut **reactor, &mut ready).is_err() {",
        &[WAITS_INLINE],
    ),
    fault(
        "the end wakes timers while their list is borrowed",
        TIMER,
        "        let all = mem::take(&mut *self.wakers.borrow_mut());",
        "        let mut wakers = self.wakers.borrow_mut();\n        let all = mem::take(&mut *wakers);",
        &[ENDS_INLINE],
    ),
    Fault {
        name: "the end wakes timers once more, before the context is closed",
        file: CORE,
        search: "        self.closed.set(true);\n",
        replacement: "        self.timers.wake_all();\n        self.closed.set(true);\n",
        killer: Killer::Equivalent {
            why: "a wait that is woken early finds the context open, waits again, and is woken when the context has closed",
            watched: &[ENDS_INLINE],
        },
    },
    fault(
        "the hosts are woken while block_on still counts as a turn",
        CONTEXT,
        "        let _host = HostsStandBy::new(core);\n        let _driver = Driver::new(core);\n        let _turning = core.queue.begin_turn();",
        "        let _turning = core.queue.begin_turn();\n        let _host = HostsStandBy::new(core);\n        let _driver = Driver::new(core);",
        &[AFTER_BLOCK_ON],
    ),
    fault(
        "one host takes over from block_on",
        CONTEXT,
        "for (_, host) in self.hosts.drain(..) {",
        "for (_, host) in self.hosts.drain(..).take(1) {",
        &[AFTER_BLOCK_ON],
    ),
    fault(
        "the last driver wakes those who wait for its end before it has left",
        CORE,
        "        self.core.drivers.set(left);\n        if left == 0 {\n            self.core.driven_waiters.wake_all();\n        }",
        "        if left == 0 {\n            self.core.driven_waiters.wake_all();\n        }\n        self.core.drivers.set(left);",
        &[WAITS_INLINE],
    ),
    fault(
        "a Drive is woken before it is told to stop",
        HANDLE_FILE,
        "            core.drive_stops.set(core.drive_stops.get() + 1);\n            core.queue.nudge();",
        "            core.queue.nudge();\n            core.drive_stops.set(core.drive_stops.get() + 1);",
        &[DRIVE_INLINE],
    ),
    fault(
        "hosts are woken before the item is queued",
        QUEUE,
        "        self.items.borrow_mut().push_back(item);\n        self.nudge();",
        "        self.nudge();\n        self.items.borrow_mut().push_back(item);",
        &[DRIVE_INLINE],
    ),
    fault(
        "hosts leave the list after they were woken",
        QUEUE,
        "            for (_, host) in self.take_hosts() {\n                host.wake();\n            }",
        "            let hosts = self.hosts.borrow().clone();\n            for (_, host) in hosts {\n                host.wake();\n            }\n            self.take_hosts();",
        &[DRIVE_INLINE],
    ),
    fault(
        "the hosts are woken before the clock shows the later time",
        CLOCK,
        "        self.shared.now.set(now);\n        self.shared\n            .followers\n            .borrow_mut()\n            .retain(|follower| follower.strong_count() > 0);\n        let followers = self.shared.followers.borrow().clone();\n        for follower in followers.iter().filter_map(Weak::upgrade) {\n            follower.clock_moved();\n        }",
        "        let followers = self.shared.followers.borrow().clone();\n        for follower in followers.iter().filter_map(Weak::upgrade) {\n            follower.clock_moved();\n        }\n        self.shared.now.set(now);",
        &[CLOCK_IN_A_TURN],
    ),
    fault(
        "a clock tells its followers while their list is borrowed",
        CLOCK,
        "let followers = self.shared.followers.borrow().clone();",
        "let followers = self.shared.followers.borrow_mut();",
        &[CLOCK_IN_A_TURN],
    ),
    fault(
        "a host sleeps over a timer that its turn has made due",
        HOSTED,
        "            || core.clock_passed_a_timer()\n",
        "",
        &[CLOCK_IN_A_TURN],
    ),
    fault(
        "a timer wakes the host before it is on the list",
        TIMER,
        "        core.timers.set(key, cx.waker().clone());\n        if new {",
        "        if new {\n            core.queue.nudge();\n        }\n        core.timers.set(key, cx.waker().clone());\n        if false {",
        &[SEEN_AT_ONCE],
    ),
    fault(
        "only the first timer wakes the host",
        TIMER,
        "        if new {\n            // A host",
        "        if new && core.timers.wakers.borrow().len() == 1 {\n            // A host",
        &[SEEN_AT_ONCE],
    ),
    fault(
        "a wait for a descriptor wakes the host before it is on the list",
        READINESS,
        "                core.readiness.set(key, cx.waker().clone());\n                self.state = State::Waiting(key);\n                core.queue.nudge();",
        "                core.queue.nudge();\n                core.readiness.set(key, cx.waker().clone());\n                self.state = State::Waiting(key);",
        &[SEEN_AT_ONCE],
    ),
    fault(
        "the latest timer is taken for the next",
        TIMER,
        "            .first_key_value()\n",
        "            .last_key_value()\n",
        &[SEEN_AT_ONCE],
    ),
    fault(
        "all Drives have one key",
        HOSTED,
        "        core.drive_keys.set(key + 1);\n",
        "",
        &[TWO_HOSTS, HANDS_OVER],
    ),
    fault(
        "a Drive that leaves hands over to two others only",
        HOSTED,
        "        if core.drives.get() > 0 {\n            // We",
        "        if core.drives.get() > 1 {\n            // We",
        &[HANDS_OVER],
    ),
    fault(
        "a Drive with one item queued rests until it is woken",
        HOSTED,
        "if !core.queue.is_empty()\n            || core.clock",
        "let first = core.queue.pop();\n        let more = !core.queue.is_empty();\n        if let Some(first) = first {\n            let _turning = core.queue.begin_turn();\n            core.queue.push(first);\n        }\n        if more\n            || core.clock",
        &[HOSTED_ITEMS],
    ),
];
