//! Which file of a crate uses which, from the paths in the code: `crate::...`, `super::...` and `self::...`.
//!
//! A name that a module hands on (`pub use self::cache::Slice`) counts as the file that it comes from. A file may use its parent modules: that
//! is how a folder's file and the files in it share a type.

use crate::source::{SourceFile, files_below};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module: the names from the crate's root down.
type Module = Vec<String>;

/// The files of one crate and what they use.
#[derive(Debug)]
pub struct Imports {
    /// The file of each module.
    files: BTreeMap<Module, String>,
    /// The names that a module gets from others, with the path as it is in the code.
    names: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
    /// From which module to which.
    edges: BTreeMap<Module, BTreeSet<Module>>,
}

impl Imports {
    /// Reads the crate whose root file is in `src`.
    ///
    /// # Panics
    ///
    /// If a file cannot be read.
    pub fn of_crate(root: &Path, src: &Path) -> Self {
        let mut sources = BTreeMap::new();
        for path in files_below(src, |path| path.extension().is_some_and(|e| e == "rs")) {
            let module = module_of(path.strip_prefix(src).unwrap_or(&path));
            let is_binary = module.first().is_some_and(|first| first == "bin");
            let file = SourceFile::read(root, &path);
            if !is_binary && !file.is_test_module() {
                sources.insert(module, file);
            }
        }
        let mut imports = Self {
            files: sources
                .iter()
                .map(|(m, f)| (m.clone(), f.path.display().to_string()))
                .collect(),
            names: BTreeMap::new(),
            edges: BTreeMap::new(),
        };
        for (module, file) in &sources {
            let names = imports.names.entry(module.clone()).or_default();
            for path in paths(file.code()) {
                if let Some(name) = path.last() {
                    names.insert(name.clone(), path.clone());
                }
            }
        }
        for (module, file) in &sources {
            for path in paths(file.code()) {
                let used = imports.resolve(module, &path, 0);
                if !module.starts_with(&used) {
                    imports
                        .edges
                        .entry(module.clone())
                        .or_default()
                        .insert(used);
                }
            }
        }
        imports
    }

    /// How many files were read.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Groups of files of which each reaches each other.
    pub fn circles(&self) -> Vec<Vec<&str>> {
        let reached: BTreeMap<_, _> = self
            .files
            .keys()
            .map(|m| (m, self.reached_from(m)))
            .collect();
        let mut circles = BTreeSet::new();
        for (module, from_here) in &reached {
            let circle: Vec<&str> = from_here
                .iter()
                .filter(|other| {
                    reached
                        .get(other)
                        .is_some_and(|back| back.contains(*module))
                })
                .filter_map(|other| self.files.get(other).map(String::as_str))
                .collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    /// Pairs of files, the first of which uses the second.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let name = |module: &Module| self.files.get(module).map_or("", String::as_str);
        let all = self.edges.iter();
        all.flat_map(move |(from, to)| to.iter().map(move |to| (name(from), name(to))))
    }

    fn reached_from(&self, module: &Module) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut open = vec![module];
        while let Some(next) = open.pop() {
            for used in self.edges.get(next).into_iter().flatten() {
                if reached.insert(used.clone()) {
                    open.push(used);
                }
            }
        }
        reached
    }

    /// The module that a path in `module` leads to, through names that are handed on.
    fn resolve(&self, module: &Module, path: &[String], depth: usize) -> Module {
        let mut here: Module = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            _ => module.clone(),
        };
        let mut rest = path
            .iter()
            .skip_while(|name| matches!(name.as_str(), "crate" | "self"));
        let mut next = rest.next();
        while next.is_some_and(|name| name == "super") {
            here.pop();
            next = rest.next();
        }
        while let Some(name) = next {
            let mut inside = here.clone();
            inside.push(name.clone());
            if self.files.contains_key(&inside) {
                here = inside;
                next = rest.next();
                continue;
            }
            let handed_on = self.names.get(&here).and_then(|names| names.get(name));
            return match handed_on {
                Some(from) if depth < 8 && here != *module => self.resolve(&here, from, depth + 1),
                _ => here,
            };
        }
        here
    }
}

/// The module of a file below the folder of the crate's root file.
fn module_of(path: &Path) -> Module {
    let parts = path.with_extension("");
    let names = parts.iter().filter_map(|part| part.to_str());
    let mut module: Module = names.map(str::to_owned).collect();
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    module
}

/// All paths in the code that begin with `crate`, `self` or `super`, groups in braces taken apart.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                group(&code[at..], &[], &mut found);
            }
        }
    }
    found
}

/// One path, or the paths of a group; returns how much of the text they take.
fn group(text: &str, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if rest.starts_with('{') {
            at += 1;
            while at < text.len() && !text[at..].starts_with('}') {
                let space =
                    text[at..].len() - text[at..].trim_start_matches([' ', '\n', ',']).len();
                at += space;
                if text[at..].starts_with('}') {
                    break;
                }
                at += group(&text[at..], &path, found).max(1);
            }
            return at + 1;
        }
        let len = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        path.push(rest[..len].to_owned());
        at += len;
        if !text[at..].starts_with("::") {
            path.retain(|name| !name.is_empty());
            found.push(path);
            return at;
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_in_braces_is_as_many_paths_as_it_has_names() {
        let found =
            paths("use super::cache::{Slice, part::{A, B}};\nlet x = crate::error::E { a };");
        let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
        let wanted = [
            "crate::error::E",
            "super::cache::Slice",
            "super::cache::part::A",
            "super::cache::part::B",
        ];
        assert_eq!(found, wanted);
    }
}
