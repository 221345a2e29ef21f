//! Reading Rust sources as text, well enough for rules about which names stand where.

use std::fs;
use std::path::{Path, PathBuf};

/// One source without its comments and string literals, and without what follows `#[cfg(test)] mod tests`.
#[derive(Debug)]
pub struct SourceFile {
    /// From the root of the workspace.
    pub path: PathBuf,
    code: String,
}

impl SourceFile {
    /// Reads `path`, which lies below `root`.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn read(root: &Path, path: &Path) -> SourceFile {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        SourceFile {
            path: path.strip_prefix(root).unwrap_or(path).to_owned(),
            code: shipped_code(&text),
        }
    }

    /// A file that is compiled for unit tests only.
    pub fn is_test_module(&self) -> bool {
        self.path
            .components()
            .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
    }

    /// Lines on which `std::NAME`, `core::NAME` or `alloc::NAME` stands, alone or in a `use std::{...}`.
    pub fn names_from_std(&self, names: &[&str]) -> Vec<usize> {
        let mut lines = Vec::new();
        for krate in ["std::", "core::", "alloc::"] {
            for (at, _) in self.code.match_indices(krate) {
                let is_longer_word = self.code[..at].chars().next_back().is_some_and(in_word);
                let rest = &self.code[at + krate.len()..];
                if !is_longer_word && first_segments(rest).iter().any(|s| names.contains(s)) {
                    lines.push(self.line(at));
                }
            }
        }
        lines
    }

    /// The code without comments, strings and the unit tests at its end.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Whether `word` stands anywhere in the code by itself.
    pub fn has_word(&self, word: &str) -> bool {
        !self.lines_with(word).is_empty()
    }

    /// Lines with the keyword `unsafe`.
    pub fn unsafe_lines(&self) -> Vec<usize> {
        self.lines_with("unsafe")
    }

    /// Lines on which `word` stands by itself.
    pub fn lines_with(&self, word: &str) -> Vec<usize> {
        let found = self.code.match_indices(word).filter(|(at, _)| {
            let before = self.code[..*at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            !before.is_some_and(in_word) && !after.is_some_and(in_word)
        });
        found.map(|(at, _)| self.line(at)).collect()
    }

    /// `path:line`, for messages.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    fn line(&self, at: usize) -> usize {
        1 + self.code[..at].matches('\n').count()
    }
}

/// Every file below `folder` that `wanted` likes, in a fixed order; build and version-control folders are left out.
pub fn files_below(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str());
            if path.is_dir() {
                if !matches!(name, Some("target" | ".git")) {
                    folders.push(path);
                }
            } else if path.is_file() && name != Some(".git") && wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first path segments after `std::`: one name, or those of a group in braces.
fn first_segments(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word_at_start(rest)];
    };
    let mut depth = 0;
    let mut start = 0;
    let mut segments = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                segments.push(word_at_start(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    segments
}

fn word_at_start(text: &str) -> &str {
    let end = text.find(|c| !in_word(c)).unwrap_or(text.len());
    &text[..end]
}

/// The code that is compiled into the crate, with its lines where they were.
fn shipped_code(text: &str) -> String {
    let code = without_comments_and_strings(text);
    // By the habit of this workspace a file's unit tests are its last item.
    match code.find("#[cfg(test)]\nmod tests {") {
        Some(end) => code[..end].to_owned(),
        None => code,
    }
}

fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with('"') {
            string_len(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else {
            0
        };
        if skipped > 0 {
            code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            at += skipped;
        } else {
            let c = rest.chars().next().unwrap_or_default();
            code.push(c);
            at += c.len_utf8();
        }
    }
    code
}

/// The length of the string literal that `rest` starts with, its quotes included.
fn string_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceFile {
        SourceFile {
            path: "some.rs".into(),
            code: shipped_code(text),
        }
    }

    #[test]
    fn a_name_from_std_is_found_in_every_form_of_use() {
        let names = ["sync", "thread"];
        for text in [
            "use std::sync::Arc;",
            "use std::{io, sync::Arc};",
            "use std::{\n    collections::{HashMap, HashSet},\n    thread,\n};",
            "let x = ::core::sync::atomic::fence(o);",
            "/* a comment */ std::thread::yield_now()",
        ] {
            assert_eq!(source(text).names_from_std(&names), [1], "{text}");
        }
    }

    #[test]
    fn other_names_comments_strings_and_unit_tests_do_not_count() {
        let names = ["sync", "thread"];
        for text in [
            "use std::{io, task::{sync, thread}};",
            "use crate::sync::Arc;",
            "use nonstd::sync::Arc;",
            "// std::sync::Arc\n",
            "/// unsafe { }\nfn f() {}",
            "let s = \"std::sync and \\\"unsafe\\\"\";",
            "let c = '\"'; // std::sync \"",
            "#[cfg(test)]\nmod tests {\n    use std::sync::Arc;\n}",
            "Cache::not_unsafe_word()",
        ] {
            assert_eq!(source(text).names_from_std(&names), [0; 0], "{text}");
            assert_eq!(source(text).unsafe_lines(), [0; 0], "{text}");
        }
    }

    #[test]
    fn unsafe_is_found_with_its_line() {
        let text = "#![forbid(unsafe_code)]\nfn f() {\n    // why\n    unsafe { g() }\n}";
        assert_eq!(source(text).unsafe_lines(), [4]);
    }
}
