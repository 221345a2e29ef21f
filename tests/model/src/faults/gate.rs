//! What would blind the gate itself.
use super::{Fault, Killer};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "async-task's state word is invisible to loom",
        file: "tests/model/atomic-shim/src/lib.rs",
        search: "pub use loom::sync::atomic::*;",
        replacement: "pub use core::sync::atomic::*;",
        killer: Killer::Gate {
            model: "two_wakers_at_once_make_one_runnable",
            says: "state word is invisible",
        },
    },
    Fault {
        name: "the models are built without the cfg",
        file: "tests/model/src/build.rs",
        search: "pub const FLAGS: &str = \"--cfg loom\";",
        replacement: "pub const FLAGS: &str = \"\";",
        killer: Killer::Gate {
            model: "two_wakers_at_once_make_one_runnable",
            says: "built without --cfg loom",
        },
    },
    Fault {
        name: "a model is no longer in the list",
        file: "tests/model/src/models/task.rs",
        search: "    two_wakers_at_once_make_one_runnable: [13],\n",
        replacement: "",
        killer: Killer::Gate {
            model: "two_wakers_at_once_make_one_runnable",
            says: "there is no such model",
        },
    },
    Fault {
        name: "a panic in a model ends its process as a success",
        file: "tests/model/src/check.rs",
        search: "std::process::exit(101);",
        replacement: "std::process::exit(0);",
        killer: Killer::Gate {
            model: "two_wakers_at_once_make_one_runnable",
            says: "does not fail by a deadlock",
        },
    },
    Fault {
        name: "a model starts no thread",
        file: "tests/model/src/models/slot.rs",
        search: "let sender = thread::spawn(move || completer.complete(Box::new(Tracked::new(5))));",
        replacement: "let sender = thread::spawn(|| {}); completer.complete(Box::new(Tracked::new(5)));",
        killer: Killer::Gate {
            model: "a_value_delivered_while_the_receiver_looks_first_arrives",
            says: "its floor is",
        },
    },
];
