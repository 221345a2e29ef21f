//! Deliberate faults of the production sources. `cargo mutate` applies them one at a time to a copy, and the models named with each
//! must fail.
use std::collections::BTreeSet;

mod context;
mod edge;
mod gate;
mod pool;
mod reactor;
mod save;
mod word;
mod workers;

/// One fault: a text that is found exactly once in a file, and what it is replaced by.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What is wrong then, in one sentence.
    pub name: &'static str,
    /// From the repository's root.
    pub file: &'static str,
    /// What to replace.
    pub search: &'static str,
    /// By what.
    pub replacement: &'static str,
    /// Who must notice.
    pub killer: Killer,
}

/// Who must notice a fault.
#[derive(Clone, Copy, Debug)]
pub enum Killer {
    /// Each of these models fails at the gate's bound.
    Models(&'static [&'static str]),
    /// The gate is red and says this, although nothing but this one model is asked for.
    Gate {
        /// The model to ask for.
        model: &'static str,
        /// Part of what the gate prints.
        says: &'static str,
    },
    /// No model can: the program does the same. The models that were written to notice pass, which shows that it was tried.
    Equivalent {
        /// Why nothing changes.
        why: &'static str,
        /// The models that pass all the same.
        watched: &'static [&'static str],
    },
}

impl Fault {
    /// `source`, the text of its file, with the fault.
    pub fn applied_to(&self, source: &str) -> Result<String, String> {
        match source.matches(self.search).count() {
            1 => Ok(source.replacen(self.search, self.replacement, 1)),
            found => Err(format!("its text is {found} times in {}", self.file)),
        }
    }
}

/// A fault that models must notice.
const fn fault(
    name: &'static str,
    file: &'static str,
    search: &'static str,
    replacement: &'static str,
    models: &'static [&'static str],
) -> Fault {
    Fault {
        name,
        file,
        search,
        replacement,
        killer: Killer::Models(models),
    }
}

/// All faults.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    [
        gate::FAULTS,
        edge::FAULTS,
        reactor::FAULTS,
        word::FAULTS,
        context::FAULTS,
        pool::FAULTS,
        workers::FAULTS,
        save::FAULTS,
    ]
    .into_iter()
    .flatten()
}

/// Models that notice none of these faults, and why they are there all the same.
const WITHOUT: &[(&str, &str)] = &[];

/// What is wrong between these faults and the models there are: a model that no fault names and [`WITHOUT`] does not excuse, one that
/// it excuses for no reason, a name that is no model's.
pub fn idle_models(models: &[&str]) -> Vec<String> {
    let killers: BTreeSet<&str> = all()
        .filter_map(|fault| match fault.killer {
            Killer::Models(models) => Some(models),
            Killer::Gate { .. } | Killer::Equivalent { .. } => None,
        })
        .flatten()
        .copied()
        .collect();
    let excused = |name: &str| WITHOUT.iter().any(|(excused, _)| *excused == name);
    let idle = models
        .iter()
        .filter(|name| !killers.contains(**name) && !excused(name))
        .map(|name| format!("no fault names {name}, and `WITHOUT` does not say why"));
    let for_nothing = WITHOUT
        .iter()
        .filter(|(name, _)| killers.contains(name))
        .map(|(name, _)| format!("{name} is excused, and a fault names it"));
    let unknown = killers
        .iter()
        .copied()
        .chain(WITHOUT.iter().map(|(name, _)| *name))
        .filter(|name| !models.contains(name))
        .map(|name| format!("a fault or an excuse is for {name}, and there is no such model"));
    idle.chain(for_nothing).chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::{all, idle_models};
    use crate::{build, table};

    #[test]
    fn every_model_is_named_by_a_fault_or_excused() {
        let table = table::read(&build::folder()).unwrap();
        let models: Vec<&str> = table.keys().map(String::as_str).collect();
        assert_eq!(idle_models(&models), [""; 0]);
        assert!(!models.is_empty());
    }

    #[test]
    fn a_model_that_no_fault_names_is_red() {
        let table = table::read(&build::folder()).unwrap();
        let mut models: Vec<&str> = table.keys().map(String::as_str).collect();
        models.push("a_model_that_checks_nothing");
        assert_eq!(
            idle_models(&models),
            ["no fault names a_model_that_checks_nothing, and `WITHOUT` does not say why"]
        );
    }

    #[test]
    fn a_fault_of_a_model_that_is_gone_is_red() {
        let table = table::read(&build::folder()).unwrap();
        let gone = "two_wakers_at_once_make_one_runnable";
        let models: Vec<&str> = table.keys().map(String::as_str).collect();
        let models: Vec<&str> = models.into_iter().filter(|name| *name != gone).collect();
        assert_eq!(
            idle_models(&models),
            [format!(
                "a fault or an excuse is for {gone}, and there is no such model"
            )]
        );
    }

    #[test]
    fn every_fault_has_its_place_in_the_source_and_a_name_of_its_own() {
        let root = build::folder().join("..").join("..");
        let mut names = Vec::new();
        for fault in all() {
            let source = std::fs::read_to_string(root.join(fault.file)).unwrap();
            let broken = fault.applied_to(&source);
            let broken = broken.unwrap_or_else(|e| panic!("{}: {e}", fault.name));
            assert_ne!(broken, source, "{} changes nothing", fault.name);
            assert!(!names.contains(&fault.name), "{} twice", fault.name);
            names.push(fault.name);
        }
    }
}
